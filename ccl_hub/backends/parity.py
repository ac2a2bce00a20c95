"""Whether a runtime gives torch's numbers for a model: compared once for each, and remembered.

    remembered? --no--> golden values beside the weights? --no, or they differ--> torch itself

A runtime is another one with each version and on each kind of processor: one that computes in
bfloat16 where the processor can is found here, before its first vector is used. What was found
lies in the cache and holds for these weights, this configuration and this graph alone; a record
that is damaged, stale or somebody else's is as good as none.
"""

from __future__ import annotations

import hashlib
import json
import logging
import platform
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .._util.files import make_folder, write_atomically
from .._util.machine import cache_folder
from .._version import __version__
from ..config import Preprocessing
from ..errors import ExportError, ModelError, OutputError
from ..network.frame_maps import GRAPH_VERSION, FrameMaps
from ..network.model_files import GOLDEN_NAME, beside
from ..network.stored import StoredNetwork
from ..network.windows import WindowAssembler
from .engine import Engine

if TYPE_CHECKING:
    from ..network.architecture import CCLNetwork

logger = logging.getLogger(__name__)

TOLERANCE = 1e-4
"""Largest difference allowed, as a share of the largest value. Observed: 4e-6."""


def check_same(engine: Engine) -> None:
    """Refuse an engine whose numbers are not torch's.

    A model that is in torch is compared with it each time; of one that was read from its files
    the answer is remembered, and torch is loaded only where nothing else tells.

    Raises:
        ExportError: Shape or type differ, or the values by more than 1e-4 of the largest.
    """
    model: Any = engine.model
    if isinstance(model, StoredNetwork):
        difference = _known_difference(engine, model)
    else:
        difference = difference_from_torch(engine, model)
    if not difference <= TOLERANCE:  # NaN never is
        raise ExportError(
            f"{engine.info.backend} ({engine.info.runtime}) gives vectors or parts that differ "
            f"from torch's by {difference:.2g} of the largest value, allowed is {TOLERANCE:g}; "
            "use the backend torch, or another version of the runtime."
        )


def difference_from_torch(engine: Engine, model: CCLNetwork) -> float:
    """Compare an engine with torch on one frame and on several; return the largest difference."""
    from .torch_engine import TorchEngine

    side, reference, worst = model.preprocessing.crop_px, TorchEngine(model), 0.0
    for count in (1, 3):
        frames = np.random.default_rng(count).integers(0, 256, (count, side, side, 3), np.uint8)
        for output, expected in zip(engine(frames), reference(frames), strict=True):
            worst = _worse(worst, relative_difference(output, expected))
    return worst


def relative_difference(values: Any, reference: Any) -> float:
    """Return the largest difference of two arrays or tensors, over the largest of the reference.

    It is infinite if shape or type differ, and NaN if either holds NaN.
    """
    one, other = np.asarray(values), np.asarray(reference)
    if (one.shape, one.dtype) != (other.shape, other.dtype):
        return float("inf")
    largest = max(float(np.abs(other).max()), float(np.finfo(other.dtype).tiny))
    return float(np.abs(one - other).max()) / largest


def pattern_clip(preprocessing: Preprocessing) -> np.ndarray:
    """Return a uint8 (1,T,crop,crop,3) clip of moving plaids, from whole numbers only."""
    side = preprocessing.crop_px
    t, y, x, c = np.ogrid[: preprocessing.clip_frames, :side, :side, :3]
    plaid: np.ndarray = (3 * x + 5 * t * (c + 1)) % 256 ^ (2 * y + 7 * t + 40 * c) % 256
    return plaid.astype(np.uint8)[None]


def record_path(engine: Engine, network: StoredNetwork) -> Path:
    """Return where the cache remembers an engine: named by what the comparison holds for."""
    text = json.dumps(_facts(engine, network), sort_keys=True)
    return cache_folder() / "parity" / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.json"


def _known_difference(engine: Engine, network: StoredNetwork) -> float:
    """Return the difference from torch, from the first that tells it."""
    facts = _facts(engine, network)
    with suppress(OSError, OutputError, ValueError, RecursionError):
        record = json.loads(record_path(engine, network).read_bytes())
        difference = record.get("difference") if isinstance(record, dict) else None
        if isinstance(difference, float) and record == _record(facts, difference):
            return difference
    difference = _difference_from_golden(engine, network)
    if difference is None or not difference <= TOLERANCE:
        # Golden values may be those of other pixels or another machine: torch has the last word.
        from ..network import weights
        from ..network.architecture import CCLNetwork

        model = weights.load(CCLNetwork, network.source)
        if model.weights_sha256 != network.weights_sha256:
            raise ModelError(
                f"{network.source.weights_path}: changed while it was read; try again."
            )
        difference = difference_from_torch(engine, model)
    logger.info(
        "%s differs from torch by %.2g for %s", engine.info.runtime, difference, network.name
    )
    try:
        record_file = record_path(engine, network)
        make_folder(record_file.parent)
        text = json.dumps(_record(facts, difference), indent=2)
        write_atomically(record_file, text + "\n")
    except OutputError as error:  # compared again by the next process
        logger.info("the comparison is not remembered: %s", error)
    return difference


def _record(facts: dict[str, str | int], difference: float) -> dict[str, Any]:
    """Return what the cache holds of a comparison, with a hash that tells a damaged one."""
    record = {**facts, "difference": difference}
    digest = hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
    return {**record, "sha256": digest}


def _facts(engine: Engine, network: StoredNetwork) -> dict[str, str | int]:
    """Return what a comparison holds for."""
    return {
        "weights_sha256": network.weights_sha256,
        "config_fingerprint": network.config.fingerprint(),
        "graph_version": GRAPH_VERSION,
        "ccl_hub": __version__,
        "backend": engine.info.backend,
        "runtime": engine.info.runtime,
        "processor": _processor(),
    }


def _processor() -> str:
    """Return a hash of what this kind of processor can do, as far as the system tells."""
    description = f"{platform.machine()} {platform.processor()}"
    with suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:  # noqa: PTH123
        for line in file:
            if not line.strip():
                break  # the second core
            if line.startswith(("model name", "flags", "CPU part", "Features")):
                description += line
    return hashlib.sha256(description.encode()).hexdigest()[:16]


def _difference_from_golden(engine: Engine, network: StoredNetwork) -> float | None:
    """Compare with the vectors that torch gave when the model was made; None if there are none.

    They lie beside the weights, in a file that says of which weights it is.
    """
    import safetensors

    try:
        path = beside(network.source, GOLDEN_NAME)
        if path is None:
            return None
        with safetensors.safe_open(path, framework="numpy") as file:
            if (file.metadata() or {}).get("weights_sha256") != network.weights_sha256:
                return None
            expected = [file.get_tensor(f"pattern_{name}") for name in ("video", "frames")]
    except (ModelError, OSError, safetensors.SafetensorError) as error:
        logger.info("%s: no golden values to compare with (%s)", network.name, error)
        return None
    clip = pattern_clip(network.preprocessing)[0]
    pieces = [engine(part) for part in np.split(clip, [1]) if len(part)]  # one frame, and several
    maps = FrameMaps(*map(np.concatenate, zip(*pieces, strict=True)))
    vectors = WindowAssembler(np.arange(len(clip))[None], engine.clip_head).add(maps)
    worst = 0.0
    for values, reference in zip((vectors.clips[0], vectors.frames[0]), expected, strict=True):
        worst = _worse(worst, relative_difference(values, reference))
    return worst


def _worse(one: float, other: float) -> float:
    """Return the larger, or NaN if either is."""
    return float(np.maximum(one, other))
