"""Which video is this picture from? Frames that were edited, looked up among frames of videos."""

from .edits import EDITS
from .recall import FrameSet, Recall, frame_set, recall_of

__all__ = ["EDITS", "FrameSet", "Recall", "frame_set", "recall_of"]
