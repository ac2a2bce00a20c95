"""The golden check passes on good numbers and fails on each kind of bad ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from tiny_models import tiny_model

from ccl_hub.config import Preprocessing
from ccl_hub.errors import ModelNotFoundError, WeightsError
from ccl_hub.network import model_files
from ccl_hub.publish import golden
from ccl_hub.registry import REGISTRY


@pytest.fixture(scope="module")
def values() -> dict[str, np.ndarray]:
    return golden.compute(tiny_model())


def test_equal_values_pass(values: dict[str, np.ndarray]) -> None:
    assert all(check.passed for check in golden.compare(values, values))


@pytest.mark.parametrize(
    ("name", "change", "failing"),
    [
        ("pattern_frames", lambda a: a * 1.01, "model, frame vectors"),
        ("pattern_video", lambda a: a + 0.1 * np.abs(a).max(), "model, video vector"),
        ("file_seconds", lambda a: a + 0.001, "decoder, frame times"),
        ("file_seconds", lambda a: a[:-1], "decoder, frame times"),
        ("file_pixels", lambda a: a + 2, "decoder, pixels"),
        ("file_clips", lambda a: a * 1.1, "video file to vectors"),
        ("file_clips", lambda a: a * np.nan, "video file to vectors"),
    ],
)
def test_each_difference_is_found(values: dict, name: str, change, failing: str) -> None:
    found = {**values, name: change(values[name])}
    assert [c.name for c in golden.compare(found, values) if not c.passed] == [failing]


def test_the_pattern_needs_no_floating_point() -> None:
    clip = golden.pattern_clip(Preprocessing())
    assert clip.shape == (1, 8, 112, 112, 3) and clip.dtype == np.uint8
    assert clip[0, 3, 5, 7].tolist() == [
        (3 * 7 + 5 * 3 * (c + 1)) % 256 ^ (2 * 5 + 7 * 3 + 40 * c) % 256 for c in range(3)
    ]


def test_verify_a_folder_and_a_damaged_one(tmp_path: Path) -> None:
    folder = tiny_model().save_pretrained(tmp_path / "model")
    with pytest.raises(ModelNotFoundError, match=r"golden\.safetensors"):
        golden.verify(str(folder))
    golden.write(tiny_model(), folder)
    assert all(check.passed for check in golden.verify(str(folder)))
    path = folder / model_files.WEIGHTS_NAME
    tensors = safetensors.numpy.load_file(path)
    tensors["head.conv6.weight"] = tensors["head.conv6.weight"] * np.float32(1.05)
    safetensors.numpy.save_file(tensors, path)
    checks = {check.name: check.passed for check in golden.verify(str(folder))}
    assert checks["model, frame vectors"] and not checks["model, video vector"]


@pytest.mark.parametrize("damage", ["cut", "other"])
def test_damaged_golden_values_are_a_clear_error(tmp_path: Path, damage: str) -> None:
    folder = tiny_model().save_pretrained(tmp_path / "model")
    path = folder / golden.GOLDEN_NAME
    if damage == "cut":
        path.write_bytes(b"junk")
    else:
        safetensors.numpy.save_file({"other": np.zeros(3)}, path)
    with pytest.raises(WeightsError, match=r"golden\.safetensors: damaged"):
        golden.verify(str(folder))


@pytest.mark.parametrize("name", [name for name, one in REGISTRY.items() if one.bundled])
def test_bundled_golden_values_record_their_versions(name: str) -> None:
    path = model_files.bundled_folder(name) / golden.GOLDEN_NAME
    with safetensors.safe_open(path, framework="numpy") as file:
        versions = file.metadata()
    assert {"ccl_hub", "torch", "decoder", "machine", "weights_sha256"} <= set(versions)


def test_the_golden_clip_ships() -> None:
    assert golden.golden_clip().stat().st_size < 100_000
