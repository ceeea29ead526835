"""What changed in the data, what models answer, and how wrong they are: signals with their numbers. Pure."""
