"""Data that stays where it is: readers that turn a file or a query into a typed frame and say what they set aside."""
