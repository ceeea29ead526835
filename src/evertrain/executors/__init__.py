"""Executors: what places the work, in this process or in worker children, and who supervises it."""
