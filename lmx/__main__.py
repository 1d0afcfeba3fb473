"""`python -m lmx` is the command `lmx`, where its script is not on the path."""

from lmx.cli import main

if __name__ == "__main__":
    main()
