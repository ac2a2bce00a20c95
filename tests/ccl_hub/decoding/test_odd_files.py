"""Real and odd files, decoded in confined processes: the same as here, and no call is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from watched_pool import Watched, watched

from ccl_hub.decoding import confinement
from ccl_hub.decoding.confinement import available
from ccl_hub.decoding.sandbox import level_of

pytestmark = [
    pytest.mark.shared,
    pytest.mark.slow,
    pytest.mark.skipif(level_of(available()) != "full", reason="decoding cannot be confined"),
]


def decoded(paths: list[Path], sandbox: str) -> tuple[Watched, list[tuple[str, str]]]:
    with watched(deadline=600.0, sandbox=sandbox) as one:
        return one, one.decode(paths)


def test_every_file_gives_the_same(shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused: list[str] = []
    take = confinement.Refusals.take

    def noted(self: confinement.Refusals) -> str | None:
        name = take(self)
        refused.extend([name] if name else [])
        return name

    monkeypatch.setattr(confinement.Refusals, "take", noted)
    folders = (shared_data / "odd", shared_data / "real")
    paths = [p for folder in folders for p in sorted(folder.rglob("*")) if p.is_file()]
    confined, outcomes = decoded(paths, "require")
    assert refused == []
    free, expected = decoded(paths, "off")
    assert outcomes == expected and len(outcomes) > 100
    assert confined.facts == free.facts
    for number, blocks in free.frames.items():
        for one, other in zip(confined.frames[number], blocks, strict=True):
            np.testing.assert_array_equal(one, other)
