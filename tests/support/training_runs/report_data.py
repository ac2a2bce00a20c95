"""Results made up for tests of the report; no figure in them was measured."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from ccl_hub.config import Preprocessing
from training.evaluation.features import SetFeatures
from training.evaluation.results import (
    Confusion,
    DataRecord,
    Measurement,
    ModelRecord,
    Results,
    write_results,
)
from training.frames.rendered import RenderedVideos

WEIZMANN = DataRecord("weizmann", "a" * 64, 60, 30, 10, "split by actor")
HOSTILE = "<script>document.title='broken'</script>|*x*"
SMALL = Preprocessing(resize_height_px=40, resize_width_px=48, crop_px=32, clip_frames=4)
CLASSES = ("bend", "<b>jump</b>", "walk")


def retrieval(value, *, spaces=("512", "128"), centred=(False,)):
    """Every figure of a retrieval, all of one value and a little more for each k."""
    figures = []
    for task in ("F=>V", "V=>F", "F=>F", "V=>V"):
        matches = ("exact clip", "same video") if task in ("F=>V", "V=>F") else ("class",)
        for space in spaces:
            for match in matches:
                for shift in centred:
                    figures += [
                        Measurement(
                            task, f"top-{k}", value + k / 1000, space, "clip", match, shift, 300
                        )
                        for k in (1, 5, 10, 20, 50)
                    ]
    return tuple(figures)


def result(label="ccl", value=0.5, seed=0, **changes):
    """Retrieval results of one row and seed."""
    reference = changes.pop("reference", False)
    values = {
        "kind": "retrieval",
        "model": ModelRecord(label, label, seed, "f" * 64, reference, "345 steps of 48 videos"),
        "data": WEIZMANN,
        "measurements": retrieval(value),
        "settings": {"clips": 10},
    }
    return Results(**(values | changes))


def classified(label="ccl", value=0.5, seed=0, task="linear", **changes):
    """Classification results of one row and seed."""
    kind = "linear-probe" if task == "linear" else "finetune"
    figures = (
        Measurement(task, "top-1", value, level="video", queries=30),
        Measurement(task, "macro-F1", value / 2, level="video", queries=30),
    )
    return result(label, value, seed, **({"kind": kind, "measurements": figures} | changes))


def everything():
    """Rows of all kinds, with a label that would be markup if it were not escaped."""
    confusion = Confusion(CLASSES, ((8, 2, 0), (1, 9, 0), (3, 3, 4)))
    results = []
    for seed in (0, 1, 2):
        results.append(result(HOSTILE, 0.6 + seed / 100, seed))
        results.append(result("random-init", 0.1, seed, reference=True))
        results.append(result("MSE", 0.2, seed, group="table 7"))
        results.append(
            classified(
                HOSTILE,
                0.4 + seed / 100,
                seed,
                confusion=confusion,
                curves={"loss <i>": [1.0, 0.5 + seed, 0.25]},
            )
        )
    results.append(result("one", 0.3, None, measurements=retrieval(0.3, centred=(False, True))))
    results.append(classified("one", 0.3, None, task="finetune"))
    return results


def write_all(results, folder: Path) -> Path:
    """Write results files and return their folder."""
    for one in results:
        write_results(one, folder)
    return folder


def rendered_set(count=24):
    """A labelled set of 24 videos, the last 8 of them for testing."""
    return RenderedVideos(count, SMALL)


def features_by(vectors, source, clips=2, frames=4):
    """Features of a set: ``vectors(video, clip)`` gives the vector of a clip and of its frames."""
    ids = np.repeat(np.arange(len(source)), clips)
    video = torch.stack([vectors(int(v), i % clips) for i, v in enumerate(ids)]).float()
    stacked = video[:, None].repeat(1, frames, 1)
    starts = np.tile(np.arange(clips) * 0.5, len(source))
    seconds = starts[:, None] + np.arange(frames) * 0.16
    spans = np.stack([starts, starts + 1], axis=1)
    return SetFeatures(stacked, video, stacked, video, ids, spans, seconds)
