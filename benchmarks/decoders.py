"""Our decoder beside others, on the frames that are sampled: ten clips of eight frames.

    python -m benchmarks.decoders FILM --work decoders-work [--rounds 3] [--only hevc-1080p-5s]

From the first ten seconds of FILM a file is made for each codec, size and length (long ones repeat
them without encoding anew, so that key frames lie as an encoder puts them), by FFmpeg, which must
be there. Each decoder opens a file and gives the same 80 frames as uint8 RGB of 128 x 171, with
its own way to resize where it has one; every decoder is a process of its own, which may use every
core, and rounds go in turns. A frame is right if it differs from what FFmpeg gives then, decoding
from the beginning, by less than 8 levels on average, and from the frames before and after it by no
less.

Told for each file: wanted frames per second (median of rounds, opening included), right frames of
80, and ours as a multiple of the best other. Others that are not installed are left out.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np

CODECS = {
    "h264": ("-c:v", "libx264", "-preset", "medium", "-crf", "26"),
    "hevc": ("-c:v", "libx265", "-preset", "fast", "-crf", "28", "-x265-params", "log-level=none"),
    "vp9": ("-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8", "-crf", "36"),
    "av1": ("-c:v", "libsvtav1", "-preset", "12", "-crf", "45"),
}
HEIGHTS = {360: (5, 60, 3600), 1080: (5, 60, 600), 2160: (5, 60)}
"""Heights, and lengths in seconds."""

SOURCE_SECONDS, RATE, CLIPS, FRAMES, STEP = 10, 30, 10, 8, 0.16
NEEDS = {"ours": "ccl_hub", "torchcodec": "torchcodec", "decord": "decord", "opencv": "cv2"}
DECODERS = (*NEEDS, "pyav")

READ = """
import json, sys, time
import numpy as np

name, path, out, indices = sys.argv[1], sys.argv[2], sys.argv[3], json.loads(sys.argv[4])
HEIGHT, WIDTH = 128, 171

def resized(frames):
    import cv2
    return np.stack([cv2.resize(f, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA) for f in frames])

def ours():
    from ccl_hub.config import Preprocessing
    from ccl_hub.video import VideoReader
    with VideoReader(path, resize=Preprocessing()) as reader:
        return np.stack([frame for _, frame in reader.frames(np.array(indices))])

def torchcodec():
    from torchcodec.decoders import VideoDecoder
    from torchvision.transforms import v2
    decoder = VideoDecoder(path, num_ffmpeg_threads=0, dimension_order="NHWC",
                           transforms=[v2.Resize((HEIGHT, WIDTH))])
    return decoder.get_frames_at(indices).data.numpy()

def decord():
    import decord
    reader = decord.VideoReader(path, width=WIDTH, height=HEIGHT, num_threads=0)
    return reader.get_batch(indices).asnumpy()

def opencv():
    import cv2
    capture, frames, at = cv2.VideoCapture(path), [], -1
    for index in indices:
        if index != at:
            capture.set(cv2.CAP_PROP_POS_FRAMES, index)
        frames.append(cv2.cvtColor(capture.read()[1], cv2.COLOR_BGR2RGB))
        at = index + 1
    return resized(frames)

def pyav():
    import av
    frames = {}
    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        tick = float(1 / stream.average_rate / stream.time_base)
        begin = stream.start_time or 0
        for clip in np.split(np.array(indices), CLIPS):
            container.seek(int(begin + clip[0] * tick), stream=stream)
            wanted = set(clip.tolist())
            for frame in container.decode(stream):
                index = round((frame.pts - begin) / tick)
                if index in wanted:
                    small = frame.reformat(WIDTH, HEIGHT, "rgb24", interpolation="AREA")
                    frames[index] = small.to_ndarray()
                if index >= clip[-1]:
                    break
    return np.stack([frames[index] for index in indices])

CLIPS = int(sys.argv[5])
read = globals()[name]
print("ready", flush=True)
for line in sys.stdin:
    began = time.perf_counter()
    frames = read()
    spent = time.perf_counter() - began
    np.save(out, frames)
    print(spent, flush=True)
"""


def ffmpeg(*arguments: str) -> None:
    """Run FFmpeg quietly."""
    command = ["ffmpeg", "-v", "error", "-y", *arguments]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)


def made(film: Path, work: Path) -> list[tuple[str, Path, int]]:
    """Make the files that are not there; return name, file and length in seconds of each."""
    files = []
    for codec, options in CODECS.items():
        for height, lengths in HEIGHTS.items():
            source = work / f"{codec}-{height}p.mkv"
            if not source.exists():
                making = source.with_suffix(".making.mkv")
                scaled = f"scale={height * 16 // 9}:{height}:flags=bicubic,setsar=1,fps={RATE}"
                form = ["-vf", scaled, "-pix_fmt", "yuv420p", *options]
                loop = ["-stream_loop", "-1", "-i", str(film), "-t", str(SOURCE_SECONDS)]
                ffmpeg(*loop, *form, "-an", str(making))
                making.rename(source)
            for seconds in lengths:
                out = work / f"{codec}-{height}p-{seconds}s.mp4"
                if not out.exists():
                    making = out.with_suffix(".making.mp4")
                    loop = ["-stream_loop", str(seconds // SOURCE_SECONDS), "-i", str(source)]
                    ffmpeg(*loop, "-c", "copy", "-t", str(seconds), str(making))
                    making.rename(out)
                files.append((out.stem, out, seconds))
    return files


def wanted(seconds: int) -> np.ndarray:
    """Return the (80,) indices of ten clips of eight frames, evenly spread."""
    length = (FRAMES - 1) * STEP
    starts = np.linspace(0, seconds - length - 2 / RATE, CLIPS)
    return np.round((starts[:, None] + np.arange(FRAMES) * STEP) * RATE).astype(int).reshape(-1)


def truth(path: Path) -> np.ndarray:
    """Return the (n, 128, 171, 3) frames of the source, decoded from the beginning by FFmpeg."""
    scale = ["-vf", "scale=171:128:flags=area", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    command = ["ffmpeg", "-v", "error", "-i", str(path), *scale]
    done = subprocess.run(command, check=True, capture_output=True, stdin=subprocess.DEVNULL)
    return np.frombuffer(done.stdout, np.uint8).reshape(-1, 128, 171, 3)


def right(frames: np.ndarray, source: np.ndarray, indices: np.ndarray) -> int:
    """Return how many frames are those of their index; the source repeats."""
    count = 0
    for frame, index in zip(frames, indices, strict=True):
        near = [source[(index + shift) % len(source)].astype(np.int16) for shift in (-1, 0, 1)]
        away = [float(np.abs(frame.astype(np.int16) - other).mean()) for other in near]
        count += away[1] < 8 and away[1] <= min(away)
    return count


def measured(name: str, path: Path, seconds: int, work: Path, rounds: int) -> dict[str, object]:
    """Read a file by every decoder in turns."""
    indices, source = wanted(seconds), truth(work / f"{name.rsplit('-', 1)[0]}.mkv")
    out = work / "frames.npy"
    running = {}
    for decoder in DECODERS:
        if decoder in NEEDS and importlib.util.find_spec(NEEDS[decoder]) is None:
            continue
        program = [sys.executable, "-c", READ, decoder, str(path), str(out)]
        program += [json.dumps(indices.tolist()), str(CLIPS)]
        running[decoder] = subprocess.Popen(
            program,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
    spent: dict[str, list[float]] = {decoder: [] for decoder in running}
    good: dict[str, int] = {}
    for number in range(rounds + 1):  # the first imports
        for decoder, process in running.items():
            out.unlink(missing_ok=True)
            if number == 0:
                process.stdout.readline()  # type: ignore[union-attr]
            if process.poll() is None:
                process.stdin.write("\n")  # type: ignore[union-attr]
                process.stdin.flush()  # type: ignore[union-attr]
            answer = process.stdout.readline()  # type: ignore[union-attr]
            if number and answer:
                spent[decoder].append(float(answer))
                good[decoder] = right(np.load(out), source, indices)
    for process in running.values():
        process.stdin.close()  # type: ignore[union-attr]
        process.wait()
    speed = {d: len(indices) / statistics.median(times) for d, times in spent.items() if times}
    others = {d: value for d, value in speed.items() if d != "ours" and good[d] == len(indices)}
    best = max(others, key=lambda decoder: others[decoder], default="")
    return {
        "file": name,
        "frames_per_second": speed,
        "right": good,
        "failed": [decoder for decoder in running if decoder not in speed],
        "best_other": best,
        "ratio": speed.get("ours", 0.0) / others[best] if best else None,
    }


def main(arguments: list[str] | None = None) -> int:
    """Make the files, measure each, and print a line of JSON for each."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.decoders", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("film", type=Path, help="any video; its first ten seconds are taken")
    parser.add_argument(
        "--work", type=Path, default=Path("decoders-work"), help="for what is made"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", action="append", help="a file, such as hevc-1080p-5s")
    options = parser.parse_args(arguments)
    if shutil.which("ffmpeg") is None:
        parser.error("ffmpeg is not installed; it makes the files")
    options.work.mkdir(parents=True, exist_ok=True)
    for name, path, seconds in made(options.film.resolve(), options.work.resolve()):
        if not options.only or name in options.only:
            facts = measured(name, path, seconds, options.work.resolve(), options.rounds)
            print(json.dumps(facts), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
