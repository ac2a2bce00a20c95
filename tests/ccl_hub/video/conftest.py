"""With ``CCL_TEST_CONFINED=1``, every file that these tests make is decoded confined, too."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

MOST_FILES = 20
"""Of one test; some make thousands."""


@pytest.fixture(autouse=True)
def confined_too(request: pytest.FixtureRequest) -> Iterator[None]:
    """What a file gives in a confined process is what it gives here."""
    yield
    if not os.environ.get("CCL_TEST_CONFINED") or "tmp_path" not in request.fixturenames:
        return
    from both_ways import same_both_ways

    folder = request.getfixturevalue("tmp_path")
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    for path in files[:MOST_FILES]:
        same_both_ways(path)
