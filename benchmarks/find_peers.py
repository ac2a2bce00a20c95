"""The methods that :mod:`benchmarks.find` compares: ours, and what others do.

Every peer searches what it makes of a frame every half second, and finds cuts by the votes of
their frames for (video, offset), so that it is not the alignment that is compared but the frames.
A peer that is a program of its own (viddup) is run as its users run it.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

STEP = 0.5
ANSWERS, NEAREST = 10, 50
THUMBNAIL_PX = 24


@dataclass(frozen=True)
class Answer:
    """A stretch of a video, how good it is said to be, and whether the method is sure."""

    video: str
    start: float
    end: float
    score: float
    is_sure: bool = False


class Method:
    """Something that finds where a picture or cut is.

    Args:
        name: Shown in the table.
        needs: Packages and programs without which it is left out.
    """

    pairwise = False
    """Whether each question costs a comparison with every file of the library."""

    def __init__(self, name: str, *needs: str) -> None:
        self.name, self._needs = name, needs

    def lacking(self) -> str:
        """Return what is not installed, in words, or ""."""
        for need in self._needs:
            if importlib.util.find_spec(need) is None and shutil.which(need) is None:
                return f"{need} is not installed"
        return ""

    def index(self, videos: Path, folder: Path) -> None:
        """Read every video, and keep what is needed in a folder."""
        raise NotImplementedError

    def ask(self, path: Path, is_picture: bool) -> list[Answer]:
        """Return answers, best first."""
        raise NotImplementedError


class Ours(Method):
    """``ccl_hub.find``.

    Args:
        model: A name or folder; "random" for random weights.
        whiten: Whiten on the library.
    """

    def __init__(self, model: str, whiten: bool = False) -> None:
        super().__init__(f"ours {model}{' whitened' if whiten else ''}", "lancedb")
        self._model, self._whiten = model, whiten
        self.before: Path | None = None
        """Index of the same model, not whitened, to go on from."""

    def index(self, videos: Path, folder: Path) -> None:
        """See :class:`Method`."""
        from ccl_hub import CCLModel
        from ccl_hub.backends import make_engine
        from ccl_hub.find import Library

        model: Any = self._model
        if model == "random":
            import torch

            torch.manual_seed(0)
            model = [make_engine(CCLModel().eval())]
        if self._whiten and self.before is not None:
            shutil.copytree(self.before, folder, dirs_exist_ok=True)
        self.library = Library.create(folder, model)
        self.library.add([videos], whiten=self._whiten)

    def ask(self, path: Path, is_picture: bool) -> list[Answer]:
        """See :class:`Method`; also what is not sure, for the average precision."""
        hits = self.library.where(path, max_e=10.0)
        return [
            Answer(hit.video, hit.start, hit.end, -float(np.log(hit.e_value)), hit.e_value <= 0.01)
            for hit in hits[:ANSWERS]
        ]


Describe = Callable[[np.ndarray], np.ndarray]
"""(n, h, w, 3) uint8 frames -> (n, D) float32 rows of which the inner product is compared."""


def thumbnail(frames: np.ndarray) -> np.ndarray:
    """24 x 24 grey, centred, of length 1."""
    n, height, width, _ = frames.shape
    rows = np.linspace(0, height, THUMBNAIL_PX + 1).astype(int)[:-1]
    columns = np.linspace(0, width, THUMBNAIL_PX + 1).astype(int)[:-1]
    grey = frames.astype(np.float32).mean(axis=3)
    small = np.add.reduceat(np.add.reduceat(grey, rows, axis=1), columns, axis=2).reshape(n, -1)
    small -= small.mean(axis=1, keepdims=True)
    return small / np.maximum(np.linalg.norm(small, axis=1, keepdims=True), 1e-6)


def perceptual_hash(frames: np.ndarray) -> np.ndarray:
    """64-bit pHash of imagehash, as -1 and 1, so that the inner product is 64 - 2 distances."""
    import imagehash
    from PIL import Image

    bits = [imagehash.phash(Image.fromarray(frame)).hash.reshape(-1) for frame in frames]
    return np.where(np.stack(bits), 1.0, -1.0).astype(np.float32) / 8


def pdq_hash(frames: np.ndarray) -> np.ndarray:
    """256-bit PDQ of each frame: vPDQ, as hydrusvideodeduplicator uses it, is PDQ of frames."""
    import pdqhash

    bits = [np.asarray(pdqhash.compute(frame)[0]) for frame in frames]
    return np.where(np.stack(bits) > 0, 1.0, -1.0).astype(np.float32) / 16


class FrameMethod(Method):
    """A method that describes frames, and searches them exactly.

    Args:
        name: Shown in the table.
        describe: Describes frames.
        least: Inner product from which on its users call two frames the same.
        needs: Packages.
    """

    def __init__(self, name: str, describe: Describe, least: float, *needs: str) -> None:
        super().__init__(name, *needs)
        self._describe, self._least = describe, least

    def index(self, videos: Path, folder: Path) -> None:
        """See :class:`Method`."""
        from ccl_hub.inputs import find_videos

        names, times, rows = [], [], []
        for video in find_videos([videos]):
            seconds, described = self._rows(video.path, STEP)
            names += [video.id] * len(seconds)
            times.append(seconds)
            rows.append(described)
        self._names, self._times = np.array(names), np.concatenate(times)
        self._rows_all = np.concatenate(rows)
        np.save(folder / "rows.npy", self._rows_all.astype(np.float16))

    def _rows(self, path: Path, step: float) -> tuple[np.ndarray, np.ndarray]:
        from ccl_hub.config import Preprocessing
        from ccl_hub.frame_choice import on_screen_frames
        from ccl_hub.video import VideoReader

        small = Preprocessing(resize_height_px=128, resize_width_px=171)
        with VideoReader(path, resize=small) as reader:
            info = reader.info
            instants = np.arange(0, max(info.duration_seconds, step / 2), step)
            numbers = np.unique(on_screen_frames(info.seconds, instants, info.duration_seconds))
            found = list(reader.frames(numbers, skip_missing=True))
        seconds = info.seconds[[number for number, _ in found]]
        return seconds, self._describe(np.stack([frame for _, frame in found]))

    def ask(self, path: Path, is_picture: bool) -> list[Answer]:
        """See :class:`Method`; a cut is where most frames agree on the offset."""
        seconds, rows = self._rows(path, STEP / 2)
        scores = rows @ self._rows_all.T  # (n,R)
        near = np.argsort(-scores, axis=1)[:, :NEAREST]
        votes: dict[tuple[str, int], list[float]] = defaultdict(list)
        for number, found in enumerate(near):
            best: dict[tuple[str, int], float] = {}
            for row in found.tolist():
                offset = float(self._times[row]) - (0.0 if is_picture else float(seconds[number]))
                for place in (int(offset // 1.0), int((offset + 0.5) // 1.0)):
                    key = (str(self._names[row]), place)
                    best[key] = max(best.get(key, -1.0), float(scores[number, row]))
            for key, value in best.items():
                votes[key].append(value)
        length = 0.0 if is_picture else float(seconds[-1] + STEP / 2)
        answers = []
        for (name, place), values in votes.items():
            score = sum(max(0.0, value) for value in values) / len(seconds)
            sure = float(np.median(values)) >= self._least and len(values) * 2 > len(seconds)
            answers.append(Answer(name, place + 0.25, place + 0.25 + length, score, sure))
        return sorted(answers, key=lambda answer: -answer.score)[:ANSWERS]


class Signature(Method):
    """FFmpeg's MPEG-7 video signature, compared file with file as its filter does."""

    pairwise = True

    def __init__(self) -> None:
        super().__init__("MPEG-7 signature", "ffmpeg")

    def index(self, videos: Path, folder: Path) -> None:
        """See :class:`Method`: the filter reads both files at each comparison, so keep names."""
        from ccl_hub.inputs import find_videos

        self._videos = {video.id: video.path for video in find_videos([videos])}
        self._folder = folder

    def ask(self, path: Path, is_picture: bool) -> list[Answer]:
        """See :class:`Method`; pictures have no signature."""
        if is_picture:
            return []
        answers = []
        for name, video in self._videos.items():
            graph = "[0:v][1:v]signature=nb_inputs=2:detectmode=full:format=xml"
            command = ["ffmpeg", "-hide_banner", "-nostdin", "-i", str(video), "-i", str(path)]
            command += ["-filter_complex", graph, "-f", "null", "-"]
            done = subprocess.run(command, capture_output=True, text=True, errors="replace")
            for line in done.stderr.splitlines():
                if "matching of video" in line and "at" in line:
                    words = line.split()
                    start = float(words[words.index("at") + 1].rstrip(","))
                    frames = float(words[words.index("frames") - 1]) if "frames" in words else 0.0
                    answers.append(Answer(name, start, start + 3.0, frames, True))
        return sorted(answers, key=lambda answer: -answer.score)[:ANSWERS]


class Viddup(Method):
    """viddup: ten perceptual hashes of whole files of about one length; it has no stretches."""

    pairwise = True

    def __init__(self) -> None:
        super().__init__("viddup", "viddup")

    def index(self, videos: Path, folder: Path) -> None:
        """See :class:`Method`."""
        from ccl_hub.inputs import find_videos

        self._folder, self._videos = folder, videos
        self._names = {video.path.resolve(): video.id for video in find_videos([videos])}
        self._scan([videos])

    def _scan(self, folders: list[Path]) -> dict[str, Any]:
        reports = self._folder / "reports"
        shutil.rmtree(reports, ignore_errors=True)
        command = ["viddup", "scan", *map(str, folders), "--db", str(self._folder / "viddup.db")]
        command += ["--no-html", "--no-open", "--output", str(reports)]
        subprocess.run(command, check=True, capture_output=True)
        found = sorted(reports.glob("*.json"))
        return json.loads(found[-1].read_text()) if found else {}

    def ask(self, path: Path, is_picture: bool) -> list[Answer]:
        """See :class:`Method`; it has no pictures."""
        if is_picture:
            return []
        alone = self._folder / "asked"
        shutil.rmtree(alone, ignore_errors=True)
        alone.mkdir()
        shutil.copy(path, alone)
        report = self._scan([self._videos, alone])
        answers = []
        for kind in ("exact_duplicate_groups", "similar_duplicate_groups"):
            for group in report.get(kind, []):
                files = [Path(file["path"]).resolve() for file in group["files"]]
                names = [self._names[file] for file in files if file in self._names]
                if any(file.is_relative_to(alone.resolve()) for file in files):
                    score = group["similarity"]
                    answers += [Answer(name, 0.0, 3.0, score, True) for name in names]
        return sorted(answers, key=lambda answer: -answer.score)[:ANSWERS]


def PEERS(models: list[str]) -> list[Method]:  # noqa: N802 - a table that takes the models
    """Return every method, ours first."""
    ours = [Ours(model, whiten) for model in models for whiten in (False, True)]
    return [
        *ours,
        Ours("random"),
        FrameMethod("thumbnail 24x24", thumbnail, 0.95),
        FrameMethod("pHash", perceptual_hash, 1 - 2 * 8 / 64, "imagehash"),
        FrameMethod("vpdq", pdq_hash, 1 - 2 * 31 / 256, "pdqhash"),
        Viddup(),
        Signature(),
    ]
