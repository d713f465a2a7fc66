"""The runtime's command line, as `python -m da3.runtime`."""

import sys

from .app.commands import main

if __name__ == "__main__":
    sys.exit(main())
