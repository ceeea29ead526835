"""The store: every fact that outlives a process, in one SQL database."""
