"""Black bars beside the picture: found on small frames of a whole video, then cut off.

Bars are as high, or as wide, on both sides, black over their whole length, and end in a straight
line at which most of the picture is not black, frame after frame at the same place. A logo on
black has no such line, and a dark scene has it now and then, but not everywhere.

A video is decoded as if it had none. As soon as its frames say that it has, the reader raises
:class:`BarsFoundError`, and whoever decodes begins again with :meth:`VideoReader.cut_bars`: bars
show within the first few frames, so that little is decoded twice, and nothing of other videos.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

BLACK = 28
"""Largest value of a channel that counts as black: compression leaves noise in bars."""

LEAST_SHARE, MOST_SHARE = 0.03, 0.4
"""Of the height or width, for each of two bars."""

FILLED_SHARE = 0.5
"""Of the line beside a bar that is not black, at least."""

TOUCHED_SHARE = 0.02
"""Of a line that may be not black, and the line still be one of a bar."""

ENOUGH_FRAMES, MOST_FRAMES = 16, 128
"""Frames after which bars may be told, and after which they are no longer looked for."""

LEAST_VOTES = 0.6
"""Of frames that are not dark, say where the bars end."""


@dataclass(frozen=True)
class Bars:
    """What is cut off each side, as a share of the height or width of the frame as shown."""

    top: float = 0.0
    bottom: float = 0.0
    left: float = 0.0
    right: float = 0.0

    def rest(self, height_px: int, width_px: int) -> tuple[int, int]:
        """Return (height, width) of what is left."""
        height = round(height_px * (1 - self.top - self.bottom))
        return max(1, height), max(1, round(width_px * (1 - self.left - self.right)))

    def as_stored(self, transposed: bool, flip_vertical: bool, flip_horizontal: bool) -> Bars:
        """Return the bars of a frame that is shown transposed, then flipped."""
        top, bottom, left, right = self.top, self.bottom, self.left, self.right
        if flip_horizontal:
            left, right = right, left
        if flip_vertical:
            top, bottom = bottom, top
        return Bars(left, right, top, bottom) if transposed else Bars(top, bottom, left, right)

    @property
    def crop_filter(self) -> str:
        """Options of FFmpeg's ``crop``."""
        width, height = 1 - self.left - self.right, 1 - self.top - self.bottom
        return (
            f"w=in_w*{width:.6f}:h=in_h*{height:.6f}:x=in_w*{self.left:.6f}:y=in_h*{self.top:.6f}"
        )

    def of(self, frames: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Return (N, H, W, 3) frames without the bars, as a view."""
        height, width = frames.shape[1:3]
        top, left = round(height * self.top), round(width * self.left)
        rest_height, rest_width = self.rest(height, width)
        return frames[:, top : top + rest_height, left : left + rest_width]


class BarsFoundError(Exception):
    """Frames have bars; caught by whoever decodes, who begins again without them."""

    def __init__(self, bars: Bars) -> None:
        super().__init__(str(bars))
        self.bars = bars


class BarFinder:
    """Looks for bars in the small frames of one video, in any order.

    Example:
        >>> frame = np.full((128, 171, 3), 90, np.uint8)
        >>> frame[:16] = frame[-16:] = 0
        >>> finder = BarFinder()
        >>> finder.see(frame)
        >>> round(finder.bars().top, 3), finder.bars().left
        (0.133, 0.0)
    """

    def __init__(self) -> None:
        self._votes: Counter[tuple[int, int]] = Counter()
        self._lit = 0
        self._shape = (1, 1)
        self.frames = 0

    @property
    def is_looking(self) -> bool:
        """Whether more frames are to be seen."""
        return self.frames < MOST_FRAMES

    def see(self, frame: npt.NDArray[np.uint8]) -> None:
        """Take the next frame, (h, w, 3) uint8."""
        self.frames += 1
        lit = frame.max(axis=2) > BLACK  # (h,w)
        self._shape = lit.shape[0], lit.shape[1]
        if lit.mean() < TOUCHED_SHARE:
            return
        self._lit += 1
        columns = lit.any(axis=0)
        first, last = int(columns.argmax()), len(columns) - int(columns[::-1].argmax())
        rows = _bar(lit[:, first:last])
        self._votes[rows, _bar(lit.T[:, rows : len(lit) - rows])] += 1

    def bars(self) -> Bars | None:
        """Return the bars that enough of the frames so far agree on, or None."""
        if not self._lit:
            return None
        # most_common() imports a module, which a confined process cannot.
        rows, columns = max(self._votes, key=self._votes.__getitem__)
        agreeing = sum(
            votes
            for (other_rows, other_columns), votes in self._votes.items()
            if abs(rows - other_rows) <= 1 and abs(columns - other_columns) <= 1
        )
        if not (rows or columns) or agreeing < LEAST_VOTES * self._lit:
            return None
        height, width = self._shape
        # One small pixel more: the line beside a bar is a mixture of both.
        top, left = (rows + 1) / height if rows else 0.0, (columns + 1) / width if columns else 0.0
        return Bars(top, top, left, left)

    def check(self, is_last: bool) -> None:
        """Tell bars as soon as they are certain.

        Raises:
            BarsFoundError: There are bars.
        """
        if not (is_last or self.frames in (ENOUGH_FRAMES, MOST_FRAMES)):
            return
        bars = self.bars()
        if bars is not None:
            raise BarsFoundError(bars)


def _bar(lit: npt.NDArray[np.bool_]) -> int:
    """Return the height of the bars above and below what is lit, (h, w); 0 for none."""
    share = lit.mean(axis=1)  # (h,)
    touched = share > TOUCHED_SHARE
    height = len(touched)
    if not touched.any():
        return 0
    top, bottom = int(touched.argmax()), int(touched[::-1].argmax())
    bar = min(top, bottom)
    if abs(top - bottom) > 2 or not LEAST_SHARE <= bar / height <= MOST_SHARE:
        return 0
    # Resizing mixes the first line of the picture with the last of the bar: look one further.
    beside = min(share[top : top + 3].max(), share[height - bottom - 3 : height - bottom].max())
    return bar if beside >= FILLED_SHARE else 0
