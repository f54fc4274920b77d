"""`python -m bdiff` is the `bdiff` script."""

from bdiff.cli.main import main

main()
