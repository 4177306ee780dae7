"""The command line: one module for each group of commands, and `main.py`, which lists them."""
