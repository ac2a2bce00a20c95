"""Where the project is, and its modules by name."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_SUPPORT = ROOT / "tests" / "support"
PYTHONPATH = os.pathsep.join(map(str, (ROOT, _SUPPORT, _SUPPORT / "confined")))
"""What lets another process import the project and the helpers of its tests."""


def module_of(path: Path) -> str:
    """Return the dotted name of a file of the project, such as ccl_hub.video.times."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
