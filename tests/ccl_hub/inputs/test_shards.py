"""Which share of the videos a run takes, and who says so."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccl_hub.errors import InputError
from ccl_hub.inputs import (
    Shard,
    find_videos,
    names,
    parse_shard,
    shard_of,
)


def ids(*inputs: str | Path, **more: Any) -> list[str]:
    return [video.id for video in find_videos(inputs, **more)]


def test_shards_are_stable_over_versions() -> None:
    assert [shard_of(f"video_{n}.mp4", 8) for n in range(8)] == [5, 0, 2, 1, 0, 4, 7, 3]
    assert shard_of("caf\u00e9.mp4", 1) == 0
    for wrong in (0, -1):
        with pytest.raises(InputError, match=f"shards is {wrong}; allowed: at least 1"):
            shard_of("x", wrong)


@given(st.sets(st.text(min_size=1).filter(names._is_text)), st.integers(1, 50))
def test_shards_share_all_videos_and_each_is_in_one(ids: set[str], shards: int) -> None:
    parts = [{id for id in ids if shard_of(id, shards) == n} for n in range(shards)]
    assert set().union(*parts) == ids
    assert sum(len(part) for part in parts) == len(ids)


def test_shards_are_of_about_one_size_and_ask_nothing_but_the_id() -> None:
    videos = [f"class_{n % 7}/video_{n:05d}.mp4" for n in range(8000)]
    counts = [sum(shard_of(id, 8) == n for id in videos) for n in range(8)]
    assert max(counts) < 1.1 * min(counts) + 50
    assert [shard_of(id, 8) for id in reversed(videos)][::-1] == [shard_of(id, 8) for id in videos]


ARRAY = {"SLURM_ARRAY_TASK_ID": "5", "SLURM_ARRAY_TASK_COUNT": "4", "SLURM_ARRAY_TASK_MIN": "3"}


SRUN = {"SLURM_PROCID": "3", "SLURM_NTASKS": "6"}


ALONE = {"SLURM_PROCID": "0", "SLURM_NTASKS": "1"}


TORCHRUN = {"RANK": "1", "WORLD_SIZE": "2"}


@pytest.mark.parametrize(
    ("text", "environ", "expected"),
    [
        (None, TORCHRUN, (0, 1)),
        ("0/1", {}, (0, 1)),
        ("2/8", TORCHRUN, (2, 8)),
        ("auto", TORCHRUN, (1, 2)),
        ("auto", {**TORCHRUN, **SRUN, **ARRAY}, (1, 2)),
        ("auto", {**SRUN, **ARRAY}, (3, 6)),
        ("auto", ARRAY, (2, 4)),
        ("auto", {**ALONE, **ARRAY}, (2, 4)),  # what each task of an array is told
        ("auto", {**ARRAY, "SLURM_ARRAY_TASK_ID": "9", "SLURM_ARRAY_TASK_STEP": "2"}, (3, 4)),
        ("auto", ALONE, (0, 1)),
        ("auto", {"RANK": "1", **SRUN}, (3, 6)),
    ],
)
def test_which_shard(text: str | None, environ: dict[str, str], expected: tuple[int, int]) -> None:
    assert parse_shard(text, environ) == Shard(*expected)


@pytest.mark.parametrize(
    ("text", "environ", "expected"),
    [
        ("8/8", {}, "the shard is '8/8'; allowed: i/n with i from 0 to n - 1, such as 0/8."),
        ("0/0", {}, "the shard is '0/0'; allowed: i/n with i from 0"),
        ("-1/8", {}, "the shard is '-1/8'; allowed: i/n such as 0/8, or auto."),
        ("1", {}, "the shard is '1'; allowed: i/n"),
        ("1/2/3", {}, "the shard is '1/2/3'; allowed: i/n"),
        ("\u0661/\u0668", {}, "allowed: i/n such as 0/8, or auto."),
        ("", {}, "the shard is ''; allowed: i/n such as 0/8, or auto."),
        ("auto", {}, "shard auto: neither torchrun (RANK, WORLD_SIZE) nor Slurm"),
        ("auto", {"RANK": "x", "WORLD_SIZE": "2"}, "shard auto: RANK is 'x'; expected a number"),
        ("auto", {"RANK": "2", "WORLD_SIZE": "2"}, "RANK and WORLD_SIZE mean 2/2; allowed: i/n"),
        (
            "auto",
            {**ARRAY, "SLURM_ARRAY_TASK_ID": "9"},
            "SLURM_ARRAY_TASK_COUNT mean 6/4; allowed",
        ),
    ],
)
def test_shards_that_are_wrong(text: str, environ: dict[str, str], expected: str) -> None:
    with pytest.raises(InputError, match=re.escape(expected)):
        parse_shard(text, environ)


@pytest.mark.parametrize(("index", "count"), [(2, 2), (-1, 2), (0, 0)])
def test_shards_that_cannot_be(index: int, count: int) -> None:
    with pytest.raises(InputError, match=f"the shard is {index} of {count}; allowed"):
        Shard(index, count)
