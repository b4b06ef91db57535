"""``python -m tfscale``."""

from __future__ import annotations

import sys

from tfscale.cli import main

if __name__ == "__main__":
    sys.exit(main())
