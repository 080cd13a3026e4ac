"""``python -m dnnsplit``: the command line."""

import sys

from dnnsplit.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
