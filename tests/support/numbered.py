"""Folders of numbered test videos, good and bad, for packing and reading."""

import numpy as np
from media import Recipe, cut, numbered_frame, write_video

from ccl_hub.config import Preprocessing
from ccl_hub.video import VideoReader
from training.data.datasets import VideoItem, VideoList, from_folder

FRAMES = 12


def make_videos(folder, count=5, frames=FRAMES, **change):
    """Write videos whose frames are numbered on from 20 times the video's place."""
    folder.mkdir(parents=True, exist_ok=True)
    for place in range(count):

        def make(number, width, height, first=20 * place):
            return numbered_frame(first + number, width, height)

        recipe = Recipe(f"{place}.mp4", "mpeg4", frames, rate=12, make=make, **change)
        write_video(folder, recipe)
    return folder


def decoded(path):
    with VideoReader(path, resize=Preprocessing()) as reader:
        return reader.info, np.stack(
            [f for _, f in reader.frames(range(len(reader.info.seconds)))]
        )


def bad_folder(folder):
    """Make good videos, a missing one, and one of each kind of bad ones."""
    make_videos(folder, 3, frames=50, options={"g": "5"})
    (folder / "3.mp4").write_bytes((folder / "1.mp4").read_bytes())
    (folder / "4.mp4").write_text("this is no video")
    write_video(folder, Recipe("whole.mkv", "mpeg4", 50))
    cut(folder / "whole.mkv", folder / "5.mkv", 0.6)
    (folder / "whole.mkv").unlink()
    listed = from_folder(folder)
    return VideoList("bad", (*listed.items, VideoItem("gone.mp4", folder / "gone.mp4")))
