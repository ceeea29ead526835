"""`python -m evertrain` is the command line."""

from evertrain.cli import main

main()
