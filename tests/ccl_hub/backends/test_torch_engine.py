"""The network on single frames: what it gives, filled batches, and, where there is one, a GPU."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_models import tiny_model

from ccl_hub import CCLModel
from ccl_hub.backends import TorchEngine
from ccl_hub.backends.engine import check_finite, memory_is_enough
from ccl_hub.batch import BatchOptions, embed_batch, engines_for
from ccl_hub.embed import embed_video
from ccl_hub.errors import InputError, ModelError
from ccl_hub.network.frame_maps import FrameMaps
from ccl_hub.sampling import Sampling
from ccl_hub.transforms import to_clips

BALLS = Path(__file__).resolve().parent.parent / "examples" / "bouncing_balls.mp4"


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (11, 112, 112, 3), dtype=np.uint8)


def largest(one: torch.Tensor, other: torch.Tensor) -> float:
    """Largest difference as a share of the largest value."""
    return float((one.cpu().float() - other.cpu().float()).abs().max() / other.abs().max())


def test_vectors_and_parts_are_those_of_the_model(frames: np.ndarray) -> None:
    model = tiny_model()
    maps = TorchEngine(model)(frames)
    with torch.no_grad():
        clips = to_clips(frames[None], model.preprocessing)
        wanted = model(clips)
        images = clips[0].transpose(0, 1)  # (T,3,S,S)
        places = model.trunk(images).permute(0, 2, 3, 1).flatten(1, 2)  # (T,P,D)
    assert largest(maps.vectors, wanted.frames[0]) < 1e-5
    head = model.head
    scale = head.bn6.weight / (head.bn6.running_var + head.bn6.eps).sqrt()
    for tap in range(3):
        by_hand = places @ (head.conv6.weight[..., tap, 0] * scale[:, None]).T
        assert largest(maps.parts[:, :, tap], by_hand.detach()) < 1e-5


def test_filled_batches_give_what_was_asked_for(
    frames: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def compiled(graph: torch.nn.Module, dynamic: bool) -> object:
        assert dynamic is False

        def run(batch: torch.Tensor) -> FrameMaps:
            seen.append(len(batch))
            return graph(batch)

        return run

    monkeypatch.setattr(torch, "compile", compiled)
    model = tiny_model()
    engine, plain = TorchEngine(model, compile=True, batch_frames=4), TorchEngine(model)
    for count in (1, 4, 11):
        found, wanted = engine(frames[:count]), plain(frames[:count])
        assert largest(found.vectors, wanted.vectors) < 1e-5
        assert largest(found.parts, wanted.parts) < 1e-5
        assert len(found.vectors) == len(found.parts) == count
    assert seen == [4] * 5, "one size, so that one compiled network serves all"


@pytest.mark.slow
def test_lanes_compile_an_engine_once_and_more_engines_than_torch_allows(
    frames: np.ndarray,
) -> None:
    compiled: list[int] = []

    def backend(graph: torch.fx.GraphModule, _: object) -> object:
        compiled.append(threading.get_ident())
        time.sleep(0.1)
        return graph.forward

    inner, model = torch.compile, tiny_model()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            torch, "compile", lambda graph, dynamic: inner(graph, dynamic=dynamic, backend=backend)
        )
        # Networks on other devices are other ones, as those of other sizes are.
        engines = [TorchEngine(model, compile=True, batch_frames=4 + n) for n in range(10)]
    with ThreadPoolExecutor(4) as pool:
        for engine in engines:
            found = list(pool.map(engine, [frames[:3]] * 4))
            assert all(torch.equal(one.vectors, found[0].vectors) for one in found)
    torch._dynamo.reset()
    assert len(compiled) == len(engines)


def test_what_cannot_be_used_is_refused() -> None:
    with pytest.raises(InputError, match=r"model\.eval\(\)"):
        TorchEngine(tiny_model().train())
    model = tiny_model()
    engine = TorchEngine(model)
    model.train()
    with pytest.raises(InputError, match=r"model\.eval\(\)"):  # would change its statistics
        engine(np.zeros((1, 112, 112, 3), np.uint8))
    with pytest.raises(InputError, match=r"too little memory.*batch_size"), memory_is_enough():
        raise torch.OutOfMemoryError("CUDA out of memory.\nmore")
    check_finite(engine, np.zeros(3), np.ones((2, 2)))
    with pytest.raises(ModelError, match="NaN or infinity in float32"):
        check_finite(engine, np.zeros(3), np.array([np.inf]))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
class TestGpu:
    """On a CUDA device; skipped without one."""

    @pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 2e-3), ("bfloat16", 3e-2)])
    @pytest.mark.parametrize("compile", [False, True])
    def test_the_same_as_on_a_cpu(
        self, frames: np.ndarray, dtype: str, tolerance: float, compile: bool
    ) -> None:
        wanted = TorchEngine(CCLModel.from_pretrained("ccl_r18_mini"))(frames)
        model = CCLModel.from_pretrained("ccl_r18_mini", device="cuda", dtype=dtype)
        engine = TorchEngine(model, compile=compile, batch_frames=16)
        found = engine(frames)
        assert found.vectors.device.type == found.parts.device.type == "cuda"
        assert found.vectors.dtype == torch.float32
        assert largest(found.vectors, wanted.vectors) < tolerance
        assert largest(found.parts, wanted.parts) < tolerance

    def test_a_batch_of_videos_on_every_device(self) -> None:
        engines = engines_for("ccl_r18_mini", None, "cuda", None, "torch", BatchOptions())
        assert len(engines) == torch.cuda.device_count()
        wanted = embed_video(CCLModel.from_pretrained("ccl_r18_mini"), BALLS)
        items = list(embed_batch([BALLS] * 8, engines, Sampling(), BatchOptions()))
        assert len(items) == 8
        for item in items:
            assert item.embeddings is not None, item.reason
            assert item.embeddings.provenance.device == "cuda"
            error = np.abs(item.embeddings.clips - wanted.clips).max()
            assert error < 2e-3 * np.abs(wanted.clips).max()

    def test_too_little_memory_says_what_to_do(self) -> None:
        engine = TorchEngine(CCLModel.from_pretrained("ccl_r18_mini", device="cuda"))
        torch.cuda.set_per_process_memory_fraction(0.01)
        try:
            with pytest.raises(InputError, match="smaller batch_size"):
                engine(np.zeros((4096, 112, 112, 3), np.uint8))
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
