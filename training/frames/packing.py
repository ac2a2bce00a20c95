"""A list of videos becomes a store: whole shards, then the index, then ``store.json``."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ccl_hub._util.files import make_folder, remove_leftovers, write_atomically
from ccl_hub._util.folder_lock import FolderInUseError, only_writer
from ccl_hub.config import Preprocessing
from ccl_hub.errors import TrainingError
from ccl_hub.video.pixels import DECODER_VERSION

from ..data.checks import Problem, problem_table
from ..data.datasets import VideoList
from .files import stored_facts
from .pack_index import PackedShard, read_shard, write_index
from .pack_pool import ShardTask, run_tasks
from .pack_worker import PackOptions
from .packed import STORE_FORMAT, STORE_VERSION

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

    def __str__(self) -> str:
        """Return the table of problems, and one line on the store."""
        codes = Counter(problem.code for problem in self.problems)
        counts = ", ".join(f"{count} {code}" for code, count in codes.items())
        line = (
            f"{self.folder}: {self.videos} videos, {self.frames} frames, "
            f"{self.bytes / 1e6:.0f} MB; {counts or 'no problems'}"
        )
        return f"{problem_table(self.problems)}\n{line}" if self.problems else line


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
        workers: Packing processes, each of which decodes with one thread.
        shard_videos: Videos in a shard file; a packing resumes after its last whole shard.
        video_timeout_seconds: A video that takes longer is left out.
        overwrite: Remove another packing from ``folder`` instead of refusing.
        progress: Called with the number of videos done since the last call.

    Returns:
        What was packed and what was not.

    Raises:
        TrainingError: The folder holds another packing or is in use, or no video could be packed.
        OutputError: It cannot be written.
    """
    if workers < 1 or shard_videos < 1:
        raise TrainingError(
            f"workers is {workers} and shard_videos is {shard_videos}; give 1 or more of each."
        )
    options = options or PackOptions(Preprocessing())
    folder = make_folder(Path(folder))
    plan = _plan(videos, options, shard_videos)
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
        return _finish(videos, folder, options, shards)


def _plan(videos: VideoList, options: PackOptions, shard_videos: int) -> dict[str, Any]:
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
            "preprocessing": stored_facts(options.preprocessing),
            "codec": options.codec,
            "quality": options.quality,
            "decoder": "ffmpeg",  # packings from when there was a choice go on with it
            "keep_incomplete": options.keep_incomplete,
        },
        "decoder": DECODER_VERSION,
        "shard_videos": shard_videos,
        "version": STORE_VERSION,
    }
    text = json.dumps(plan, sort_keys=True)
    return {**plan, "fingerprint": hashlib.sha256(text.encode()).hexdigest()}


def _claim(folder: Path, plan: dict[str, Any], overwrite: bool) -> None:
    """Record the plan in ``plan.json``, or compare it with the one there; remove leftovers."""
    path = folder / "plan.json"
    before = path.read_bytes() if path.is_file() else None
    now = (json.dumps(plan, indent=2) + "\n").encode()
    packed = [p for p in folder.iterdir() if p.name in ("store.json", "index.arrow")]
    packed += folder.glob("shard-*.arrow")
    if (before is not None or packed) and before != now and not overwrite:
        raise TrainingError(
            f"{folder}: holds a packing of other videos or with other settings; "
            "give another folder, or replace it with --overwrite."
        )
    if before != now:
        for old in packed:
            old.unlink()
        write_atomically(path, now)
    remove_leftovers(folder)


@contextmanager
def _only_packer(folder: Path) -> Iterator[None]:
    """Hold the folder, so that two packings never write to one."""
    try:
        with only_writer(folder):
            yield
    except FolderInUseError as error:
        raise TrainingError(
            f"{folder}: another packing is writing here; wait for it, or stop it."
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
        raise TrainingError(
            f"{task.path}: cannot be read right after it was written; check the disk."
        )
    return shard


def _finish(
    videos: VideoList, folder: Path, options: PackOptions, shards: list[PackedShard]
) -> PackReport:
    """Write the index and, last of all, ``store.json``."""
    rows = [row for shard in shards for row in shard.rows]
    packed = {row.id: row for row in rows if row.frames}
    if not packed:
        first = next(row.problem for row in rows if row.problem is not None)
        raise TrainingError(
            f"{folder}: none of the {len(rows)} videos could be packed; the problem of the "
            f"first, {first.id}: {first.text}. Give videos that can be decoded."
        )
    kept = VideoList(
        videos.name, tuple(item for item in videos if item.id in packed), videos.classes
    )
    problems = [row.problem for row in rows if row.problem is not None]
    problems += _duplicates(kept, {name: row.sha256 for name, row in packed.items()})
    content = hashlib.sha256("".join(packed[item.id].sha256 for item in kept).encode())
    facts = {
        "codec": options.codec,
        "quality": options.quality if options.codec == "jpeg" else None,
        "preprocessing": stored_facts(options.preprocessing),
        "decoder": DECODER_VERSION,
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
        **facts,
        "fingerprint": hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest(),
        "shards": [{"file": s.path.name, "bytes": s.path.stat().st_size} for s in shards],
        "problems": [dataclasses.asdict(problem) for problem in problems],
    }
    write_index(folder / "index.arrow", kept, shards)
    write_atomically(folder / "store.json", json.dumps(meta, indent=2) + "\n")
    size = sum(shard["bytes"] for shard in meta["shards"])
    failed = len(rows) - len(kept)
    return PackReport(folder, len(kept), meta["frames"], size, tuple(problems), failed)


def _duplicates(videos: VideoList, sha256: dict[str, str]) -> list[Problem]:
    """Return a problem for every video that has the same bytes as an earlier one."""
    first_of_hash: dict[str, str] = {}
    duplicates = []
    for name in videos.ids:
        first = first_of_hash.setdefault(sha256[name], name)
        if first != name:
            text = f"same bytes as {first}; both are kept"
            duplicates.append(Problem(name, "duplicate", text))
    return duplicates
