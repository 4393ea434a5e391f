"""`python -m fairway`, also under torchrun."""

from fairway.cli import main

if __name__ == "__main__":
    main()
