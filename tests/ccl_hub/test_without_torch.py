"""One video on a CPU, from nothing: no torch, the same numbers, nothing trusted unseen."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from project import ROOT
from tiny_models import SHAPES, whitened_model

from ccl_hub import CCLModel
from ccl_hub._util import machine
from ccl_hub.backends import make, parity
from ccl_hub.backends.make import FLOAT32_RUNTIMES, make_engine, runtime_engine
from ccl_hub.backends.onnx_engine import OnnxEngine
from ccl_hub.batch import BatchOptions, embed_many, engines_for
from ccl_hub.embed import Embeddings, embed_video
from ccl_hub.errors import ExportError, InputError, WeightsError
from ccl_hub.network.frame_maps import FrameMaps
from ccl_hub.network.model_files import GOLDEN_NAME, WEIGHTS_NAME, resolve
from ccl_hub.network.stored import StoredNetwork, read_network, tensors_sha256
from ccl_hub.publish import golden

BALLS = ROOT / "examples" / "bouncing_balls.mp4"
NO_TORCH = (
    "import sys; sys.modules['torch'] = None\n"  # importing it fails from here on
    "from ccl_hub.cli.embed_command import embed_main; embed_main()"
)


@pytest.fixture(scope="module", params=list(SHAPES))
def model(request: pytest.FixtureRequest) -> CCLModel:
    return whitened_model(request.param)


@pytest.fixture(scope="module")
def folder(model: CCLModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model as it is published: in half precision, with golden values."""
    import torch

    place = tmp_path_factory.mktemp("models") / "tiny"
    model.save_pretrained(place, torch.float16)
    golden.write(CCLModel.from_pretrained(place), place)
    return place


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, for this process and those that it starts."""
    monkeypatch.setenv("CCL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def torch_calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the engines that are compared with torch itself."""
    calls: list[str] = []
    compare = parity.difference_from_torch

    def counted(engine: Any, model: Any) -> float:
        calls.append(engine.info.backend)
        return compare(engine, model)

    monkeypatch.setattr(parity, "difference_from_torch", counted)
    return calls


def embed_without_torch(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", NO_TORCH, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"},
        timeout=300,
        cwd=ROOT,
    )


def assert_close(mine: np.ndarray, wanted: np.ndarray) -> None:
    assert np.abs(wanted).max() > 0.1, "the comparison must not be between zeros"
    np.testing.assert_allclose(mine, wanted, rtol=0, atol=1e-4 * np.abs(wanted).max())


# The command -------------------------------------------------------------------------------------


def test_one_video_needs_no_torch(folder: Path, tmp_path: Path, cache: Path) -> None:
    out = tmp_path / "x.npz"
    done = embed_without_torch(BALLS, "--out", out, "--model", folder, "--device", "cpu")
    assert done.returncode == 0, done.stderr
    mine, wanted = Embeddings.load(out), embed_video(CCLModel.from_pretrained(folder), BALLS)
    for name in ("clips", "frames", "video"):
        assert_close(getattr(mine, name), getattr(wanted, name))
    facts = mine.provenance
    assert facts.backend in FLOAT32_RUNTIMES and facts.torch == "" and facts.dtype == "float32"
    assert facts.runtime.startswith(FLOAT32_RUNTIMES[facts.backend])
    assert wanted.provenance.runtime == f"torch {wanted.provenance.torch}" != "torch "


@pytest.mark.parametrize("name", ["feats", "feats.parquet"])
def test_a_folder_needs_no_torch_and_goes_on_in_torch(
    folder: Path, tmp_path: Path, cache: Path, name: str
) -> None:
    videos, out = tmp_path / "videos", tmp_path / name
    videos.mkdir()
    shutil.copy(BALLS, videos)
    words = (videos, "--out", out, "--model", folder, "--device", "cpu", "--clips", 2, "--json")
    done = embed_without_torch(*words)
    assert done.returncode == 0, done.stderr
    again = embed_without_torch(*words)
    assert json.loads(again.stdout.splitlines()[-1])["kept"] == 1, again.stderr
    state = out / ".ccl" if name == "feats" else tmp_path / "feats.parquet.ccl"
    settings = json.loads((state / "settings.json").read_text())
    assert settings["tensors_sha256"] == tensors_sha256(CCLModel.from_pretrained(folder))
    # What was begun in torch is never mixed with another runtime's vectors: torch goes on.
    (state / "settings.json").write_text(json.dumps({**settings, "backend": "torch"}))
    refused = embed_without_torch(*words)
    assert refused.returncode == 1 and "torch" in refused.stderr


def test_the_bundled_model_needs_no_torch_on_its_first_day(tmp_path: Path, cache: Path) -> None:
    """Its golden values tell what torch gives, so that not even the first run imports it."""
    out = tmp_path / "x.npy"
    words = (BALLS, "--out", out, "--model", "ccl_r18_mini", "--device", "cpu", "--clips", 1)
    done = embed_without_torch(*words)
    assert done.returncode == 0, done.stderr
    (record,) = (cache / "parity").iterdir()
    assert json.loads(record.read_text())["difference"] < 1e-5
    assert np.load(out).shape == (1, 512)


# The network -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_weights_are_read_as_torch_reads_them(tmp_path: Path, dtype: str) -> None:
    import torch

    model = whitened_model("resnet18")
    model.save_pretrained(tmp_path, getattr(torch, dtype))
    stored, loaded = read_network(resolve(tmp_path)), CCLModel.from_pretrained(tmp_path)
    assert tensors_sha256(stored) == tensors_sha256(loaded)
    assert stored.weights_sha256 == loaded.weights_sha256 and stored.name == loaded.name


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors: tensors.pop("head.bn6.num_batches_tracked"),
        lambda tensors: tensors.update(extra=tensors["head.bn6.bias"].clone()),
        lambda tensors: tensors.update({"head.bn6.bias": tensors["head.bn6.bias"][:-1].clone()}),
        lambda tensors: tensors["head.bn6.bias"].fill_(float("nan")),
        lambda tensors: tensors["projection.fc1.bias"].fill_(float("inf")),
    ],
    ids=["missing", "left over", "misshapen", "nan", "unused inf"],
)
def test_what_torch_refuses_is_refused(
    folder: Path, tmp_path: Path, cache: Path, change: Any
) -> None:
    import safetensors.torch

    broken = Path(shutil.copytree(folder, tmp_path / "broken"))
    tensors = safetensors.torch.load_file(broken / WEIGHTS_NAME)
    change(tensors)
    safetensors.torch.save_file(tensors, broken / WEIGHTS_NAME)
    with pytest.raises(WeightsError) as expected:
        CCLModel.from_pretrained(broken)
    for backend in ("auto", "onnx"):
        with pytest.raises(WeightsError) as found:
            engines_for(broken, None, "cpu", None, backend, BatchOptions())
        assert str(found.value) == str(expected.value)


def test_a_damaged_file_is_refused(folder: Path, tmp_path: Path) -> None:
    broken = Path(shutil.copytree(folder, tmp_path / "broken"))
    with (broken / WEIGHTS_NAME).open("r+b") as file:
        file.truncate(1000)
    with pytest.raises(WeightsError, match="not a valid safetensors file"):
        read_network(resolve(broken))


# Parity: compared once, and remembered -----------------------------------------------------------


@pytest.fixture
def network(folder: Path) -> StoredNetwork:
    return read_network(resolve(folder))


def the_record(cache: Path) -> Path:
    (path,) = (cache / "parity").iterdir()
    return path


def without_golden(network: StoredNetwork, folder: Path) -> StoredNetwork:
    copy = Path(shutil.copytree(network.source.weights_path.parent, folder / "copy"))
    (copy / GOLDEN_NAME).unlink()
    return read_network(resolve(copy))


def test_golden_values_spare_torch(
    network: StoredNetwork, cache: Path, torch_calls: list[str]
) -> None:
    engine = runtime_engine(network)
    assert engine is not None and not torch_calls
    assert json.loads(the_record(cache).read_text())["difference"] < 1e-5


def test_torch_is_asked_once_for_each_runtime_version(
    network: StoredNetwork,
    cache: Path,
    tmp_path: Path,
    torch_calls: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    alone = without_golden(network, tmp_path)
    for _ in range(3):
        make_engine(alone, "onnx")
    assert torch_calls == ["onnx"]
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "__version__", "99.0")
    make_engine(alone, "onnx")
    monkeypatch.setattr(parity, "_processor", lambda: "another")
    make_engine(alone, "onnx")
    monkeypatch.setattr(parity, "GRAPH_VERSION", 99)
    make_engine(alone, "onnx")
    assert len(torch_calls) == 4 and len(list((cache / "parity").iterdir())) == 4


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\xff\x00",
        b"[]",
        b'"difference"',
        b"{}",
        b'{"difference": 0.0}',
        b"[" * 100_000,
        "of another model",
        "no number",
        "another number",
    ],
)
def test_a_damaged_or_foreign_record_is_made_again(
    network: StoredNetwork, cache: Path, tmp_path: Path, torch_calls: list[str], text: bytes | str
) -> None:
    alone = without_golden(network, tmp_path)
    make_engine(alone, "onnx")
    path = the_record(cache)
    good = path.read_bytes()
    record = json.loads(good)
    changed = {
        "of another model": {**record, "weights_sha256": "0" * 64},
        "no number": {**record, "difference": "0"},
        "another number": {**record, "difference": 0.0},
    }
    path.write_bytes(json.dumps(changed[text]).encode() if isinstance(text, str) else text)
    make_engine(alone, "onnx")
    assert torch_calls == ["onnx"] * 2 and json.loads(path.read_bytes()) == record


def test_a_cache_that_cannot_be_written_is_done_without(
    network: StoredNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CCL_CACHE", str(tmp_path / "file"))
    assert runtime_engine(network) is not None


def test_without_a_home_folder_nothing_is_remembered_and_nothing_fails(
    network: StoredNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CCL_CACHE", "~no-such-user-here/cache")
    assert runtime_engine(network) is not None


def test_a_runtime_that_is_installed_and_does_not_work_is_passed_over(
    network: StoredNetwork, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "onnxruntime.py").write_text("raise ImportError('a library of the system lacks')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "onnxruntime", raising=False)
    with pytest.raises(ExportError, match=r"backend onnx does not work here \(a library of the"):
        make_engine(network, "onnx")
    engine = runtime_engine(network)
    assert engine is None or engine.info.backend != "onnx"


def test_golden_values_of_other_weights_do_not_count(
    network: StoredNetwork, cache: Path, tmp_path: Path, torch_calls: list[str]
) -> None:
    alone = without_golden(network, tmp_path)
    other = CCLModel.from_pretrained(alone.source.weights_path.parent)
    other.weights_sha256 = "0" * 64
    golden.write(other, alone.source.weights_path.parent)
    make_engine(alone, "onnx")
    assert torch_calls == ["onnx"]


def test_a_runtime_with_other_numbers_is_never_used(
    folder: Path, network: StoredNetwork, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that computes in bfloat16 where the processor can."""
    compute = OnnxEngine.__call__

    def rounded(self: OnnxEngine, frames: np.ndarray) -> FrameMaps:
        vectors, parts = compute(self, frames)
        bits = parts.view(np.uint32) & np.uint32(0xFFFF0000)
        return FrameMaps(vectors, bits.view(np.float32))

    monkeypatch.setattr(OnnxEngine, "__call__", rounded)
    monkeypatch.setattr(make, "FLOAT32_RUNTIMES", {"onnx": "onnxruntime"})
    for _ in range(2):  # found, and remembered
        with pytest.raises(ExportError, match=r"onnx \(onnxruntime .*\) gives .* that differ"):
            make_engine(network, "onnx")
        assert runtime_engine(network) is None
    assert json.loads(the_record(cache).read_text())["difference"] > 1e-4
    (engine,) = engines_for(folder, None, "cpu", None, "auto", BatchOptions())
    assert engine.info.backend == "torch"


# Which backend -----------------------------------------------------------------------------------


def test_auto_is_torch_where_there_is_no_runtime(
    folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in FLOAT32_RUNTIMES.values():
        monkeypatch.setitem(sys.modules, package, None)
    (engine,) = engines_for(folder, None, "cpu", None, "auto", BatchOptions())
    assert engine.info.backend == "torch"


def test_auto_asks_torch_where_there_may_be_a_gpu(
    folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ccl_hub.batch.run.may_have_gpu", lambda: True)
    (engine,) = engines_for(folder, None, "auto", None, "auto", BatchOptions())
    import torch

    # A driver without a GPU that torch can use, or a system that never tells: the CPU computes.
    expected = ("torch",) if torch.cuda.is_available() else tuple(FLOAT32_RUNTIMES)
    assert engine.info.backend in expected
    (engine,) = engines_for(folder, None, "cpu", "bfloat16", "auto", BatchOptions())
    assert (engine.info.backend, engine.info.dtype) == ("torch", "bfloat16")


def test_auto_for_many_videos_and_for_a_loaded_model(
    folder: Path, model: CCLModel, cache: Path
) -> None:
    for given in (folder, CCLModel.from_pretrained(folder)):
        (item,) = embed_many([BALLS], given, clips=2, device="cpu", backend="auto")
        assert item.embeddings is not None
        assert item.embeddings.provenance.backend in FLOAT32_RUNTIMES


def test_too_little_memory_is_told_from_other_errors(
    network: StoredNetwork, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Failing:
        text = "Failed to allocate memory for requested buffer of size 1"

        def run(self, *_: object) -> None:
            raise Exception(self.text)

    engine, frames = OnnxEngine(network), np.zeros((1, 64, 64, 3), np.uint8)
    monkeypatch.setattr(engine, "_session", Failing())
    with pytest.raises(MemoryError, match="requested buffer"):
        engine(frames)
    monkeypatch.setattr(Failing, "text", "another")
    with pytest.raises(Exception, match="another"):
        engine(frames)


def test_a_stored_network_is_not_for_torch(network: StoredNetwork) -> None:
    with pytest.raises(InputError, match="the backend torch needs torch"):
        make_engine(network, "torch")


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /dev")
def test_a_driver_tells_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.Path, "exists", lambda path: path == Path("/dev/kfd"))
    assert machine.may_have_gpu()
    monkeypatch.setattr(machine.Path, "exists", lambda path: False)
    assert not machine.may_have_gpu()


def test_results_do_not_depend_on_the_cores(network: StoredNetwork, cache: Path) -> None:
    one, two = (embed_video(make_engine(network, "onnx", n), BALLS, clips=3) for n in (1, 2))
    np.testing.assert_allclose(one.clips, two.clips, rtol=0, atol=1e-5 * np.abs(one.clips).max())
    assert one.provenance == two.provenance
