"""All frames of a store decoded once and kept in RAM or GPU memory."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ccl_hub.errors import TrainingError

from .packed import FrameSource
from .view import FrameView

logger = logging.getLogger(__name__)

DECODE_FRAMES = 256  # frames decoded at once by one thread


def resize_frames(frames: Tensor, height_px: int, width_px: int) -> Tensor:
    """Shrink (or enlarge) frames with antialiasing.

    Args:
        frames: (k, h, w, 3) uint8 on the CPU.
        height_px: New height.
        width_px: New width.

    Returns:
        (k, height_px, width_px, 3) uint8, contiguous; ``frames`` itself if they have that size.
    """
    if tuple(frames.shape[1:3]) == (height_px, width_px):
        return frames
    resized = torch.nn.functional.interpolate(
        frames.permute(0, 3, 1, 2),  # (k, 3, h, w), channels last in memory
        size=(height_px, width_px),
        mode="bilinear",
        antialias=True,
    )
    return resized.permute(0, 2, 3, 1).contiguous()


class ResidentFrames(FrameView):
    """All frames of a store, decoded into one tensor, from which ``gather`` takes any.

    Args:
        store: Where the frames come from; without ``size_px`` all of them must have one size.
        device: ``"cpu"`` (cache = "ram") or a CUDA device (cache = "gpu").
        size_px: Height and width to shrink every frame to, once, with antialiasing; None keeps
            them. 64 x 86 takes a quarter of the memory and is enough for crops up to 56 px.
        threads: Threads that decode while loading.
        progress: Called with the number of frames loaded since the last call.

    Raises:
        TrainingError: The frames differ in size or do not fit into the free memory.

    Example:
        >>> resident = ResidentFrames(FrameStore("packed/ucf101"), "cuda")  # doctest: +SKIP
    """

    def __init__(
        self,
        store: FrameSource,
        device: str | torch.device = "cpu",
        size_px: tuple[int, int] | None = None,
        threads: int = 2,
        progress: Callable[[int], None] = lambda count: None,
    ) -> None:
        super().__init__(store, store.videos)
        self.device = torch.device(device)
        self.size_px = size_px or _common_size(store)
        counts = [store.frames_of(video) for video in range(len(store))]
        self.first = np.concatenate([[0], np.cumsum(counts)])  # (N + 1,)
        _require_memory(int(self.first[-1]) * self.size_px[0] * self.size_px[1] * 3, self.device)
        self.pixels = torch.empty(
            (int(self.first[-1]), *self.size_px, 3), dtype=torch.uint8, device=self.device
        )  # (F, h, w, 3)
        with ThreadPoolExecutor(max(1, threads)) as pool:
            for loaded in pool.map(self._load, range(len(store))):
                progress(loaded)
        logger.info("%d frames resident on %s", len(self.pixels), self.device)

    def _load(self, video: int) -> int:
        """Decode one video into ``pixels``; return its number of frames."""
        count = self.source.frames_of(video)
        for start in range(0, count, DECODE_FRAMES):
            indices = np.arange(start, min(start + DECODE_FRAMES, count))
            frames = torch.from_numpy(self.source.read(video, indices))
            frames = resize_frames(frames, *self.size_px)
            first = int(self.first[video]) + start
            self.pixels[first : first + len(indices)] = frames.to(self.device)
        return count

    def frame_size(self, video: int) -> tuple[int, int]:
        """Return height and width of the resident frames in pixels."""
        return self.size_px

    def fingerprint(self) -> str:
        """Return the fingerprint of the store, with the size if frames were shrunk."""
        plain = self.source.fingerprint()
        if all(self.source.frame_size(video) == self.size_px for video in range(len(self))):
            return plain
        return f"{plain}-{self.size_px[0]}x{self.size_px[1]}"

    def read(self, video: int, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return frames of a video as :meth:`FrameStore.read` does, from memory."""
        return self.gather(self.flat_indices(video, indices)).cpu().numpy()

    def flat_indices(self, video: int, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return the positions in ``pixels`` of frames of a video, int64, shaped as ``indices``.

        Raises:
            TrainingError: An index is out of range.
        """
        numbers = np.asarray(indices, np.int64)
        count = self.frames_of(video)
        if numbers.size and not 0 <= numbers.min() <= numbers.max() < count:
            raise TrainingError(
                f"{self.names[video]}: has no frames {numbers.min()} to {numbers.max()}; "
                f"give 0 to {count - 1}."
            )
        return int(self.first[video]) + numbers

    def gather(self, flat_indices: np.ndarray | Tensor) -> Tensor:
        """Return frames of any videos.

        Args:
            flat_indices: int64 of any shape, from :meth:`flat_indices`.

        Returns:
            uint8 (..., h, w, 3) on the device.
        """
        positions = torch.as_tensor(flat_indices)
        flat = positions.reshape(-1).to(self.device)
        return self.pixels.index_select(0, flat).view(*positions.shape, *self.size_px, 3)


def _common_size(store: FrameSource) -> tuple[int, int]:
    """Return the size of all frames, and refuse frames of several sizes."""
    size = store.frame_size(0)
    for video in range(len(store)):
        if store.frame_size(video) != size:
            raise TrainingError(
                f"{store.names[video]}: frames of {store.frame_size(video)} px, those of "
                f"{store.names[0]} have {size}; pack with resize 'stretch', or give one size."
            )
    return size


def _require_memory(needed_bytes: int, device: torch.device) -> None:
    """Raise TrainingError if the frames do not fit into the free memory."""
    if device.type == "cuda":
        free_bytes, _ = torch.cuda.mem_get_info(device)
    else:
        free_bytes = _free_ram_bytes()
    if needed_bytes > free_bytes:
        raise TrainingError(
            f"{needed_bytes / 1e9:.1f} GB of frames do not fit into the {free_bytes / 1e9:.1f} GB "
            f"free on {device}; give a smaller data.resident_size_px, or data.cache = 'none'."
        )


def _free_ram_bytes() -> int:
    """Return the memory that is free without swapping; unlimited where the system hides it."""
    table = Path("/proc/meminfo")
    if not table.is_file():
        return 2**62
    for line in table.read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 2**62
