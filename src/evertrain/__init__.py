"""Evertrain keeps machine-learning models fresh."""

__version__ = "0.1.0"
