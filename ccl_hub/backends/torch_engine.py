"""The network in torch, on any device and in any dtype, as it is or compiled."""

from __future__ import annotations

import threading

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..network.architecture import CCLNetwork
from ..network.frame_graph import FrameGraph
from ..network.frame_maps import FrameMaps
from .engine import CPU_BATCH_FRAMES, EngineInfo, memory_is_enough

GPU_BATCH_FRAMES = 512

MOST_COMPILED = 64
"""Networks that torch may compile in one process; beyond its own limit, 8, it compiles no more."""
_compiling = threading.Lock()


class TorchEngine:
    """The network in torch, on the device and in the dtype of the model.

    Args:
        model: A model in eval mode; it is not changed. Make another engine if you change it.
        compile: Fuse the network by ``torch.compile``, which takes a minute on the first call and
            pays on a GPU. Frames are then cut and filled up to batches of
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
        self, model: CCLNetwork, compile: bool = False, batch_frames: int | None = None
    ) -> None:
        self.model = model
        self._check_mode()
        graph = FrameGraph(model).eval()
        self.clip_head = graph.clip_head
        dtype = str(model.dtype).removeprefix("torch.")
        backend = "torch-compile" if compile else "torch"
        runtime = f"torch {torch.__version__}"
        self.info = EngineInfo(backend, model.device.type, dtype, runtime=runtime)
        default_frames = CPU_BATCH_FRAMES if model.device.type == "cpu" else GPU_BATCH_FRAMES
        self.batch_frames = batch_frames or default_frames
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
        pieces = []
        for batch in torch.split(frames, self.batch_frames):
            count = len(batch)
            if missing := self.batch_frames - count:
                batch = torch.cat([batch, batch[-1:].expand(missing, *batch.shape[1:])])
            pieces.append(FrameMaps(*(tensor[:count] for tensor in self._run_compiled(batch))))
        if len(pieces) == 1:
            return pieces[0]
        return FrameMaps(*map(torch.cat, zip(*pieces, strict=True)))

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
