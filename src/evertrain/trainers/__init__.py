"""What fits models: `describe` turns a trainer into data and back, the other modules fit, save, load and predict."""
