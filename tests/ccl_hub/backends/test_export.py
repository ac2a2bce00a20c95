"""ONNX and torch.export files: the model's numbers at any shape, or no file at all."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import av
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from project import ROOT
from tiny_models import tiny_model

from ccl_hub import CCLModel, Preprocessing
from ccl_hub.backends import export
from ccl_hub.backends.runtime import graph_of
from ccl_hub.backends.tracing import ONNX_PACKAGES
from ccl_hub.errors import ExportError, InputError, OutputError

BALLS = ROOT / "examples" / "bouncing_balls.mp4"
FORMATS = list(export.SUFFIXES)
SIZES = ((64, 64), (64, 160), (112, 96), (160, 112), (33, 47))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(projection_shared=False).save_pretrained(tmp_path_factory.mktemp("secret"))


@pytest.fixture(scope="module")
def model(folder: Path) -> CCLModel:
    return CCLModel.from_pretrained(folder)


@pytest.fixture(scope="module")
def files(model: CCLModel, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The tiny model in both formats."""
    place = tmp_path_factory.mktemp("files")
    model.train()
    for kind, suffix in export.SUFFIXES.items():
        export.export_model(model, place / f"tiny{suffix}", kind)
    assert model.training and model.video_projection is not None, "the model is not changed"
    model.eval()
    return {kind: place / f"tiny{suffix}" for kind, suffix in export.SUFFIXES.items()}


def runner(kind: str, path: Path) -> Callable[[torch.Tensor], list[torch.Tensor]]:
    """Open a file as its user would."""
    if kind == "onnx":
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        return lambda x: [torch.from_numpy(y) for y in session.run(None, {"clips": x.numpy()})]
    module = torch.export.load(path).module()
    return lambda x: [module(x)[name] for name in ("frames", "video")]


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.slow
def test_any_batch_length_and_size_give_the_numbers_of_the_model(
    kind: str, files: dict[str, Path], model: CCLModel
) -> None:
    run = runner(kind, files[kind])
    for batch, time, size in itertools.product((1, 2, 3), (1, 3, 8), SIZES):
        clips = torch.rand(batch, 3, time, *size) * 4 - 2
        with torch.inference_mode():
            frames, video_vectors = run(clips)
            wanted = model(clips)
        assert frames.dtype == video_vectors.dtype == torch.float32
        scale = float(wanted.frames.abs().max())
        assert scale > 0.1, "the comparison must not be between zeros"
        torch.testing.assert_close(frames, wanted.frames, rtol=0, atol=1e-4 * scale)
        scale = float(wanted.video.abs().max())
        torch.testing.assert_close(video_vectors, wanted.video, rtol=0, atol=1e-4 * scale)


def test_the_file_says_which_model_it_is_and_how_to_prepare_pixels(
    files: dict[str, Path], folder: Path, model: CCLModel
) -> None:
    extra = {"ccl.json": ""}
    torch.export.load(files["torch-export"], extra_files=extra)
    facts = json.loads(extra["ccl.json"])
    assert facts["preprocessing"] == json.loads(json.dumps(asdict(model.preprocessing)))
    weights = (folder / "model.safetensors").read_bytes()
    assert facts["weights_sha256"] == hashlib.sha256(weights).hexdigest()
    assert "centre crop 112 x 112" in facts["input"] and facts["name"] == folder.name

    session = onnxruntime.InferenceSession(files["onnx"], providers=["CPUExecutionProvider"])
    texts = session.get_modelmeta().custom_metadata_map
    assert {k: v for k, v in texts.items() if k != "preprocessing"} == {
        k: v for k, v in facts.items() if k != "preprocessing"
    }
    assert json.loads(texts["preprocessing"]) == facts["preprocessing"]
    (clips,) = session.get_inputs()
    assert (clips.name, clips.shape) == ("clips", ["batch", 3, "time", "height", "width"])
    shapes = {output.name: output.shape for output in session.get_outputs()}
    assert shapes == {"frames": ["batch", "time", 16], "video": ["batch", 16]}


def test_an_onnx_file_is_of_the_oldest_version_that_its_operators_allow(
    files: dict[str, Path], model: CCLModel
) -> None:
    """onnxruntime 1.17 reads IR 9 at most, and torch writes 10; opset 18 asks for IR 8."""
    whole = onnx.load(files["onnx"])
    frames = onnx.load_model_from_string(graph_of(model, "onnx")[0])
    for proto in (whole, frames):
        assert [(one.domain, one.version) for one in proto.opset_import] == [("", 18)]
        assert proto.ir_version == 8
        onnx.checker.check_model(proto, full_check=True)
        # What came later than IR 8, and older readers would pass over:
        assert not proto.functions and not any(node.overload for node in proto.graph.node)
        texts = [*proto.graph.node, *proto.graph.initializer, *proto.graph.input, proto.graph]
        assert not any(item.metadata_props for item in texts)


@pytest.mark.parametrize(
    ("pre", "words"),
    [
        (Preprocessing(), "resized to 128 x 171 (height x width)"),
        (Preprocessing(resize="short_side", crop_px=64), "a shorter side of 128"),
    ],
)
def test_every_preprocessing_has_its_words(pre: Preprocessing, words: str) -> None:
    sentence = export._input_in_words(pre, 32)
    assert words in sentence and f"centre crop {pre.crop_px} x {pre.crop_px}" in sentence


@pytest.mark.parametrize("kind", FORMATS)
def test_a_file_for_others_tells_nothing_of_this_machine(
    kind: str, files: dict[str, Path], folder: Path
) -> None:
    data = files[kind].read_bytes()
    for place in (ROOT, folder.parent, Path(torch.__file__).parent, Path.home()):
        assert os.fsencode(place) + b"/" not in data, place


def test_a_pt2_holds_no_pickle(files: dict[str, Path]) -> None:
    with zipfile.ZipFile(files["torch-export"]) as archive:
        members = {name.split("/", 1)[1]: archive.read(name) for name in archive.namelist()}
    assert members["data/sample_inputs/model.pt"] == b""
    weights = json.loads(members["data/weights/model_weights_config.json"])["config"]
    assert weights and not any(entry["use_pickle"] for entry in weights.values())
    assert json.loads(members["data/constants/model_constants_config.json"])["config"] == {}
    for name, data in members.items():
        assert not name.endswith(".pkl") and not zipfile.is_zipfile(io.BytesIO(data)), name


@pytest.mark.parametrize("kind", FORMATS)
def test_a_file_that_gives_other_numbers_is_not_written(
    kind: str, model: CCLModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace = export._program

    def changed(plain: CCLModel) -> torch.export.ExportedProgram:
        program = trace(plain)
        weight = program.state_dict["model.head.conv6.weight"]
        program.state_dict["model.head.conv6.weight"] = torch.nn.Parameter(weight * 1.001)
        return program

    monkeypatch.setattr(export, "_program", changed)
    path = tmp_path / f"x{export.SUFFIXES[kind]}"
    path.write_bytes(b"old")
    with pytest.raises(ExportError, match=r"not written: .* video differs from the model by"):
        export.export_model(model, path, kind)
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda frames, video: (frames[:, :1], video),
            r"frames is torch.float32 \(1, 1, 16\), the",
        ),
        (lambda frames, video: (frames.double(), video), r"frames is torch.float64 \(1, 2, 16\)"),
        (lambda frames, video: (frames, video * torch.nan), "video differs from the model by nan"),
        (lambda frames, video: (frames.flip(1), video), "frames differs"),
    ],
)
def test_each_difference_is_found(
    change: Callable[..., tuple[torch.Tensor, torch.Tensor]], message: str, model: CCLModel
) -> None:
    def run(clips: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return change(*model(clips)[:2])

    with pytest.raises(ExportError, match=message):
        export._compared(model, run, (1, 2, 32, 32), Path("x.onnx"))
    with torch.inference_mode():
        assert export._compared(model, lambda x: model(x)[:2], (1, 2, 32, 32), Path("x")) == 0


@pytest.mark.parametrize("package", ONNX_PACKAGES)
def test_a_missing_package_is_named_before_any_work(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)  # what find_spec answers None for
    with pytest.raises(ExportError, match=rf"which {package} is not .*'ccl-hub\[onnx\]'"):
        export.check_target(tmp_path / "x.onnx", "onnx")
    export.check_target(tmp_path / "x.pt2", "torch-export")


@pytest.mark.parametrize(
    ("name", "kind", "error", "message"),
    [
        ("x.onnx", "tflite", InputError, "format is 'tflite'; allowed: onnx, torch-export"),
        ("x.pt2", "onnx", InputError, r"must end in \.onnx"),
        ("x", "torch-export", InputError, r"must end in \.pt2"),
        ("no/x.pt2", "torch-export", OutputError, "there is no folder"),
    ],
)
def test_bad_targets_are_refused(
    name: str, kind: str, error: type[Exception], message: str, model: CCLModel, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        export.export_model(model, tmp_path / name, kind)
    assert not list(tmp_path.iterdir())


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            sys.executable,
            "-c",
            "from ccl_hub.cli.hub_command import hub_main; hub_main()",
            "export",
        ]
        + [str(argument) for argument in arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100", "HF_HUB_OFFLINE": "1"},
        timeout=300,
    )


def test_wrong_usage_of_the_command(tmp_path: Path) -> None:
    done = command("ccl_r18_mini", "--format", "tflite", "--out", tmp_path / "x.onnx")
    assert done.returncode == 2 and "'onnx', 'torch-export'" in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_command_writes_the_same_bytes_in_another_process(
    files: dict[str, Path], folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "again.pt2"
    done = command(folder, "--format", "torch-export", "--out", out, "--json")
    assert done.returncode == 0, done.stderr
    assert out.read_bytes() == files["torch-export"].read_bytes()
    facts = json.loads(done.stdout)
    assert facts["sha256"] == hashlib.sha256(out.read_bytes()).hexdigest()
    assert facts["shapes"] == len(export.SHAPES) + 1 and facts["difference"] <= 1e-4
    assert done.stderr.startswith(f"{out}: ") and len(done.stderr.splitlines()) == 1


WITHOUT_TORCH = """
import json, sys
sys.modules["torch"] = sys.modules["ccl_hub"] = None
import numpy as np, onnxruntime
from PIL import Image
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
pre = json.loads(session.get_modelmeta().custom_metadata_map["preprocessing"])
height, width, side = pre["resize_height_px"], pre["resize_width_px"], pre["crop_px"]
small = [
    np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.BILINEAR))
    for frame in np.load(sys.argv[2], allow_pickle=False)
]
top, left = (height - side) // 2, (width - side) // 2
pixels = np.stack(small)[:, top : top + side, left : left + side] / 255  # (T,side,side,3)
pixels = ((pixels - pre["mean"]) / pre["std"]).astype(np.float32)
frames, video = session.run(["frames", "video"], {"clips": pixels.transpose(3, 0, 1, 2)[None]})
np.savez(sys.argv[3], frames=frames[0], video=video[0])
"""


@pytest.mark.slow
def test_onnxruntime_alone_gives_the_vectors_of_the_package(tmp_path: Path) -> None:
    model = CCLModel.from_pretrained("ccl_r18_mini")
    exported = export.export_model(model, tmp_path / "mini.onnx", "onnx")
    assert exported.size_bytes < 50e6 and list(tmp_path.iterdir()) == [tmp_path / "mini.onnx"]
    with av.open(str(BALLS)) as container:
        some = itertools.islice(container.decode(video=0), 0, 32, 4)
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in some])
    np.save(tmp_path / "frames.npy", frames)
    paths = [str(tmp_path / name) for name in ("mini.onnx", "frames.npy", "out.npz")]
    subprocess.run([sys.executable, "-c", WITHOUT_TORCH, *paths], check=True, timeout=120)
    wanted = model.embed_frames(frames, np.arange(8) * 0.16, clips=1)
    with np.load(tmp_path / "out.npz") as found:
        assert found["frames"].shape == (8, 512)
        error = np.linalg.norm(found["video"] - wanted.video) / np.linalg.norm(wanted.video)
    # Pillow and libswscale round differently: 6e-4. Another filter: 2e-3; another crop: 4e-2.
    assert error < 1.5e-3
