"""Where in my videos is this: ours beside its peers, on edits whose answer is known.

    python -m benchmarks.find ../shared/data --out find.json

VIDEOS has folders ``find`` and ``eval``, of which queries are made (never trained on), and
``pretrain``. The library is every clip of them, and ``--distractor-hours`` of others that are made
by joining and re-timing clips of ``pretrain``. Queries are single frames and cuts of 3 s under 14
edits and unedited, ``--queries`` of each, and ``--strangers`` queries that are not in the library:
their clips are left out of it.

Told for each method and edit: frames whose video is right and place within 1 s; cuts whose best
segment has an intersection over union of 0.5 or more; how many of both are sure, too; the micro
average precision of all answers with distractors; hits of strangers at E <= 0.01; seconds to index
and to ask, bytes on disk. A method that compares each question with every file anew is asked
``--pairwise`` questions of each edit, among the videos of those questions alone, which flatters
it. Methods: ours with each ``--model``, plain and whitened; random weights; and the peers of
``benchmarks.find_peers``, those that are installed.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections import defaultdict
from dataclasses import asdict, dataclass
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.find_peers import PEERS, Answer, Method, Ours
from ccl_hub._util.files import write_atomically

SECONDS, FRAME_PLACE, LEAST_IOU, MAX_E = 3.0, 1.0, 0.5, 0.01
NOISE = "noise=alls=14:allf=t"
EDITS = {
    "unedited": "null",
    "recompressed": "null",  # by the quality below
    "half size": "scale=iw/2:ih/2",
    "crop to 60 %": "crop=iw*0.775:ih*0.775",
    "mirrored": "hflip",
    "letterboxed": "pad=iw:ih*1.33:0:(oh-ih)/2",
    "logo and text": "drawbox=0:0:iw*0.4:ih*0.25:white:fill,"
    "drawbox=iw*0.45:ih*0.8:iw*0.5:ih*0.2:navy:fill",
    "grey": "hue=s=0",
    "brightness, contrast": "eq=brightness=0.1:contrast=1.3",
    "blur": "gblur=sigma=3",
    "rotated 10 degrees": "rotate=10*PI/180:c=black",
    "picture in picture": "scale=iw/2:ih/2,pad=iw*2:ih*2:iw*0.5:ih*0.9:0x335577",
    "speed 1.25": "setpts=PTS/1.25",
    "speed 0.8": "setpts=PTS/0.8",
    "filmed off a screen": "perspective=x0=W*0.04:y0=H*0.06:x1=W*0.97:y1=0:x2=0:y2=H*0.95"
    f":x3=W*0.94:y3=H,{NOISE},geq=lum='lum(X,Y)+9*sin(X*1.3+Y*0.4)':cb='cb(X,Y)':cr='cr(X,Y)'",
}
QUALITY = {"recompressed": "36"}
SPEED = {"speed 1.25": 1.25, "speed 0.8": 0.8}


@dataclass(frozen=True)
class Question:
    """A query and its answer.

    Args:
        path: The file.
        edit: What was done to it; "stranger" if it is not in the library.
        is_picture: A frame, not a cut.
        video: Name of the video that it is from, "" for strangers.
        start: Where it begins there.
        end: Where it ends.
    """

    path: Path
    edit: str
    is_picture: bool
    video: str
    start: float
    end: float


def ffmpeg(*arguments: str) -> None:
    """Run FFmpeg on one thread, quietly."""
    command = ["ffmpeg", "-v", "error", "-y", "-threads", "1", *arguments]
    subprocess.run(command, check=True, capture_output=True, stdin=subprocess.DEVNULL)


def duration_of(path: Path) -> float:
    """Return the length of a video."""
    from ccl_hub.config import Preprocessing
    from ccl_hub.video import VideoReader

    with VideoReader(path, resize=Preprocessing()) as reader:
        return reader.info.duration_seconds


def videos_of(folder: Path) -> list[Path]:
    """Return the videos below a folder, by name."""
    from ccl_hub.inputs import find_videos

    return [video.path for video in find_videos([folder])]


def distractors(sources: list[Path], folder: Path, hours: float, seed: int = 0) -> None:
    """Make videos of two minutes by joining pieces of others at other speeds."""
    folder.mkdir(parents=True, exist_ok=True)

    def make(number: int) -> None:
        out = folder / f"distractor-{number:04}.mp4"
        if out.exists():
            return
        generator = np.random.default_rng([seed, number])
        inputs, filters, parts = [], [], 26  # clips of about five seconds
        for part, source in enumerate(generator.choice(len(sources), parts)):
            inputs += ["-t", "12", "-i", str(sources[source])]
            speed = generator.uniform(0.7, 1.4)
            filters.append(
                f"[{part}:v]setpts=PTS/{speed:.3f},fps=12,scale=320:240,setsar=1[v{part}]"
            )
        joined = "".join(f"[v{part}]" for part in range(parts))
        graph = ";".join([*filters, f"{joined}concat=n={parts}:v=1:a=0"])
        making = out.with_suffix(".making.mp4")  # what is there is whole
        ffmpeg(*inputs, "-filter_complex", graph, "-t", "120", "-crf", "28", str(making))
        making.rename(out)

    with ThreadPool() as pool:
        pool.map(make, range(round(hours * 30)), chunksize=1)


def questions(
    sources: list[tuple[str, Path]], folder: Path, each: int, edits: list[str], seed: int = 1
) -> list[Question]:
    """Make frames and cuts under every edit, of videos that are long enough.

    Args:
        sources: Names in the library and files.
        folder: Where queries are kept; what is there is not made again.
        each: Frames, and as many cuts, for each edit.
        edits: Names of EDITS, or "stranger".
        seed: Of what is chosen.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lengths = {path: duration_of(path) for _, path in sources}
    long_enough = [(name, path) for name, path in sources if lengths[path] >= 2 * SECONDS]
    asked, missing = [], []
    for edit in edits:
        generator = np.random.default_rng([seed, *edit.encode()])
        for number in range(each):
            name, path = long_enough[int(generator.integers(len(long_enough)))]
            length = SECONDS * SPEED.get(edit, 1.0)
            start = float(generator.uniform(0.2, lengths[path] - length - 0.2))
            slug = edit.replace(" ", "-").replace("%", "").replace(",", "")
            cut = folder / f"{slug}-{number:04}.mp4"
            if not cut.exists():
                missing.append((cut, path, start, length, edit))
            video = "" if edit == "stranger" else name
            asked.append(Question(cut, edit, False, video, start, start + length))
            if edit not in SPEED:
                picture = cut.with_suffix(".png")
                asked.append(Question(picture, edit, True, video, start, start))
    with ThreadPool() as pool:
        pool.starmap(make_query, missing, chunksize=1)
    return asked


def make_query(cut: Path, source: Path, start: float, length: float, edit: str) -> None:
    """Write a cut of a source under an edit, and its first frame as a PNG beside it."""
    making = cut.with_suffix(".making.mp4")  # what is there is whole
    filters = f"{EDITS.get(edit, 'null')},scale=trunc(iw/2)*2:trunc(ih/2)*2"
    at = ["-ss", f"{start:.3f}", "-t", f"{length:.3f}", "-i", str(source), "-an"]
    form = ["-vf", filters, "-crf", QUALITY.get(edit, "20"), "-pix_fmt", "yuv420p"]
    ffmpeg(*at, *form, str(making))
    ffmpeg("-i", str(making), "-frames:v", "1", str(cut.with_suffix(".png")))
    making.rename(cut)


def is_right(question: Question, answer: Answer) -> bool:
    """Whether an answer is the video and the place."""
    if answer.video != question.video:
        return False
    if question.is_picture:
        return answer.start - FRAME_PLACE <= question.start <= answer.end + FRAME_PLACE
    both = min(answer.end, question.end) - max(answer.start, question.start)
    either = max(answer.end, question.end) - min(answer.start, question.start)
    return either > 0 and both / either >= LEAST_IOU


def average_precision(scored: list[tuple[float, bool]], wanted: int) -> float:
    """Return the micro average precision of answers to all questions together.

    Example:
        >>> average_precision([(3.0, True), (2.0, False), (1.0, True)], 2)
        0.8333333333333333
    """
    right, total = 0, 0.0
    for rank, (_, good) in enumerate(sorted(scored, key=lambda pair: -pair[0]), 1):
        right += good
        total += good * right / rank
    return total / max(1, wanted)


def measure(method: Method, library: Path, asked: list[Question], folder: Path) -> dict[str, Any]:
    """Index the library by one method, ask it everything, and return the figures."""
    began = time.perf_counter()
    method.index(library, folder)
    facts: dict[str, Any] = {"method": method.name, "index_seconds": time.perf_counter() - began}
    facts["disk_bytes"] = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    recall: dict[str, list[bool]] = defaultdict(list)
    recall_sure: dict[str, list[bool]] = defaultdict(list)
    scored: list[tuple[float, bool]] = []
    sure = {"right": 0, "wrong": 0, "strangers": 0}
    spent = []
    for question in asked:
        began = time.perf_counter()
        answers = method.ask(question.path, question.is_picture)
        spent.append(time.perf_counter() - began)
        kind = "frames" if question.is_picture else "cuts"
        if question.edit == "stranger":
            scored += [(answer.score, False) for answer in answers]
            sure["strangers"] += any(answer.is_sure for answer in answers)
            continue
        goods = [is_right(question, answer) for answer in answers]
        recall[f"{question.edit}, {kind}"].append(bool(goods and goods[0]))
        first_is_sure = bool(answers and answers[0].is_sure)
        recall_sure[f"{question.edit}, {kind}"].append(first_is_sure and goods[0])
        scored += [
            (answer.score, good and not any(goods[:number]))
            for number, (answer, good) in enumerate(zip(answers, goods, strict=True))
        ]
        for answer in answers:
            if answer.is_sure:
                sure["right" if answer.video == question.video else "wrong"] += 1
    wanted = sum(question.edit != "stranger" for question in asked)
    strangers = sum(question.edit == "stranger" for question in asked)
    return {
        **facts,
        "ask_seconds_median": float(np.median(spent)),
        "recall": {name: float(np.mean(values)) for name, values in recall.items()},
        "recall_sure": {name: float(np.mean(values)) for name, values in recall_sure.items()},
        "micro_average_precision": average_precision(scored, wanted),
        "precision_when_sure": sure["right"] / max(1, sure["right"] + sure["wrong"]),
        "strangers_with_hits": sure["strangers"],
        "strangers": strangers,
    }


def among(videos: Path, asked: list[Question], folder: Path) -> Path:
    """Link the videos of some questions into a folder, made anew, and return it."""
    shutil.rmtree(folder, ignore_errors=True)
    for name in {question.video for question in asked} - {""}:
        link = folder / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to((videos / name).resolve())
    return folder


def table(results: list[dict[str, Any]]) -> str:
    """Return the figures as two tables in Markdown: of methods, and of edits."""
    rows = [
        "| method | frames | cuts | sure frames | sure cuts | average precision "
        "| precision when sure | strangers found | answer | index | disk |",
        "|---" * 11 + "|",
    ]
    for facts in results:
        mean = {
            sure + kind: np.mean([v for name, v in facts[sure].items() if name.endswith(kind)])
            for sure in ("recall", "recall_sure")
            for kind in ("frames", "cuts")
        }
        rows.append(
            f"| {facts['method']} | {100 * mean['recallframes']:.0f} "
            f"| {100 * mean['recallcuts']:.0f} | {100 * mean['recall_sureframes']:.0f} "
            f"| {100 * mean['recall_surecuts']:.0f} "
            f"| {facts['micro_average_precision']:.3f} | {facts['precision_when_sure']:.3f} "
            f"| {facts['strangers_with_hits']} of {facts['strangers']} "
            f"| {facts['ask_seconds_median']:.2f} s | {facts['index_seconds']:.0f} s "
            f"| {facts['disk_bytes'] / 1e6:.0f} MB |"
        )
    names = [facts["method"] for facts in results]
    rows += ["", f"| edit | {' | '.join(names)} |", "|---" * (1 + len(names)) + "|"]
    for edit in EDITS:
        cells = []
        for facts in results:
            kinds = [facts["recall"].get(f"{edit}, {kind}") for kind in ("frames", "cuts")]
            cells.append(" / ".join("" if v is None else f"{100 * v:.0f}" for v in kinds))
        rows.append(f"| {edit} | {' | '.join(cells)} |")
    return "\n".join(rows)


def library_of(data: Path, folder: Path, hours: float, strangers: int) -> tuple[Path, list, list]:
    """Link all clips into one folder; return it, the sources of queries, and the strangers."""
    videos = folder / "videos"
    sources, outside = [], []
    for name in ("find", "eval", "pretrain"):
        if not (data / name).is_dir():
            continue
        clips = videos_of(data / name)
        if name == "find":  # every tenth stays outside, and strangers are made of it
            outside = clips[::10] if strangers else []
            clips = [clip for clip in clips if clip not in set(outside)]
        for clip in clips:
            link = videos / name / clip.relative_to(data / name)
            link.parent.mkdir(parents=True, exist_ok=True)
            if not link.exists():
                link.symlink_to(clip.resolve())
            if name != "pretrain":
                sources.append((f"{name}/{clip.relative_to(data / name)}", clip))
    if hours and (data / "pretrain").is_dir():
        distractors(videos_of(data / "pretrain"), videos / "distractors", hours)
    return videos, sources, [("", clip) for clip in outside]


def main(arguments: list[str] | None = None) -> int:
    """Make the library and the questions, measure each method, print and write the figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.find", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("videos", type=Path, help="folder with find, eval and pretrain")
    parser.add_argument("--work", type=Path, default=Path("find-work"), help="for what is made")
    parser.add_argument("--queries", type=int, default=200, help="of each edit")
    parser.add_argument("--strangers", type=int, default=500)
    parser.add_argument("--distractor-hours", type=float, default=10.0)
    parser.add_argument("--model", action="append", help="of ours; the default model if none")
    parser.add_argument(
        "--methods", help="how names begin, as 'ours ccl_lite0,pHash'; all if not given"
    )
    parser.add_argument("--go-on", action="store_true", help="with the indexes that are there")
    parser.add_argument("--pairwise", type=int, default=2, help="questions for slow methods")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    options = parser.parse_args(arguments)
    if shutil.which("ffmpeg") is None:
        parser.error("ffmpeg is not installed; it makes the edits")
    data = options.videos.resolve()
    videos, sources, outside = library_of(
        data, options.work.resolve(), options.distractor_hours, options.strangers
    )
    asked = questions(sources, options.work / "queries", options.queries, list(EDITS))
    count = options.strangers // 2  # a frame and a cut of each
    if outside:
        asked += questions(outside, options.work / "strangers", count, ["stranger"])
    results: list[dict[str, Any]] = []
    spent: dict[str, float] = {}
    for method in PEERS(options.model or ["ccl_lite0", "ccl_r18_mini"]):
        chosen = (options.methods or "").split(",")
        if not any(method.name.startswith(name) for name in chosen):
            continue
        lacking = method.lacking()
        if lacking:
            print(f"{method.name}: left out, {lacking}", file=sys.stderr)
            continue
        folder = options.work / "indexes" / method.name.replace(" ", "-").replace("/", "-")
        plain = method.name.removesuffix(" whitened")
        if isinstance(method, Ours) and plain in spent:
            method.before = folder.with_name(folder.name.removesuffix("-whitened"))
        if not options.go_on:
            shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        searched, some = videos, asked
        if method.pairwise:
            some = [q for q in asked if q.video and int(q.path.stem[-4:]) < options.pairwise]
            searched = among(videos, some, options.work / "few")
        facts = measure(method, searched, some, folder)
        if isinstance(method, Ours):
            facts["index_seconds"] += spent.get(plain, 0.0)  # it went on from there
        spent[method.name] = facts["index_seconds"]
        results.append(facts)
        print(json.dumps(results[-1]), flush=True)
    if options.out:
        facts = {"arguments": {name: str(value) for name, value in vars(options).items()}}
        questions_facts = [asdict(question) | {"path": str(question.path)} for question in asked]
        report = {**facts, "questions": questions_facts, "results": results}
        write_atomically(options.out, json.dumps(report, indent=2) + "\n")
    print(table(results))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
