"""Windows at the price of frames against one window after the other, side by side.

    python -m benchmarks.dense VIDEO                          # a window every 0.04 s
    python -m benchmarks.dense VIDEO --every 0.2 --windows 100

The whole video goes through :class:`ccl_hub.embed.ClipStream`; window by window, the model is
called on ``--windows`` windows spread over the video, whose frames are decoded beforehand and not
timed. Both take turns, a stretch of the video each, so that a busy machine slows both.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch

from ccl_hub.backends import TorchEngine
from ccl_hub.crop import center_crop
from ccl_hub.embed import ClipStream
from ccl_hub.model import CCLModel
from ccl_hub.sampling import Sampling
from ccl_hub.transforms import to_clips
from ccl_hub.video import VideoReader

ROUNDS = 10


def main(arguments: list[str] | None = None) -> int:
    """Measure, and print two lines: speed and difference."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.dense", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("video", type=Path)
    parser.add_argument("--model", default="ccl_lite0")
    parser.add_argument("--every", type=float, default=0.04, help="seconds between windows")
    parser.add_argument("--windows", type=int, default=100, help="computed one by one")
    parser.add_argument("--batch", type=int, default=8, help="windows at once, one by one")
    chosen = parser.parse_args(arguments)
    model = CCLModel.from_pretrained(chosen.model)
    with ClipStream(TorchEngine(model), chosen.video, Sampling(every_seconds=chosen.every)) as s:
        rows = np.linspace(0, len(s.plan.indices) - 1, chosen.windows).astype(int)
        windows = _windows(chosen.video, model, s.plan.indices[rows])
        shares = [iter(part) for part in np.array_split(np.arange(len(windows)), ROUNDS)]
        dense_seconds, window_seconds, found, wanted = 0.0, 0.0, [], []
        stream, per_round = iter(s), -(-len(s.plan.indices) // ROUNDS)
        for share in shares:
            began = time.perf_counter()
            given = 0
            while given < per_round and (part := next(stream, None)) is not None:
                found.append(part.clips)
                given += len(part.clips)
            dense_seconds += time.perf_counter() - began
            mine = windows[list(share)]
            began = time.perf_counter()
            with torch.inference_mode():
                for at in range(0, len(mine), chosen.batch):
                    clips = to_clips(mine[at : at + chosen.batch], model.preprocessing)
                    wanted.append(model(clips).video.numpy())
            window_seconds += time.perf_counter() - began
    clips, one_by_one = np.concatenate(found), np.concatenate(wanted)
    dense, single = len(clips) / dense_seconds, len(one_by_one) / window_seconds
    difference = np.abs(clips[rows] - one_by_one).max() / np.abs(one_by_one).max()
    print(
        f"{len(clips)} windows, one every {chosen.every} s: {dense:.1f} windows/s with decoding; "
        f"one by one {single:.1f} without: {dense / single:.1f} x"
    )
    print(f"largest difference over {len(rows)} windows: {difference:.1e} of the largest value")
    return 0


def _windows(video: Path, model: CCLModel, indices: np.ndarray) -> np.ndarray:
    """Decode windows (b,T) -> (b,T,S,S,3)."""
    pre = model.preprocessing
    with VideoReader(video, resize=pre) as reader:
        frames = {
            number: center_crop(frame, pre.crop_px)
            for number, frame in reader.frames(np.unique(indices))
        }
    return np.stack([np.stack([frames[i] for i in row]) for row in indices.tolist()])


if __name__ == "__main__":
    raise SystemExit(main())
