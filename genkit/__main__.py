"""`python -m genkit` is the `genkit` command."""

import sys

from genkit.cli import main

if __name__ == "__main__":
    sys.exit(main())
