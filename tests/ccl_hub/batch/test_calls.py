"""Calls for many videos: their arguments, and the threads of lanes."""

from __future__ import annotations

import pytest
from embed_jobs import engines
from tiny_models import tiny_model

from ccl_hub import embed_many
from ccl_hub.backends import EngineInfo
from ccl_hub.batch import BatchOptions
from ccl_hub.batch.pipeline import lane_threads
from ccl_hub.errors import InputError


def test_one_path_is_not_taken_for_letters() -> None:
    with pytest.raises(InputError, match=r"paths is 'video\.mp4'; allowed: several"):
        embed_many("video.mp4", tiny_model())
    assert next(iter(embed_many(["no.mp4"], tiny_model()))).code == "not_found"


def test_every_core_has_work() -> None:
    (engine,) = engines()

    class Other:
        info = EngineInfo("openvino", "cpu", "float32")

    for cores in (1, 2, 16, 24, 64):
        threads = lane_threads(engine, BatchOptions(threads=cores))
        assert sum(threads) == cores and len(threads) <= 16 and max(threads) - min(threads) <= 1
        assert lane_threads(Other(), BatchOptions(threads=cores)) == [1] * cores
