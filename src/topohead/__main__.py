"""`python -m topohead` is the command `topohead`."""

from topohead.cli import main

main()
