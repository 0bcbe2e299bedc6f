"""`python -m headway`, and what torchrun starts: `torchrun -m headway train RECIPE`."""

from headway.cli.main import main

if __name__ == "__main__":
    main()
