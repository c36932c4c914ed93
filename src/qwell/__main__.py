"""`python -m qwell` is the command `qwell`."""

from __future__ import annotations

import sys

from qwell.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
