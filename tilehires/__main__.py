"""`python -m tilehires`."""

from tilehires.cli import main

if __name__ == "__main__":
    main()
