"""Entry point of `python -m convert`."""

import sys

from convert.app import main

if __name__ == "__main__":
    sys.exit(main())
