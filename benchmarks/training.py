"""What training makes of loader and step together, beside each alone and beside the naive way.

    python -m benchmarks.training mini --set data.pack=PACK --videos VIDEOS --out training.json

Four things are timed in turns, so that a busy machine slows all alike, in clips per second (two
views of a video are two clips): ``loader`` (batches alone), ``step`` (forward, objective, backward
and update on augmented clips that are there), ``both`` (what ``training.pretrain`` does: loader,
augmentation and step) and, given the same videos unpacked, ``naive`` (whole videos decoded for
every clip, and the same network written with Conv3d). Where ``both`` equals ``step``, training
never waits for the loader.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import nn

from benchmarks.loader import NaiveVideos, Row
from benchmarks.train_step import Conv3dNetwork, machine
from ccl_hub import CCLModel
from ccl_hub._util.files import write_atomically
from training.clips.loader import Batch
from training.clips.source import Chunk, ClipSource, open_source
from training.data.datasets import VideoList
from training.data.sources import list_videos
from training.distributed.world import World, backward_step
from training.frames.files import VideoFolderStore
from training.recipes.pretraining import Recipe, read_recipe


def endless(source: ClipSource, device: torch.device) -> Iterator[Batch]:
    """Yield the batches of one epoch after the other."""
    epoch = 0
    while True:
        with source.batches(epoch, 0, World(device=device)) as batches:
            yield from batches
        epoch += 1


def updater(
    recipe: Recipe, network: nn.Module, device: torch.device
) -> Callable[[list[Chunk]], None]:
    """Return a function that does one update and waits for it."""
    network.to(device).train()
    if recipe.precision.compile:
        network.compile()
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-4, momentum=0.9)
    dtype = torch.bfloat16 if recipe.precision.autocast == "bf16" else None

    def update(chunks: list[Chunk]) -> None:
        losses = backward_step(network, recipe.objective, chunks, World(device=device), dtype)
        optimizer.step()
        losses["total"].item()

    return update


def rows(
    recipe: Recipe, videos: Path | None, crop_px: int, steps: int, device: torch.device
) -> list[Row]:
    """Return what is timed; each round of a row takes ``steps`` batches, one of ``naive``."""
    torch.manual_seed(recipe.seed)
    clips = recipe.optim.batch * recipe.data.views
    source = open_source(recipe, device)
    batches = endless(source, device)
    update = updater(recipe, CCLModel(recipe.model_config), device)
    held = source.augmented_chunks(next(batches), crop_px)

    def load() -> int:
        for _ in range(steps):
            next(batches)
        return steps * clips

    def step() -> int:
        for _ in range(steps):
            update(held)
        return steps * clips

    def both() -> int:
        for _ in range(steps):
            update(source.augmented_chunks(next(batches), crop_px))
        return steps * clips

    found = [Row("loader", load), Row("step", step), Row("both", both)]
    if videos is None:
        return found
    listed = list_videos(videos)
    part = VideoList("part", listed.items[: recipe.optim.batch], listed.classes)
    files = VideoFolderStore(part, recipe.preprocessing)
    naive_source = ClipSource(recipe, NaiveVideos(files), device)
    naive_batches = endless(naive_source, device)
    naive_update = updater(recipe, Conv3dNetwork(CCLModel(recipe.model_config)), device)

    def naive() -> int:
        naive_update(naive_source.augmented_chunks(next(naive_batches), crop_px))
        return clips

    return [*found, Row("naive", naive)]


def main(arguments: list[str] | None = None) -> int:
    """Measure, print a table to stdout and write JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("recipe", help="as for training.pretrain")
    parser.add_argument("--set", dest="changes", action="append", default=[])
    parser.add_argument("--videos", type=Path, help="the videos unpacked: folder or manifest")
    parser.add_argument("--crop-px", type=int, default=112)
    parser.add_argument("--steps", type=int, default=5, help="steps in each round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    options = parser.parse_args(arguments)
    recipe = read_recipe(options.recipe, options.changes)
    wanted = recipe.precision.device
    cuda = wanted == "cuda" or (wanted == "auto" and torch.cuda.is_available())
    device = torch.device("cuda" if cuda else "cpu")
    torch.backends.cudnn.benchmark = cuda
    if recipe.precision.threads:
        torch.set_num_threads(recipe.precision.threads)
    timed = rows(recipe, options.videos, options.crop_px, options.steps, device)
    for row in timed:
        row.run()
    for _ in range(options.rounds):
        for row in timed:
            row.measure()
    report = {
        "command": "python -m benchmarks.training " + " ".join(arguments or sys.argv[1:]),
        "machine": machine(device),
        "recipe": recipe.to_dict(),
        "crop_px": options.crop_px,
        "rows": [row.result() for row in timed],
    }
    for row in report["rows"]:
        low, high = row["spread"]
        print(f"{row['name']:8} {row['clips_per_second']:9.2f} clips/s ({low:.2f} to {high:.2f})")
    if options.out:
        write_atomically(options.out, json.dumps(report, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
