"""``python -m tools.campaign STAGE ...``: see :mod:`tools.campaign.stages`."""

from __future__ import annotations

import sys

from .stages import main

if __name__ == "__main__":
    sys.exit(main())
