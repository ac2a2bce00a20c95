"""What a teacher says of the frames of a data set, asked once for each frame."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..frames.packed import FrameSource
from .encoders import Teacher

LARGEST_BYTES = 4 << 30


class TeacherTable:
    """Vectors of frames by video and index, kept as float16 once they were asked for.

    Args:
        teacher: Is asked.
        source: Whose frames; a table above ``LARGEST_BYTES`` is not kept, and the teacher asked
            each time.
    """

    def __init__(self, teacher: Teacher, source: FrameSource) -> None:
        self.teacher = teacher
        counts = [source.frames_of(video) for video in range(len(source))]
        self._first = np.concatenate([[0], np.cumsum(counts)])  # (N + 1,)
        rows = int(self._first[-1])
        self._keeps = rows * teacher.dim * 2 <= LARGEST_BYTES
        # Memory is taken as rows are filled.
        self._vectors = torch.empty((rows if self._keeps else 0, teacher.dim), dtype=torch.float16)
        self._known = torch.zeros(len(self._vectors), dtype=torch.bool)

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
