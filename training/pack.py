"""Pack a data set once into small frames that training can read singly.

    python -m training.pack SOURCE --out FOLDER [--workers N] [--quality Q]

Every video is decoded once, resized as at inference (128x171 by default) and stored as JPEG frames
with their times. When the same command runs again, a killed packing goes on: whole shards are
kept, and others are made again. Videos that cannot be used are listed at the end and in
``store.json``; no other videos replace them. See :mod:`training.frames.packed` for reading.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from ccl_hub.config import Preprocessing

from .cli import options_of, run
from .data.checks import missing_videos, problem_table
from .data.sources import FORMATS, list_videos
from .frames.codec import CODECS
from .frames.pack_worker import PackOptions
from .frames.packing import DEFAULT_SHARD_VIDEOS, pack
from .recipes.pretraining import read_recipe


@dataclass(frozen=True)
class Options:
    """What the command line says; see ``--help``."""

    source: str
    format: str
    root: Path | None
    lists: Path | None
    fold: int
    protocol: str
    split: str | None
    out: Path
    workers: int
    quality: int
    recipe: str
    codec: str
    shard_videos: int
    video_timeout: float
    keep_incomplete: bool
    overwrite: bool


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return 0, 2 if videos were left out, or 1 if nothing was packed."""
    options = read_options(arguments)
    return run(lambda: _pack(options), level=logging.WARNING, bad_input=1)


def _pack(options: Options) -> int:
    names = ("root", "lists", "fold", "protocol", "split")
    selection = {name: getattr(options, name) for name in names}
    videos = list_videos(options.source, options.format, **selection)
    missing = missing_videos(videos)
    if missing:
        print(f"before packing:\n{problem_table(missing)}", file=sys.stderr)
    preprocessing = (
        read_recipe(options.recipe).preprocessing if options.recipe else Preprocessing()
    )
    with tqdm(total=len(videos), unit="video", file=sys.stderr) as bar:
        report = pack(
            videos,
            options.out,
            PackOptions(preprocessing, options.codec, options.quality, options.keep_incomplete),
            workers=options.workers,
            shard_videos=options.shard_videos,
            video_timeout_seconds=options.video_timeout,
            overwrite=options.overwrite,
            progress=bar.update,
        )
    print(report, file=sys.stderr)
    return 2 if report.failed else 0


def read_options(arguments: Sequence[str] | None) -> Options:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m training.pack", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("source", metavar="SOURCE", help="folder of videos, or .csv/.parquet list")
    parser.add_argument("--format", choices=FORMATS, default="auto", help="kind of data set")
    parser.add_argument("--root", type=Path, help="folder that the paths of a manifest start from")
    parser.add_argument("--lists", type=Path, help="official split lists (or Kinetics csv)")
    parser.add_argument("--fold", type=int, default=1, help="UCF101 and HMDB51 split: 1, 2, 3")
    parser.add_argument("--protocol", default="cross-subject", help="MMAct split protocol")
    parser.add_argument("--split", help="only the videos of this split, such as train")
    parser.add_argument("--out", type=Path, required=True, help="folder of the packed store")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--quality", type=int, default=95, help="JPEG quality (default 95)")
    parser.add_argument(
        "--recipe",
        default="",
        help="resize as this recipe of pretraining says (default: the paper)",
    )
    parser.add_argument("--codec", choices=CODECS, default="jpeg")
    parser.add_argument("--shard-videos", type=int, default=DEFAULT_SHARD_VIDEOS)
    parser.add_argument("--video-timeout", type=float, default=600.0, metavar="SECONDS")
    parser.add_argument("--keep-incomplete", action="store_true", help="pack truncated videos too")
    parser.add_argument("--overwrite", action="store_true", help="replace another packing")
    return options_of(Options, parser, arguments)


if __name__ == "__main__":
    sys.exit(main())
