"""`python -m fedq` is `fedq`."""

from fedq.cli import main

main()
