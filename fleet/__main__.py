"""`python -m fleet`: the same as the command `fleet`."""

from fleet.entry import main

if __name__ == "__main__":
    main()
