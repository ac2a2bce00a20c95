"""Libraries of one video or two, which have next to nothing to compare with."""

from __future__ import annotations

from pathlib import Path

import pytest
from scenes import footage

from ccl_hub.batch import BatchOptions
from ccl_hub.errors import InputError
from ccl_hub.find import Library
from ccl_hub.job.options import JobOptions


@pytest.mark.parametrize("videos", [1, 2])
def test_a_video_is_found_where_there_are_few(videos: int, engines, tmp_path: Path) -> None:
    files = [tmp_path / f"v{number}.mp4" for number in range(videos)]
    for number, file in enumerate(files):
        footage(file, number)
    library = Library.create(tmp_path / "library", engines)
    library.add(files, batch=BatchOptions(workers=1, threads=1))
    best = library.where(files[0]).rows[0]
    assert Path(best.path) == files[0]
    assert best.end - best.start > 8
    stranger = tmp_path / "stranger.mp4"
    footage(stranger, 77)
    assert not library.where(stranger).rows


def test_two_copies_overlap(engines, tmp_path: Path) -> None:
    for name in ("one.mp4", "other.mp4"):
        footage(tmp_path / name, 3)
    library = Library.create(tmp_path / "library", engines)
    library.add([tmp_path], batch=BatchOptions(workers=1, threads=1))
    (pair,) = library.overlaps().rows
    assert {Path(pair.path).name, Path(pair.other_path).name} == {"one.mp4", "other.mp4"}


def test_a_library_is_neither_overwritten_nor_sharded(engines, tmp_path: Path) -> None:
    library = Library.create(tmp_path / "library", engines)
    with pytest.raises(InputError, match="neither overwritten nor"):
        library.add([tmp_path], options=JobOptions(overwrite=True))
