"""Backends: the numbers of torch in float32, whatever runs the network."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from batch_parts import ToldEngine
from project import PYTHONPATH, ROOT
from tiny_models import SIDE, small_model

from ccl_hub import CCLModel, backends
from ccl_hub.backends import BACKENDS, TORCH_BACKENDS, Engine, TorchEngine, make_engine
from ccl_hub.backends.quantize import build_int8
from ccl_hub.embed import embed_video
from ccl_hub.errors import ExportError, InputError
from ccl_hub.network.frame_maps import FrameMaps


def some_frames(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, SIDE, SIDE, 3), np.uint8)


def assert_same(found: FrameMaps, wanted: FrameMaps) -> None:
    for one, other in zip(map(torch.as_tensor, found), wanted, strict=True):
        assert one.shape == other.shape and one.dtype == other.dtype == torch.float32
        scale = float(other.abs().max())
        assert scale > 0.1, "the comparison must not be between zeros"
        torch.testing.assert_close(one, other, rtol=0, atol=1e-4 * scale)


@pytest.fixture(scope="module", params=["onnx", "openvino"])
def engine(request: pytest.FixtureRequest, model: CCLModel) -> Engine:
    pytest.importorskip("onnxruntime" if request.param == "onnx" else "openvino")
    return make_engine(model, request.param, threads=2)


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


@pytest.mark.slow
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
    shift, expected = torch.as_tensor(engine.clip_head.shift), TorchEngine(model).clip_head.shift
    torch.testing.assert_close(shift, expected, rtol=1e-6, atol=1e-6)


def test_calls_from_several_threads_do_not_mix(engine: Engine, model: CCLModel) -> None:
    batches = [some_frames(5 + n % 3, seed=n) for n in range(24)]
    wanted = [TorchEngine(model)(batch) for batch in batches]
    with ThreadPoolExecutor(4) as pool:  # more than the engine has cores
        found = list(pool.map(engine, batches))
    for one, other in zip(found, wanted, strict=True):
        assert_same(one, other)


def test_results_are_not_overwritten_by_later_calls(engine: Engine) -> None:
    first = engine(some_frames(4))
    kept = [array.copy() for array in first]
    for seed in range(1, 5):
        engine(some_frames(4, seed))
    assert all(np.array_equal(one, other) for one, other in zip(first, kept, strict=True))


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


@pytest.mark.slow
def test_bfloat16_where_the_cpu_has_it(model: CCLModel) -> None:
    openvino = pytest.importorskip("openvino")
    if "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        with pytest.raises(InputError, match="this CPU has no bfloat16"):
            make_engine(model, "openvino-bf16")
        return
    engine, frames = make_engine(model, "openvino-bf16"), some_frames(8)
    assert (engine.info.backend, engine.info.dtype) == ("openvino", "bfloat16")
    for one, other in zip(engine(frames), TorchEngine(model)(frames), strict=True):
        one = torch.as_tensor(one)
        assert torch.cosine_similarity(one.flatten(1), other.flatten(1)).min() > 0.99


def test_bfloat16_is_refused_where_the_cpu_lacks_it() -> None:
    from ccl_hub.backends.openvino_engine import _require_bfloat16

    with pytest.raises(InputError, match=r"no bfloat16 \(it has FP32, INT8\); allowed here"):
        _require_bfloat16(["INT8", "FP32"])


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
