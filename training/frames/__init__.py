"""The frames of a set: packed, in video files, resident or rendered."""
