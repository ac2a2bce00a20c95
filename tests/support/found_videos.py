"""Empty files named like videos, and what a search makes of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ccl_hub.errors import InputError
from ccl_hub.inputs import find_videos


def make(folder: Path, *files: str) -> Path:
    """Make empty files in a folder, and return it."""
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def ids(*inputs: str | Path, **more: Any) -> list[str]:
    """Return the names of the videos that are found."""
    return [video.id for video in find_videos(inputs, **more)]


def fault(*inputs: str | Path, **more: Any) -> str:
    """Return why a search fails."""
    with pytest.raises(InputError) as caught:
        list(find_videos(inputs, **more))
    return str(caught.value)
