"""The service: HTTP, live streams and the loop in one process; `run.serve` starts it, `app.create` makes the application."""
