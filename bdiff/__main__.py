"""`python -m bdiff` is the `bdiff` script."""

from bdiff.cli import main

main()
