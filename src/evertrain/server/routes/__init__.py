"""The routes of the API, one module per noun; each offers `router`."""
