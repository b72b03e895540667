"""`python -m genkit` is the `genkit` command."""

from genkit.cli import script

if __name__ == "__main__":
    script()
