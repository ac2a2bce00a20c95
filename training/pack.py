"""Pack a data set once into small frames that training can read singly.

    python -m training.pack SOURCE --out FOLDER [--workers N] [--quality Q]

Every video is decoded once, resized as at inference (128x171 by default) and stored as JPEG frames
with their times. A killed packing goes on where it was when the same command runs again: whole
shards are kept, half ones are made anew. Videos that cannot be used are listed at the end and in
``store.json``; nothing takes their place. See :mod:`training.frames.packed` for reading.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ccl_hub._util.files import make_folder, write_atomically
from ccl_hub._util.folder_lock import FolderInUseError, only_writer
from ccl_hub.config import Preprocessing
from ccl_hub.errors import CCLError, TrainingError

from .data.checks import Problem, missing_videos, problem_table
from .data.datasets import VideoList
from .data.sources import add_source_arguments, source_from_arguments
from .frames.files import stored_facts
from .frames.pack_index import PackedShard, read_shard, write_index
from .frames.pack_pool import ShardTask, run_tasks
from .frames.pack_worker import PackOptions, decoder_version
from .frames.packed import STORE_FORMAT, STORE_VERSION

__all__ = ["PackReport", "main", "pack"]

DEFAULT_SHARD_VIDEOS = 64


@dataclass(frozen=True)
class PackReport:
    """What a packing made.

    Args:
        folder: The store.
        videos: Videos in the store.
        frames: Frames in the store.
        bytes: Size of the shards.
        problems: Videos left out, and duplicates and incomplete videos that were kept.
        failed: How many videos were left out.
    """

    folder: Path
    videos: int
    frames: int
    bytes: int
    problems: tuple[Problem, ...]
    failed: int


def pack(
    videos: VideoList,
    folder: str | Path,
    options: PackOptions | None = None,
    *,
    workers: int = 1,
    shard_videos: int = DEFAULT_SHARD_VIDEOS,
    video_timeout_seconds: float = 600.0,
    overwrite: bool = False,
    progress: Callable[[int], None] = lambda count: None,
) -> PackReport:
    """Pack a list of videos into a store, or finish one that was begun.

    Args:
        videos: What to pack; its order becomes the order of the store.
        folder: Where to; made if need be.
        options: How to make frames; the defaults of :class:`PackOptions` for None.
        workers: Packing processes (each decodes with one thread).
        shard_videos: Videos in a shard file, which is the unit of resuming.
        video_timeout_seconds: A video that takes longer is left out.
        overwrite: Remove another packing found in ``folder`` instead of refusing.
        progress: Called with the number of videos done since the last call.

    Returns:
        What was packed and what was not.

    Raises:
        TrainingError: The folder holds another packing or is in use, or no video could be packed.
        OutputError: It cannot be written.
    """
    if workers < 1 or shard_videos < 1:
        raise TrainingError(
            f"workers {workers} and shard_videos {shard_videos} must be 1 or more."
        )
    options = options or PackOptions(Preprocessing())
    folder = make_folder(Path(folder))
    decoder = decoder_version(options.decoder)
    plan = _plan(videos, options, decoder, shard_videos)
    with _only_packer(folder):
        _claim(folder, plan, overwrite)
        tasks = _tasks(videos, folder, plan["fingerprint"], shard_videos)
        missing = []
        for task in tasks:
            if read_shard(task.path, task.plan, task.items) is None:
                missing.append(task)
            else:
                progress(len(task.items))
        run_tasks(missing, options, workers, video_timeout_seconds, progress)
        shards = [_finished(task) for task in tasks]
        return _finish(videos, folder, options, decoder, shards)


def _plan(
    videos: VideoList, options: PackOptions, decoder: str, shard_videos: int
) -> dict[str, Any]:
    """Return what decides the content of the shards, with its fingerprint."""
    digest = hashlib.sha256(videos.fingerprint().encode())
    for item in videos:
        try:
            status = item.path.stat()
            digest.update(f"{status.st_size} {status.st_mtime_ns}\n".encode())
        except OSError:
            digest.update(b"missing\n")
    plan = {
        "videos": len(videos),
        "sources": digest.hexdigest(),
        "options": {
            **dataclasses.asdict(options),
            "preprocessing": stored_facts(options.preprocessing),
        },
        "decoder": decoder,
        "shard_videos": shard_videos,
        "version": STORE_VERSION,
    }
    text = json.dumps(plan, sort_keys=True)
    return {**plan, "fingerprint": hashlib.sha256(text.encode()).hexdigest()}


def _claim(folder: Path, plan: dict[str, Any], overwrite: bool) -> None:
    """Record the plan in ``plan.json``, or check it against the one there; remove leftovers."""
    path = folder / "plan.json"
    found = path.read_bytes() if path.is_file() else None
    wanted = (json.dumps(plan, indent=2) + "\n").encode()
    others = [p for p in folder.iterdir() if p.name in ("store.json", "index.arrow")]
    shards = [*folder.glob("shard-*.arrow"), *others]
    if (found is not None or shards) and found != wanted and not overwrite:
        raise TrainingError(
            f"{folder}: holds the packing of other videos or with other settings; "
            "choose another folder, or replace it with --overwrite."
        )
    if found != wanted:
        for old in shards:
            old.unlink()
        write_atomically(path, lambda file: file.write(wanted))
    for leftover in folder.glob(".*.tmp"):
        leftover.unlink()


@contextmanager
def _only_packer(folder: Path) -> Iterator[None]:
    """Hold the folder, so that two packings never write to one."""
    try:
        with only_writer(folder):
            yield
    except FolderInUseError as error:
        raise TrainingError(
            f"{folder}: another packing is writing here; wait for it or stop it."
        ) from error


def _tasks(videos: VideoList, folder: Path, plan: str, shard_videos: int) -> list[ShardTask]:
    items = list(videos.items)
    return [
        ShardTask(folder / f"shard-{number:05d}.arrow", items[at : at + shard_videos], plan)
        for number, at in enumerate(range(0, len(items), shard_videos))
    ]


def _finished(task: ShardTask) -> PackedShard:
    shard = read_shard(task.path, task.plan, task.items)
    if shard is None:
        raise TrainingError(f"{task.path}: unusable right after it was written; check the disk.")
    return shard


def _finish(
    videos: VideoList,
    folder: Path,
    options: PackOptions,
    decoder: str,
    shards: list[PackedShard],
) -> PackReport:
    """Write the index and, last of all, ``store.json``."""
    rows = [row for shard in shards for row in shard.rows]
    packed = {row.id: row for row in rows if row.frames}
    if not packed:
        first = next(row.problem for row in rows if row.problem is not None)
        raise TrainingError(
            f"{folder}: none of the {len(rows)} videos could be packed; "
            f"the first: {first.id}: {first.text}."
        )
    kept = VideoList(
        videos.name, tuple(item for item in videos if item.id in packed), videos.classes
    )
    problems = [row.problem for row in rows if row.problem is not None]
    problems += _duplicates(kept, {name: row.sha256 for name, row in packed.items()})
    content = hashlib.sha256("".join(packed[item.id].sha256 for item in kept).encode())
    made = {
        "codec": options.codec,
        "quality": options.quality if options.codec == "jpeg" else None,
        "preprocessing": stored_facts(options.preprocessing),
        "decoder": decoder,
        "manifest_fingerprint": kept.fingerprint(),
        "content_fingerprint": content.hexdigest(),
    }
    meta = {
        "format": STORE_FORMAT,
        "version": STORE_VERSION,
        "name": videos.name,
        "classes": list(videos.classes),
        "videos": len(kept),
        "frames": sum(row.frames for row in packed.values()),
        **made,
        "fingerprint": hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest(),
        "shards": [{"file": s.path.name, "bytes": s.path.stat().st_size} for s in shards],
        "problems": [dataclasses.asdict(problem) for problem in problems],
    }
    write_index(folder / "index.arrow", kept, shards)
    text = (json.dumps(meta, indent=2) + "\n").encode()
    write_atomically(folder / "store.json", lambda file: file.write(text))
    size = sum(shard["bytes"] for shard in meta["shards"])
    failed = len(rows) - len(kept)
    return PackReport(folder, len(kept), meta["frames"], size, tuple(problems), failed)


def _duplicates(videos: VideoList, sha256: dict[str, str]) -> list[Problem]:
    """Return a Problem for every video whose bytes an earlier one has too."""
    first: dict[str, str] = {}
    found = []
    for item in videos:
        earlier = first.setdefault(sha256[item.id], item.id)
        if earlier != item.id:
            found.append(Problem(item.id, "duplicate", f"same bytes as {earlier}; both are kept"))
    return found


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns 0, 2 if videos were left out, or 1 if nothing was made."""
    parser = argparse.ArgumentParser(prog="python -m training.pack", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add_source_arguments(parser)
    parser.add_argument("--out", type=Path, required=True, help="folder of the packed store")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--quality", type=int, default=95, help="JPEG quality (default 95)")
    parser.add_argument("--codec", choices=("jpeg", "raw"), default="jpeg")
    parser.add_argument("--decoder", choices=("ffmpeg", "opencv"), default="ffmpeg")
    parser.add_argument("--shard-videos", type=int, default=DEFAULT_SHARD_VIDEOS)
    parser.add_argument("--video-timeout", type=float, default=600.0, metavar="SECONDS")
    parser.add_argument("--keep-incomplete", action="store_true", help="pack truncated videos too")
    parser.add_argument("--overwrite", action="store_true", help="replace another packing")
    chosen = parser.parse_args(arguments)
    from tqdm import tqdm

    try:
        options = PackOptions(
            Preprocessing(), chosen.codec, chosen.quality, chosen.decoder, chosen.keep_incomplete
        )
        videos = source_from_arguments(chosen)
        missing = missing_videos(videos)
        if missing:
            print(f"before packing:\n{problem_table(missing)}", file=sys.stderr)
        with tqdm(total=len(videos), unit="video", file=sys.stderr) as bar:
            report = pack(
                videos,
                chosen.out,
                options,
                workers=chosen.workers,
                shard_videos=chosen.shard_videos,
                video_timeout_seconds=chosen.video_timeout,
                overwrite=chosen.overwrite,
                progress=bar.update,
            )
    except CCLError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if report.problems:
        print(problem_table(report.problems), file=sys.stderr)
    counts = ", ".join(
        f"{n} {code}" for code, n in Counter(p.code for p in report.problems).items()
    )
    print(
        f"{report.folder}: {report.videos} videos, {report.frames} frames, "
        f"{report.bytes / 1e6:.0f} MB; {counts or 'no problems'}",
        file=sys.stderr,
    )
    return 2 if report.failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
