"""`python -m fedq` is `fedq`."""

from fedq.cli import main

if __name__ == "__main__":
    main()
