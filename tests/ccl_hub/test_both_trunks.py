"""What holds for one trunk holds for the other: nothing above a trunk asks for its name."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from project import ROOT
from tiny_models import SHAPES, whitened_model

from ccl_hub import CCLModel
from ccl_hub.backends import make_engine
from ccl_hub.backends.export import SUFFIXES, export_model
from ccl_hub.config import Architecture
from ccl_hub.embed import embed_video
from ccl_hub.errors import InputError
from ccl_hub.network.architecture import Whitening
from ccl_hub.network.windows import WindowAssembler
from ccl_hub.publish import golden
from ccl_hub.transforms import to_clips

BALLS = ROOT / "examples" / "bouncing_balls.mp4"


@pytest.fixture(scope="module", params=list(SHAPES))
def model(request: pytest.FixtureRequest) -> CCLModel:
    return whitened_model(request.param)


@pytest.fixture(scope="module")
def folder(model: CCLModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("models") / "tiny"
    model.save_pretrained(place)
    golden.write(model, place)
    return place


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (24, 64, 64, 3), np.uint8)


def assert_close(found: torch.Tensor, wanted: torch.Tensor, share: float = 1e-4) -> None:
    scale = float(wanted.abs().max())
    assert scale > 0.1, "the comparison must not be between zeros"
    torch.testing.assert_close(found, wanted, rtol=0, atol=share * scale)


def test_a_trunk_keeps_to_its_shape(model: CCLModel) -> None:
    shape = model.config.architecture.trunk_shape
    side = 4 * shape.stride
    with torch.inference_mode():
        maps = model.trunk(torch.zeros(2, 3, side, 2 * side))
        assert maps.shape == (2, model.config.architecture.feature_dim, 4, 8)
        assert maps.min() >= 0, "conv6 takes what a ReLU gives"
        smallest = torch.zeros(1, 3, 1, model.smallest_side_px, model.smallest_side_px)
        assert model(smallest).video.shape == (1, 16)
    with pytest.raises(InputError, match=f">= {model.smallest_side_px}"):
        model(smallest[..., 1:])


def test_whitened_vectors_are_centred_and_of_like_variances() -> None:
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(16, 16, generator=generator)
    pooled = torch.randn(500, 16, generator=generator) @ mix + 3  # (500,16)
    whitening = Whitening(16)
    assert torch.equal(whitening(pooled), pooled), "the identity until it is fitted"
    whitening.fit(pooled)
    vectors = whitening(pooled)
    covariance = vectors.T @ vectors / len(vectors)
    variances = covariance.diagonal()
    assert vectors.mean(0).abs().max() < 1e-3
    assert 0.9 < variances[0] <= 1 and (variances.diff() < 1e-4).all(), "largest first"
    assert (covariance - torch.diag(variances)).abs().max() < 1e-3
    with pytest.raises(InputError, match="16 vectors cannot be whitened; give more than 16"):
        whitening.fit(pooled[:16])


def test_windows_equal_clips(model: CCLModel, frames: np.ndarray) -> None:
    indices = np.arange(9)[:, None] + np.arange(0, 8, 2)
    engine = make_engine(model, "torch")
    windows = WindowAssembler(indices, engine.clip_head)
    found = windows.add(engine(frames[windows.frames]))
    with torch.inference_mode():
        outputs = [model(to_clips(frames[row][None], model.preprocessing)) for row in indices]
    for mine, name in zip(found, ("video", "frames"), strict=True):
        wanted = torch.cat([getattr(output, name) for output in outputs])
        assert_close(torch.as_tensor(mine), wanted, 1e-5)


def test_a_saved_model_is_the_same_and_verifies(model: CCLModel, folder: Path) -> None:
    again = CCLModel.from_pretrained(folder)
    assert again.config.architecture == model.config.architecture
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    assert all(check.passed for check in golden.verify(str(folder)))


def test_an_older_configuration_is_pooled_and_hashes_as_before() -> None:
    usual = Architecture()
    assert (usual.trunk, usual.output) == ("resnet18", "pooled")
    assert not {"trunk", "output"} & usual.identity().keys()
    assert Architecture(output="whitened").identity()["output"] == "whitened"


@pytest.mark.parametrize("backend", ["onnx", "openvino"])
@pytest.mark.slow
def test_every_runtime_gives_the_numbers_of_torch(
    backend: str, model: CCLModel, frames: np.ndarray
) -> None:
    pytest.importorskip("onnxruntime" if backend == "onnx" else "openvino")
    engine, usual = make_engine(model, backend, threads=2), make_engine(model, "torch")
    for mine, wanted in zip(engine(frames), usual(frames), strict=True):
        assert_close(torch.as_tensor(mine), wanted)
    assert_close(torch.as_tensor(engine.clip_head.shift), usual.clip_head.shift)
    found, wanted = (embed_video(one, BALLS).video for one in (engine, usual))
    assert_close(torch.as_tensor(found), torch.as_tensor(wanted))


@pytest.mark.parametrize("kind", list(SUFFIXES))
@pytest.mark.slow
def test_exported_files_give_the_numbers_of_the_model(
    kind: str, model: CCLModel, tmp_path: Path
) -> None:
    path = tmp_path / f"tiny{SUFFIXES[kind]}"
    export_model(model, path, kind)
    for shape in ((1, 3, 4, 64, 64), (2, 3, 3, 96, 64)):
        clips = torch.randn(shape)
        with torch.inference_mode():
            wanted = model(clips)
        if kind == "onnx":
            onnxruntime = pytest.importorskip("onnxruntime")
            session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
            values = session.run(["frames", "video"], {"clips": clips.numpy()})
            found = dict(zip(("frames", "video"), map(torch.from_numpy, values), strict=True))
        else:
            found = torch.export.load(path).module()(clips)
        assert_close(found["frames"], wanted.frames)
        assert_close(found["video"], wanted.video)


AUTO_MODEL = """
import sys, torch
import ccl_hub.hf_transformers
from transformers import AutoModel
model = AutoModel.from_pretrained(sys.argv[1])
with torch.inference_mode():
    print(model(torch.linspace(-1, 1, 49152).reshape(1, 3, 4, 64, 64)).video.tolist())
"""


@pytest.mark.slow
def test_transformers_load_it(model: CCLModel, folder: Path) -> None:
    pytest.importorskip("transformers")
    done = subprocess.run(
        [sys.executable, "-c", AUTO_MODEL, str(folder)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    with torch.inference_mode():
        wanted = model(torch.linspace(-1, 1, 49152).reshape(1, 3, 4, 64, 64)).video.tolist()
    assert done.stdout.splitlines()[-1] == str(wanted)


def test_ray_embeds_with_it(model: CCLModel, folder: Path) -> None:
    pytest.importorskip("ray")
    from ccl_hub.ray import CCLEmbedder

    rows = CCLEmbedder(folder, clips=2)({"path": [str(BALLS)]}).to_pylist()
    assert [row["status"] for row in rows] == ["ok", "ok"], rows[0]["reason"]
    wanted = torch.from_numpy(embed_video(model, BALLS, clips=2).clips)
    assert_close(torch.tensor([row["embedding"] for row in rows]), wanted)
