"""``python -m mirage_cli`` is ``mirage``."""

import sys

from mirage_cli.cli import main

if __name__ == "__main__":
    sys.exit(main())
