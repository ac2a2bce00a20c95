"""Backends: torch's numbers in float32, and an int8 model that is close, whole and kept."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from batch_parts import ToldEngine, spread_faults
from media import Recipe, cut, write_video
from project import PYTHONPATH, ROOT
from tiny_models import SIDE, small_model
from typer.testing import CliRunner

from ccl_hub import CCLModel, backends
from ccl_hub.backends import BACKENDS, TORCH_BACKENDS, Engine, TorchEngine, make_engine
from ccl_hub.backends.int8_cache import Int8Model, cache_folder, find_int8
from ccl_hub.backends.quantize import LOWEST_COSINE, build_int8, calibration_clips
from ccl_hub.cli.hub_command import hub_app
from ccl_hub.config import CCLConfig
from ccl_hub.embed import embed_video
from ccl_hub.errors import ExportError, InputError, WeightsError
from ccl_hub.network.frame_graph import FrameMaps


def some_frames(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, SIDE, SIDE, 3), np.uint8)


def moving_scene(place: int, number: int, width: int, height: int) -> np.ndarray:
    """Return frame ``number`` of a scene of soft colours that drift; one for each place."""
    generator = np.random.default_rng(place)
    coarse = generator.integers(0, 256, (height // 8, width // 8, 3), np.uint8)
    scene = np.roll(coarse.repeat(8, axis=0).repeat(8, axis=1), 3 * number, axis=1)
    return np.ascontiguousarray(scene)


def assert_same(found: FrameMaps, wanted: FrameMaps) -> None:
    for one, other in zip(found, wanted, strict=True):
        assert one.shape == other.shape and one.dtype == other.dtype == torch.float32
        scale = float(other.abs().max())
        assert scale > 0.1, "the comparison must not be between zeros"
        torch.testing.assert_close(one, other, rtol=0, atol=1e-4 * scale)


@pytest.fixture(scope="module")
def model() -> CCLModel:
    return small_model()


@pytest.fixture(scope="module", params=["onnx", "openvino"])
def engine(request: pytest.FixtureRequest, model: CCLModel) -> Engine:
    for package in ("onnxruntime", "onnxscript") if request.param == "onnx" else ("openvino",):
        pytest.importorskip(package)
    return make_engine(model, request.param, threads=2)


@pytest.fixture(scope="module")
def clips_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six videos of 12 s, a damaged one and a text file."""
    folder = tmp_path_factory.mktemp("videos")
    for place in range(6):
        make = partial(moving_scene, place)
        write_video(folder, Recipe(f"{place}.mp4", "mpeg4", 96, rate=8, make=make))
    cut(folder / "0.mp4", folder / "6.mp4", 0.5)
    (folder / "7.mp4").write_text("this is no video")
    return folder


@pytest.fixture(scope="module")
def videos(clips_folder: Path) -> list[Path]:
    return sorted(clips_folder.iterdir())


@pytest.fixture(scope="module")
def built(
    model: CCLModel, videos: list[Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Int8Model, Path]:
    """An int8 model, and the cache that holds it."""
    pytest.importorskip("openvino")
    pytest.importorskip("nncf")
    cache = tmp_path_factory.mktemp("cache")
    return build_int8(model, videos, cache=cache), cache


# float32 ----------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.slow
def test_no_thread_is_bound_to_a_core() -> None:
    """Processes that bind theirs to the first cores of the machine would share these."""
    pytest.importorskip("openvino")
    seen, engine = set(), make_engine(small_model(), "openvino", threads=2)
    with ThreadPoolExecutor(2) as pool:
        running = [pool.submit(engine, some_frames(200)) for _ in range(2)]
        while not all(one.done() for one in running):
            for status in Path("/proc/self/task").glob("*/status"):
                with suppress(OSError):  # gone by now
                    seen |= set(re.findall("Cpus_allowed_list:\t(.*)", status.read_text()))
    assert len(seen) == 1, seen


def test_a_single_video_takes_every_core(engine: Engine, videos: list[Path]) -> None:
    under_way, most, lock = 0, 0, threading.Lock()

    def call(frames: np.ndarray) -> FrameMaps:
        nonlocal under_way, most
        with lock:
            under_way += 1
            most = max(most, under_way)
        time.sleep(0.05)
        maps = engine(frames)
        with lock:
            under_way -= 1
        return maps

    watched = ToldEngine(engine, lambda frames: None)
    watched.engine = call  # type: ignore[assignment]
    found = embed_video(watched, videos[1], every_seconds=0.125, batch_size=1)
    wanted = embed_video(engine.model, videos[1], every_seconds=0.125)
    assert most == 2
    for name in ("clips", "frames"):
        one, other = getattr(found, name), getattr(wanted, name)
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-4 * np.abs(other).max())


@pytest.mark.parametrize("count", [1, 2, 7, 16, 33])
def test_any_number_of_frames_gives_the_numbers_of_torch(
    engine: Engine, model: CCLModel, count: int
) -> None:
    frames = some_frames(count)
    assert_same(engine(frames), TorchEngine(model)(frames))
    assert torch.equal(engine.shift, TorchEngine(model).shift)


def test_calls_from_several_threads_do_not_mix(engine: Engine, model: CCLModel) -> None:
    batches = [some_frames(5 + n % 3, seed=n) for n in range(24)]
    wanted = [TorchEngine(model)(batch) for batch in batches]
    with ThreadPoolExecutor(4) as pool:  # more than the engine has cores
        found = list(pool.map(engine, batches))
    for one, other in zip(found, wanted, strict=True):
        assert_same(one, other)


def test_results_are_not_overwritten_by_later_calls(engine: Engine) -> None:
    first = engine(some_frames(4))
    kept = [tensor.clone() for tensor in first]
    for seed in range(1, 5):
        engine(some_frames(4, seed))
    assert all(torch.equal(one, other) for one, other in zip(first, kept, strict=True))


def test_engines_say_what_they_are(engine: Engine, model: CCLModel) -> None:
    assert engine.info.backend in ("onnx", "openvino") and engine.model is model
    assert (engine.info.device, engine.info.dtype, engine.info.detail) == ("cpu", "float32", "")
    assert make_engine(model).info.backend == "torch"


@pytest.mark.slow
def test_a_model_with_the_published_sizes() -> None:
    pytest.importorskip("openvino")
    model = CCLModel.from_pretrained("ccl_r18_mini")
    frames = np.random.default_rng(0).integers(0, 256, (3, 112, 112, 3), np.uint8)
    assert_same(make_engine(model, "openvino")(frames), TorchEngine(model)(frames))


@pytest.mark.parametrize(
    "change",
    [
        lambda maps: FrameMaps(maps.vectors, maps.parts * 1.001),
        lambda maps: FrameMaps(maps.vectors.double(), maps.parts),
        lambda maps: FrameMaps(maps.vectors[:1], maps.parts),
        lambda maps: FrameMaps(maps.vectors * torch.nan, maps.parts),
    ],
)
def test_a_runtime_with_other_numbers_is_refused(
    change: Callable[[FrameMaps], FrameMaps], model: CCLModel
) -> None:
    class Other(TorchEngine):
        def __call__(self, frames: np.ndarray) -> FrameMaps:
            return change(super().__call__(frames))

    backends.check_same(TorchEngine(model))
    with pytest.raises(ExportError, match=r"differ from torch's by .* use the backend torch"):
        backends.check_same(Other(model))


def test_bfloat16_where_the_cpu_has_it(model: CCLModel) -> None:
    openvino = pytest.importorskip("openvino")
    if "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        with pytest.raises(InputError, match="this CPU has no bfloat16"):
            make_engine(model, "openvino-bf16")
        return
    engine, frames = make_engine(model, "openvino-bf16"), some_frames(8)
    assert (engine.info.backend, engine.info.dtype) == ("openvino", "bfloat16")
    for one, other in zip(engine(frames), TorchEngine(model)(frames), strict=True):
        assert torch.cosine_similarity(one.flatten(1), other.flatten(1)).min() > 0.99


def test_bfloat16_is_refused_where_the_cpu_lacks_it() -> None:
    from ccl_hub.backends.openvino_engine import _require_bfloat16

    with pytest.raises(InputError, match=r"no bfloat16 \(it has FP32, INT8\); allowed here"):
        _require_bfloat16(["INT8", "FP32"])


# int8 -------------------------------------------------------------------------------------------


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
        for one, other in zip(found, wanted, strict=True):
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


@pytest.mark.slow
def test_a_network_that_differs_too_much_is_not_kept(
    model: CCLModel, videos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino")
    from ccl_hub.backends import quantize

    def of_another(model: CCLModel, frames: np.ndarray) -> object:
        return quantize.convert(small_model(seed=1))

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


# Errors -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("backend", "options", "message"),
    [
        ("tensorrt", {}, "backend is 'tensorrt'; allowed: torch, torch-compile, onnx, openvino"),
        ("onnx", {"threads": -1}, "threads is -1; allowed: 0"),
        ("openvino", {"threads": -1}, "threads is -1; allowed: 0"),
        ("torch", {"threads": 2}, "torch.set_num_threads"),
        ("openvino", {"calibration": ["a.mp4"]}, "only openvino-int8 needs it"),
        ("openvino-int8", {}, "there is no int8 model of"),
    ],
)
def test_bad_arguments(
    backend: str,
    options: dict[str, object],
    message: str,
    model: CCLModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CCL_CACHE", str(tmp_path))
    with pytest.raises(InputError, match=message):
        make_engine(model, backend, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("backend", BACKENDS[len(TORCH_BACKENDS) :])
def test_only_float32_models_on_the_cpu(backend: str) -> None:
    with pytest.raises(InputError, match=r"model is bfloat16 on cpu; .* takes float32"):
        make_engine(small_model().to(torch.bfloat16), backend)
    with pytest.raises(InputError, match="training mode"):
        make_engine(small_model().train(), backend)


@pytest.mark.parametrize(
    ("package", "backend", "extra"),
    [
        ("onnxruntime", "onnx", "onnx"),
        ("onnxscript", "onnx", "onnx"),
        ("openvino", "openvino", "openvino"),
        ("openvino", "openvino-int8", "openvino"),
    ],
)
def test_a_missing_package_is_named(
    package: str, backend: str, extra: str, model: CCLModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)  # what find_spec answers None for
    with pytest.raises(ExportError, match=rf"{package} is not installed; .*'ccl-hub\[{extra}\]'"):
        make_engine(model, backend)


def test_a_missing_nncf_is_named(
    model: CCLModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino")
    monkeypatch.setitem(sys.modules, "nncf", None)
    with pytest.raises(ExportError, match=r"nncf is not installed; .*'ccl-hub\[openvino\]'"):
        build_int8(model, ["a.mp4"], cache=tmp_path)


@pytest.mark.skipif(os.name == "nt", reason="sends SIGINT")
@pytest.mark.slow
def test_ctrl_c_after_engines_are_gone() -> None:
    """OpenVINO gives signals another stack, which was gone with the last of several engines."""
    pytest.importorskip("openvino")
    code = (
        "import faulthandler, gc, os, signal, time; faulthandler.enable()\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from tiny_models import small_model\n"
        "from ccl_hub.backends import make_engine\n"
        "engines = [make_engine(small_model(), 'openvino') for _ in range(2)]\n"
        "del engines[0]; gc.collect(); del engines[0]; gc.collect()\n"
        "try: os.kill(os.getpid(), signal.SIGINT); time.sleep(5)\n"
        "except KeyboardInterrupt: print('stopped')\n"
    )
    environment = {**os.environ, "PYTHONPATH": PYTHONPATH}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=environment
    )
    assert (done.returncode, done.stdout) == (0, "stopped\n"), done.stderr
