"""Where the network runs: frames in, what windows need of each frame out.

Nothing before conv6 looks across time, so every frame goes through the network once, whatever the
number of clips it is part of (see :mod:`ccl_hub.network.windows`). What a clip needs of a frame is
the
feature map under each of conv6's three taps:

    frames (n,S,S,3) uint8 -> trunk -+-> spatial mean -> vectors (n,D)
                                     +-> three taps   -> parts   (n,P,3,D)

:class:`FrameGraph` is that computation. Every backend runs this one graph: torch itself here,
ONNX Runtime and OpenVINO in modules of their own.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import InputError, ModelError

if TYPE_CHECKING:
    from ..model import CCLModel

__all__ = [
    "Engine",
    "EngineInfo",
    "FrameGraph",
    "FrameMaps",
    "TorchEngine",
    "check_finite",
    "memory_is_enough",
]

GRAPH_VERSION = 1
"""Of :class:`FrameGraph`; another number makes networks that are kept on disk anew."""

CPU_BATCH_FRAMES = 16
"""Frames computed at once on a CPU core: more fall out of its cache (62 against 45 frames/s)."""

GPU_BATCH_FRAMES = 512

MOST_COMPILED = 64
"""Networks that torch may compile in one process; its own limit is 8, and then it does without."""
_compiling = threading.Lock()


class FrameMaps(NamedTuple):
    """What the network gives for n frames, on the engine's device.

    ``vectors``: (n, D) float32, the frame features (spatial mean of res5).
    ``parts``: (n, P, 3, D), res5's P places under conv6's taps for the frame after, the frame
    itself and the frame before, times BatchNorm's scale; float32 or the engine's dtype.
    """

    vectors: Tensor
    parts: Tensor


@dataclass(frozen=True)
class EngineInfo:
    """What of an engine decides the numbers, for provenance.

    Args:
        backend: One of :data:`ccl_hub.backends.BACKENDS`.
        device: Kind of device: "cpu", "cuda" or "mps".
        dtype: Type in which it computes, such as "float32".
        detail: Hash of a quantised model, or "".
    """

    backend: str
    device: str
    dtype: str
    detail: str = ""


class Engine(Protocol):
    """Runs :class:`FrameGraph` somewhere; calls may come from several threads at once."""

    @property
    def model(self) -> CCLModel:
        """The model that is run: its preprocessing, name and hash."""
        ...

    @property
    def info(self) -> EngineInfo:
        """What decides the numbers."""
        ...

    @property
    def batch_frames(self) -> int:
        """Frames at once that suit the device."""
        ...

    @property
    def calls_at_once(self) -> int:
        """Calls that are computed side by side, each on a core of its own."""
        ...

    @property
    def shift(self) -> Tensor:
        """(D,) float32 BatchNorm shift of conv6, on the device of the parts."""
        ...

    def __call__(self, frames: np.ndarray) -> FrameMaps:
        """Compute (n, S, S, 3) uint8 RGB frames, S = ``preprocessing.crop_px``.

        Raises:
            InputError: The device has too little memory for so many frames.
        """
        ...


class FrameGraph(nn.Module):
    """The network on single frames, with conv6 split into its taps and BatchNorm folded in.

    In float32 until the trunk, as :func:`ccl_hub.transforms.to_clips` does.

    Args:
        model: Shares its trunk; in eval mode.
    """

    taps: Tensor
    shift: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, model: CCLModel) -> None:
        super().__init__()
        pre, head = model.preprocessing, model.head
        self.trunk = model.trunk
        scale, shift = folded_norm(head.bn6)
        taps = head.conv6.weight.detach()[..., 0].float() * scale[:, None, None]  # (D,D_in,3)
        # Tap k of a window's frame t reads frame t + k - 1: the frame is "before" for tap 0.
        self.register_buffer("taps", taps.permute(2, 0, 1).reshape(-1, taps.shape[1]))  # (3D,D_in)
        self.register_buffer("shift", shift)
        self.register_buffer("mean", torch.tensor(pre.mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(pre.std).view(3, 1, 1))
        self.to(model.device)
        self.dtype = model.dtype
        self.taps = self.taps.to(self.dtype)

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """(n,S,S,3) uint8 -> vectors (n,D) float32, parts (n,P,3,D)."""
        images = frames.permute(0, 3, 1, 2).float()  # (n,3,S,S), channels_last in memory
        images = (images / 255 - self.mean) / self.std
        maps = self.trunk(images.to(self.dtype))  # (n,D,h,w)
        vectors = maps.mean((2, 3), dtype=torch.float32)  # (n,D)
        places = maps.permute(0, 2, 3, 1).flatten(1, 2)  # (n,P,D)
        parts = places @ self.taps.t()  # (n,P,3D)
        return vectors, parts.unflatten(2, (3, -1))  # (n,P,3,D)


def folded_norm(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Return BatchNorm in eval mode as (D,) float32 scale and shift."""
    mean, variance = norm.running_mean, norm.running_var
    if mean is None or variance is None:
        raise ModelError("the BatchNorm after conv6 keeps no statistics; load other weights.")
    scale = norm.weight.detach().float() / (variance.float() + norm.eps).sqrt()
    return scale, norm.bias.detach().float() - mean.float() * scale


class TorchEngine:
    """The network in torch, on the device and in the dtype of the model.

    Args:
        model: In eval mode; not changed. Make another engine if you change it.
        compile: Fuse the network by ``torch.compile``, which takes a minute on the first call and
            pays on a GPU. What comes is then cut and filled up to batches of
            :attr:`batch_frames`, so that one compiled network serves all.
        batch_frames: Frames at once; None for what suits the device.

    Raises:
        InputError: The model is in training mode.

    Example:
        >>> from ccl_hub import CCLModel
        >>> engine = TorchEngine(CCLModel().eval())
        >>> maps = engine(np.zeros((2, 112, 112, 3), np.uint8))
        >>> maps.vectors.shape, maps.parts.shape
        (torch.Size([2, 512]), torch.Size([2, 49, 3, 512]))
    """

    calls_at_once = 1  # each takes every thread of torch

    def __init__(
        self, model: CCLModel, compile: bool = False, batch_frames: int | None = None
    ) -> None:
        self.model = model
        self._check_mode()
        graph = FrameGraph(model).eval()
        self.shift = graph.shift
        dtype = str(model.dtype).removeprefix("torch.")
        backend = "torch-compile" if compile else "torch"
        self.info = EngineInfo(backend, model.device.type, dtype)
        suits = CPU_BATCH_FRAMES if model.device.type == "cpu" else GPU_BATCH_FRAMES
        self.batch_frames = batch_frames or suits
        self._compiles, self._compiled = compile, False
        self._graph = torch.compile(graph, dynamic=False) if compile else graph

    def __call__(self, frames: np.ndarray) -> FrameMaps:
        """Compute frames; see :class:`Engine`."""
        self._check_mode()
        with memory_is_enough(), torch.inference_mode():
            return self.run(self._fetched(frames))

    def run(self, frames: Tensor) -> FrameMaps:
        """Compute (n,S,S,3) uint8 frames that are on the device already."""
        if not self._compiles:
            return FrameMaps(*self._graph(frames))
        found = []
        for some in torch.split(frames, self.batch_frames):
            if missing := self.batch_frames - len(some):
                filled = torch.cat([some, some[-1:].expand(missing, *some.shape[1:])])
                found.append(FrameMaps(*(t[: len(some)] for t in self._run_compiled(filled))))
            else:
                found.append(FrameMaps(*self._run_compiled(some)))
        if len(found) == 1:
            return found[0]
        return FrameMaps(*map(torch.cat, zip(*found, strict=True)))

    def _run_compiled(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Run the compiled network; of several threads one compiles it, and the others wait."""
        if self._compiled:
            return self._graph(frames)  # type: ignore[no-any-return]
        limit = max(MOST_COMPILED, torch._dynamo.config.recompile_limit)
        with _compiling, torch._dynamo.config.patch(recompile_limit=limit):
            maps: tuple[Tensor, Tensor] = self._graph(frames)
            self._compiled = True
        return maps

    def _check_mode(self) -> None:
        if self.model.training:
            raise InputError("the model is in training mode; call model.eval() before embedding.")

    def _fetched(self, frames: np.ndarray) -> Tensor:
        """Copy frames to the device; from pinned memory a GPU fetches them while it computes."""
        batch = torch.from_numpy(frames)
        if self.model.device.type != "cuda":
            return batch.to(self.model.device)
        return batch.pin_memory().to(self.model.device, non_blocking=True)


@contextmanager
def memory_is_enough() -> Iterator[None]:
    """Tell a device, or a machine, without memory from an error of ours.

    Raises:
        InputError: The device has too little memory.
        MemoryError: The machine has, as torch finds it on the CPU.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise InputError(
            f"the device has too little memory ({str(error).splitlines()[0]}); use a smaller "
            "batch_size (batch_clips of a batch), or close what else uses it."
        ) from error
    except RuntimeError as error:  # torch has no class of its own for it
        if "allocate memory" not in str(error) and "not enough memory" not in str(error):
            raise
        raise MemoryError(str(error).splitlines()[0]) from error


def check_finite(engine: Engine, *vectors: np.ndarray) -> None:
    """Refuse vectors that a dtype or weights have spoiled.

    Raises:
        ModelError: NaN or infinity.
    """
    if not all(np.isfinite(array).all() for array in vectors):
        raise ModelError(
            f"the model {engine.model.name!r} gives NaN or infinity in {engine.info.dtype}; use "
            "float32 or bfloat16, or other weights."
        )
