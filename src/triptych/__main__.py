"""``python -m triptych``: the command line, for starters such as torchrun that take a module."""

from triptych.cli import main

main()
