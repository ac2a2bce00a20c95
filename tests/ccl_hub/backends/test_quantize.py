"""The int8 model: close to float32, whole, kept with its hash, and made the same every time."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from batch_parts import spread_faults
from project import PYTHONPATH
from tiny_models import SIDE, small_model
from typer.testing import CliRunner

from ccl_hub import CCLModel
from ccl_hub.backends import TorchEngine, make_engine
from ccl_hub.backends.int8_cache import Int8Model, cache_folder, find_int8
from ccl_hub.backends.quantize import LOWEST_COSINE, build_int8, calibration_clips
from ccl_hub.cli.hub_command import hub_app
from ccl_hub.config import CCLConfig
from ccl_hub.errors import ExportError, InputError, WeightsError


def some_frames(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, SIDE, SIDE, 3), np.uint8)


@pytest.fixture(scope="module")
def built(
    model: CCLModel, videos: list[Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Int8Model, Path]:
    """An int8 model, and the cache that holds it."""
    pytest.importorskip("openvino")
    pytest.importorskip("nncf")
    cache = tmp_path_factory.mktemp("cache")
    return build_int8(model, videos, cache=cache), cache


def test_int8_is_close_to_float32_on_frames_it_has_not_seen(
    built: tuple[Int8Model, Path], model: CCLModel, videos: list[Path]
) -> None:
    engine = make_engine(model, "openvino-int8", threads=2, calibration=built[0])
    assert engine.info.backend == "openvino-int8" and engine.info.dtype == "int8"
    assert engine.info.detail == built[0].sha256[:12]
    frames = calibration_clips(videos[3:5], model.preprocessing, clips=30).reshape(
        -1, SIDE, SIDE, 3
    )
    differs = False
    for batch in (frames[:7], frames[7:40]):
        found, wanted = engine(batch), TorchEngine(model)(batch)
        for one, other in zip(map(torch.as_tensor, found), wanted, strict=True):
            assert one.shape == other.shape and one.dtype == torch.float32
            cosines = torch.cosine_similarity(one.flatten(1), other.flatten(1))
            assert cosines.min() >= LOWEST_COSINE
            differs |= not torch.allclose(one, other, rtol=0, atol=1e-4)
    assert differs, "float32 itself must not pass for int8"


def test_int8_is_kept_with_its_hash_and_how_it_was_made(
    built: tuple[Int8Model, Path], model: CCLModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, cache = built
    facts = json.loads((found.path.parent / "int8.json").read_text())
    assert facts["sha256"] == found.sha256 == found.path.stem
    assert facts["config_fingerprint"] == model.config.fingerprint()
    assert min(facts["frame_cosine"], facts["clip_cosine"]) >= LOWEST_COSINE
    assert facts["calibration_frames"] > facts["compared_frames"] >= 16
    assert set(facts["versions"]) == {"ccl-hub", "torch", "openvino", "nncf"}
    assert str(Path.home()).encode() not in found.read()[0]

    assert find_int8(model, cache) == found
    assert build_int8(model, ["no such video"], cache=cache) == found, "built once"
    assert find_int8(small_model(seed=1), cache) is None, "found by its weights"
    monkeypatch.setenv("CCL_CACHE", str(cache))
    assert make_engine(model, "openvino-int8").info.detail == found.sha256[:12]
    with pytest.raises(InputError, match="whose weights or preprocessing"):
        make_engine(small_model(seed=1), "openvino-int8", calibration=found)


def test_the_taps_of_conv6_stay_in_float32(built: tuple[Int8Model, Path]) -> None:
    import openvino

    nodes = openvino.Core().read_model(*built[0].read()).get_ordered_ops()
    (taps,) = [node for node in nodes if node.get_type_name() == "MatMul"]
    weights = taps.input_value(1).get_node()
    while weights.get_type_name() != "Constant":
        weights = weights.input_value(0).get_node()
    assert weights.get_element_type() == openvino.Type.f32
    assert sum(node.get_type_name() == "FakeQuantize" for node in nodes) > 5, "the rest is int8"


def test_a_changed_model_does_not_get_the_int8_model_of_the_old_one(
    built: tuple[Int8Model, Path],
) -> None:
    model = small_model()
    assert find_int8(model, built[1]) is not None
    with torch.no_grad():
        model.head.conv6.weight[0, 0] += 1
    assert find_int8(model, built[1]) is None


@pytest.mark.parametrize("suffix", [".xml", ".bin"])
@pytest.mark.slow
def test_a_damaged_network_is_refused_and_can_be_built_again(
    suffix: str, built: tuple[Int8Model, Path], model: CCLModel, videos: list[Path]
) -> None:
    found, cache = built
    path = found.path.with_suffix(suffix)
    whole = path.read_bytes()
    try:
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        for use in (lambda: find_int8(model, cache), lambda: build_int8(model, [], cache=cache)):
            with pytest.raises(WeightsError, match=r"sha256 .* is damaged: .*--force"):
                use()
        path.unlink()
        with pytest.raises(WeightsError, match=r"cannot be read .*--force"):
            find_int8(model, cache)
        again = build_int8(model, videos, cache=cache, force=True)
        assert find_int8(model, cache) == again
        assert again.sha256 == found.sha256, "the same frames and versions give the same bytes"
    finally:
        path.write_bytes(whole)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda facts: "{", "not a record"),
        (lambda facts: "[1]", "not a record"),
        (lambda facts: "7", "not a record"),
        (lambda facts: json.dumps({**facts, "more": 1}), "not a record.*unknown key 'more'"),
        (lambda facts: json.dumps({**facts, "tensors_sha256": "0" * 64}), "of another model"),
        (lambda facts: json.dumps({**facts, "sha256": "../../x"}), "of another model"),
    ],
)
def test_a_damaged_record_is_refused(
    change: Callable[[dict[str, object]], str],
    message: str,
    built: tuple[Int8Model, Path],
    model: CCLModel,
) -> None:
    found, cache = built
    record = found.path.parent / "int8.json"
    text = record.read_text()
    try:
        record.write_text(change(json.loads(text)))
        with pytest.raises(WeightsError, match=message):
            find_int8(model, cache)
    finally:
        record.write_text(text)


@pytest.mark.slow
def test_the_command_says_whether_it_made_one(
    built: tuple[Int8Model, Path],
    model: CCLModel,
    clips_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found, cache = built
    monkeypatch.setenv("CCL_CACHE", str(shutil.copytree(cache, tmp_path / "cache")))
    folder = model.save_pretrained(tmp_path / "model")
    words = ["quantize", str(folder), str(clips_folder), "--json"]
    kept = CliRunner().invoke(hub_app, words)
    assert kept.exit_code == 0, kept.output
    facts = json.loads(kept.stdout)
    assert facts["made"] is False and facts["sha256"] == found.sha256
    assert "there already" in kept.stderr and "--force" in kept.stderr
    made = CliRunner().invoke(hub_app, [*words, "--force"])
    assert made.exit_code == 0, made.output
    assert json.loads(made.stdout)["made"] is True and "there already" not in made.stderr


BUILD = """
import logging, sys
from pathlib import Path
from ccl_hub.backends import quantize
from tiny_models import small_model
logging.basicConfig(level=logging.INFO, stream=sys.stderr)
clips = int(sys.argv[3])
calibration = quantize.calibration_clips
quantize.calibration_clips = lambda videos, pre: calibration(videos, pre, clips)
videos = sorted(Path(sys.argv[1]).iterdir())
built = quantize.build_int8(small_model(), videos, cache=sys.argv[2])
assert "openvino_telemetry" not in sys.modules, "nothing is reported to anyone"
assert logging.getLoggerClass() is logging.Logger
sys.stderr.write("built " + built.sha256)
"""


@pytest.mark.slow
def test_two_processes_that_build_at_once_leave_a_whole_model(
    clips_folder: Path, model: CCLModel, tmp_path: Path
) -> None:
    pytest.importorskip("openvino")
    pytest.importorskip("nncf")
    home = tmp_path / "home"
    home.mkdir()
    running = [
        subprocess.Popen(
            [sys.executable, "-c", BUILD, clips_folder, tmp_path / "cache", clips],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": PYTHONPATH, "HOME": str(home)},
        )
        for clips in ("20", "30")
    ]
    built = []
    for process in running:
        out, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
        assert out == "", "stdout is for data"
        assert "left out of calibration" in errors and "lowest cosine" in errors
        built.append(errors.rpartition("built ")[2])
    assert built[0] != built[1], "other frames, another network"
    found = find_int8(model, tmp_path / "cache")
    assert found is not None and found.sha256 in built and found.read()
    assert not list(home.iterdir()), "OpenVINO's telemetry writes there"


def test_a_network_that_differs_too_much_is_not_kept(
    model: CCLModel, videos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino")
    from ccl_hub.backends import quantize

    def of_another(model: CCLModel, frames: np.ndarray) -> object:
        graph, _ = quantize.graph_of(small_model(seed=1), "openvino-int8")
        return quantize.openvino_core().read_model(graph)

    monkeypatch.setattr(quantize, "_quantised", of_another)
    with pytest.raises(ExportError, match=r"a frame vector has a cosine of -?0\.\d+ to"):
        build_int8(model, videos, cache=tmp_path)
    assert not list(tmp_path.rglob("*.json")) and find_int8(model, tmp_path) is None


def test_calibration_is_spread_over_the_videos_and_the_same_every_time(
    videos: list[Path], model: CCLModel, caplog: pytest.LogCaptureFixture
) -> None:
    pre = model.preprocessing
    with caplog.at_level(logging.WARNING, "ccl_hub.backends.quantize"):
        clips = calibration_clips(videos, pre, clips=32)
    assert clips.shape[1:] == (4, SIDE, SIDE, 3) and clips.dtype == np.uint8
    assert "7.mp4" in caplog.text and len(clips) >= 4 * 6
    assert np.array_equal(clips, calibration_clips(videos, pre, clips=32))
    assert len(np.unique(clips.reshape(len(clips), -1), axis=0)) > 20
    per_video = calibration_clips(videos * 20, pre, clips=32)
    assert len(per_video) <= 32, "one each when there are more videos than clips"
    with pytest.raises(InputError, match=r"calibration has 4 clips of 4 frames from 1 videos"):
        calibration_clips(videos[:1], pre, clips=4)
    with pytest.raises(InputError, match=r"has 0 clips of 4 frames from 0 videos; allowed: 16"):
        calibration_clips([], pre)


def test_a_video_that_crashes_the_decoder_is_left_out_of_calibration(
    videos: list[Path],
    model: CCLModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    spread_faults(tmp_path, monkeypatch)
    bad = tmp_path / "abort-open-x.mp4"
    bad.write_bytes(videos[1].read_bytes())
    with caplog.at_level(logging.WARNING, "ccl_hub.backends.quantize"):
        clips = calibration_clips([*videos[1:5], bad], model.preprocessing, clips=32)
    assert len(clips) >= 16 and "abort-open-x.mp4: left out of calibration" in caplog.text


def test_an_int8_model_of_another_preprocessing_is_refused(
    built: tuple[Int8Model, Path], model: CCLModel
) -> None:
    pre = replace(model.preprocessing, mean=(0.0,) * 3, std=(1.0,) * 3)
    other = CCLModel(CCLConfig(model.config.architecture, pre)).eval()
    other.load_state_dict(model.state_dict())
    with pytest.raises(InputError, match="weights or preprocessing"):
        make_engine(other, "openvino-int8", calibration=built[0])


def test_one_path_is_not_taken_for_letters(model: CCLModel) -> None:
    with pytest.raises(InputError, match=r"videos is 'a\.mp4'; allowed: a list"):
        calibration_clips("a.mp4", model.preprocessing)
    with pytest.raises(InputError, match="load it first"):
        make_engine("ccl_r18_mini")  # type: ignore[arg-type]


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("CCL_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folder() == tmp_path / ".cache" / "ccl_hub"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_folder() == tmp_path / ".cache" / "ccl_hub"
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert cache_folder() == Path("/x/ccl_hub")
    monkeypatch.setenv("CCL_CACHE", "~/mine")
    assert cache_folder() == tmp_path / "mine"
