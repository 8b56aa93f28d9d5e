"""`python -m repre.cli`, which torchrun also starts."""

import sys

from repre.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
