"""Run by :mod:`.steps` on one tree: what a user's program computes, into files of ``.``.

    python -P probe.py TREE VIDEOS EXAMPLE IMAGE

Every name used here is public in every tree, except those of :data:`MOVED`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

import ccl_hub
from ccl_hub import CCLModel
from ccl_hub.config import Preprocessing
from ccl_hub.errors import CCLError, MediaError
from ccl_hub.sampling import Sampling, sample_train
from ccl_hub.video import VideoReader, load_image

MOVED = {"golden": ("ccl_hub.publish.golden", "ccl_hub.golden")}  # the newest name first
MODEL = "ccl_r18_mini"


def moved(name: str) -> ModuleType:
    """Return a module by the name that it has in this tree."""
    for full_name in MOVED[name]:
        try:
            return importlib.import_module(full_name)
        except ModuleNotFoundError:
            continue
    raise ModuleNotFoundError(f"{name}: this tree has none of {', '.join(MOVED[name])}")


def write_json(path: str, value: Any) -> None:
    """Write a value as JSON; values of other types are written as text."""
    Path(path).write_text(json.dumps(value, indent=1, sort_keys=True, default=str))


def times() -> dict[str, tuple[np.ndarray, float]]:
    """Return presentation times and durations of videos of many kinds."""
    generator = np.random.default_rng(0)
    uneven = np.cumsum(generator.choice([0.01, 0.04, 0.04, 0.5], 200))
    return {
        "one": (np.zeros(1), 0.04),
        "short": (np.arange(5) / 25, 0.2),
        "pal": (np.arange(250) / 25, 10.0),
        "ntsc": (np.arange(300) * 1001 / 30000, 10.01),
        "uneven": (uneven - uneven[0], float(uneven[-1] - uneven[0] + 0.04)),
        "late": (np.arange(100) / 12.5 + 0.7, 8.9),
    }


def sampling_plans() -> None:
    """Write the frames of every clip, for both rules, all ways to sample, and training."""
    plans = {}
    for rule in ("nearest", "on_screen"):
        preprocessing = dataclasses.replace(Preprocessing(), frame_choice=rule)
        for name, (seconds, duration) in times().items():
            samplings = [Sampling(clips=n) for n in (1, 3, 10)]
            samplings += [Sampling(every_seconds=step) for step in (0.04, 0.3, 1.0)]
            for sampling in samplings:
                plan = sampling.plan(seconds, duration, preprocessing)
                for part, value in dataclasses.asdict(plan).items():
                    plans[f"{rule}/{name}/{sampling}/{part}"] = value
            generator = np.random.default_rng(7)
            for draw in range(5):
                length = preprocessing.clip_frames, preprocessing.frame_interval_seconds
                chosen = sample_train(seconds, duration, *length, generator, 2, rule)
                plans[f"{rule}/{name}/train {draw}"] = chosen
    np.savez("sampling.npz", **plans)


def decoded(videos: Path) -> None:
    """Write what the reader tells of every file, and the hash of every resized frame."""
    facts: dict[str, Any] = {}
    for path in sorted(path for path in videos.rglob("*") if path.is_file()):
        name = str(path.relative_to(videos))
        try:
            with VideoReader(path, resize=Preprocessing()) as reader:
                hashes = [
                    hashlib.sha256(np.ascontiguousarray(frame)).hexdigest()
                    for _, frame in reader.frames(range(len(reader.info.seconds)))
                ]
                info = {
                    key: value.tolist() if isinstance(value, np.ndarray) else value
                    for key, value in dataclasses.asdict(reader.info).items()
                }
                facts[name] = {"info": info, "frames": hashes}
        except MediaError as error:
            facts[name] = {"code": error.code}
    write_json("decoded.json", facts)


def in_memory(model: CCLModel, image: Path) -> None:
    """Embed frames and images that are arrays already, and run the network itself."""
    import torch

    pixels = load_image(image, model.preprocessing)[0]  # (H,W,3)
    numbers = np.arange(60)[:, None, None, None]
    frames = (pixels[None].astype(np.int64) + 3 * numbers).astype(np.uint8)
    seconds = np.arange(60) / 25
    results = {
        "frames": model.embed_frames(frames, seconds, clips=3),
        "windows": model.embed_frames(frames, seconds, every_seconds=0.1, batch_size=2),
        "path": model.embed_image(image),
        "array": model.embed_image(pixels),
    }
    arrays = {"pixels": pixels}
    for name, result in results.items():
        for part in ("clips", "frames", "video", "clip_seconds", "frame_seconds"):
            arrays[f"{name}/{part}"] = getattr(result, part)
    clips = torch.randn((2, 3, 8, 112, 112), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        output = model(clips)
    arrays |= {"forward/video": output.video.numpy(), "forward/frames": output.frames.numpy()}
    np.savez("in_memory.npz", **arrays)
    write_json(
        "provenance.json", {k: dataclasses.asdict(r.provenance) for k, r in results.items()}
    )


def whole_videos(model: CCLModel, example: Path, videos: Path) -> None:
    """Write what ``embed`` and ``embed_many`` return, in every format."""
    result = model.embed(example, every_seconds=0.5)
    for suffix in (".npz", ".safetensors"):
        result.save(Path(f"saved{suffix}"))
    paths = sorted((videos / "classes").rglob("*.mp4"))[::5]
    options = ccl_hub.BatchOptions(workers=1, threads=1)
    items = ccl_hub.embed_many([*paths, videos / "odd" / "text.mp4"], model, options=options)
    arrays = {}
    for item in sorted(items, key=lambda item: str(item.path)):
        name = str(item.path.relative_to(videos))
        arrays[name] = np.zeros(0) if item.embeddings is None else item.embeddings.clips
    np.savez("embed_many.npz", **arrays)


def other_loaders(tree: Path) -> None:
    """Load the same model by torch.hub and by transformers, and run it."""
    import torch

    clips = torch.randn((1, 3, 8, 112, 112), generator=torch.Generator().manual_seed(1))
    models = {"torch hub": torch.hub.load(str(tree), MODEL, source="local", device="cpu")}
    if importlib.util.find_spec("transformers"):
        importlib.import_module("ccl_hub.hf_transformers")
        models["transformers"] = importlib.import_module("transformers").AutoModel.from_pretrained(
            "./saved"
        )
    with torch.inference_mode():
        outputs = {name: model(clips).video.numpy() for name, model in models.items()}
    np.savez("other_loaders.npz", **outputs)


def errors() -> None:
    """Write the tree of errors: names, parents, codes."""
    kinds = [CCLError]
    for kind in kinds:
        kinds += kind.__subclasses__()
    tree = {
        kind.__name__: [getattr(kind, "code", None), *(base.__name__ for base in kind.__bases__)]
        for kind in kinds
    }
    write_json("errors.json", tree)


def main(tree: Path, videos: Path, example: Path, image: Path) -> None:
    """Write everything into the working folder."""
    path = Path(ccl_hub.__file__).resolve()
    if not path.is_relative_to(tree):
        raise SystemExit(f"ccl_hub was imported from {path}, not from {tree}.")
    model = CCLModel.from_pretrained(MODEL, device="cpu")
    model.save_pretrained(Path("saved"))
    Path("golden").mkdir()
    moved("golden").write(model, Path("golden"))
    sampling_plans()
    decoded(videos)
    in_memory(model, image)
    whole_videos(model, example, videos)
    other_loaders(tree)
    errors()


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
