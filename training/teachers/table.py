"""What a teacher says of the frames of a data set, asked once for each frame."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..frames.packed import FrameSource
from ..frames.sample import drawn_frames
from .encoders import Teacher

LARGEST_BYTES = 4 << 30


class TeacherTable:
    """Vectors of frames by video and index, kept as float16 once they were asked for.

    Args:
        teacher: Is asked.
        source: Whose frames; a table above ``LARGEST_BYTES`` is not kept, and the teacher asked
            each time.
        cache: Folder of a file to keep them in, of which rows of zeros are not known yet; in
            memory if empty.
    """

    def __init__(self, teacher: Teacher, source: FrameSource, cache: str = "") -> None:
        self.teacher = teacher
        counts = [source.frames_of(video) for video in range(len(source))]
        self._first = np.concatenate([[0], np.cumsum(counts)])  # (N + 1,)
        rows = int(self._first[-1])
        self._keeps = bool(cache) or rows * teacher.dim * 2 <= LARGEST_BYTES
        shape = (rows if self._keeps else 0, teacher.dim)
        if cache:
            identity = f"{teacher.identity}\n{source.fingerprint()}\n{shape}"
            name = hashlib.sha256(identity.encode()).hexdigest()[:16]
            self._vectors = torch.from_numpy(_mapped(Path(cache) / f"{name}.f16", shape))
        else:  # memory is taken as rows are filled
            self._vectors = torch.zeros(shape, dtype=torch.float16)
        self._known = self._vectors.any(1)

    def vectors(self, videos: np.ndarray, indices: np.ndarray, frames: Tensor) -> Tensor:
        """Return the teacher's vectors of frames.

        Args:
            videos: int64 (b,).
            indices: int64 (..., b, T), frames of these videos.
            frames: uint8 (..., b, T, h, w, 3), those frames, untouched.

        Returns:
            (..., b, T, K) float32 on the CPU.
        """
        pixels = frames.flatten(0, -4)  # (n,h,w,3)
        if not self._keeps:
            found = self.teacher(pixels).cpu()
            return found.view(*indices.shape, -1)
        rows = torch.from_numpy((self._first[videos][:, None] + indices).reshape(-1))  # (n,)
        unknown = torch.nonzero(~self._known[rows])[:, 0]
        if len(unknown):
            asked, where = np.unique(rows[unknown].numpy(), return_index=True)
            new = self.teacher(pixels[unknown[torch.from_numpy(where)].to(pixels.device)])
            self._vectors[torch.from_numpy(asked)] = new.to("cpu", torch.float16)
            self._known[torch.from_numpy(asked)] = True
        return self._vectors[rows].float().view(*indices.shape, -1)

    def sample(self, source: FrameSource, count: int) -> Tensor:
        """Return vectors of about ``count`` frames, drawn evenly from all videos: (n, K) float32.

        Args:
            source: Whose frames; that of the table.
            count: How many, at least one of each video.
        """
        vectors = []
        for video, indices in drawn_frames(source, count):
            frames = torch.from_numpy(source.read(video, indices))
            vectors.append(self.vectors(np.array([video]), indices[None], frames[None])[0])
        return torch.cat(vectors)


def _mapped(path: Path, shape: tuple[int, int]) -> np.ndarray:
    """Map a file of float16 that may be there already; a new one is of zeros, and sparse."""
    path.parent.mkdir(parents=True, exist_ok=True)
    size = 2 * shape[0] * shape[1]
    with path.open("ab") as file:
        file.truncate(size)
    return np.memmap(path, np.float16, "r+", shape=shape)
