"""What Evertrain costs, beside what one would do without it, in one run."""
