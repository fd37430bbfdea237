"""``python -m retryexec`` is the command ``retryexec``."""

import sys

from retryexec.cli import main

if __name__ == "__main__":
    sys.exit(main())
