"""The network in 8-bit integers for OpenVINO: made once from real videos, and checked.

    videos -> clips -+-> 3 of 4: ranges of activations -> int8 network -+-> compared -> cache
                     +-> 1 of 4: held out -----------------------------+

NNCF's post-training quantisation, per channel for weights. The taps of conv6 stay in float32: they
are 2 % of the work, and the clip vectors owe most of their error to them: of ``ccl_r18_mini`` the
lowest cosine was 0.985 with them in int8 and 0.999 without. Biases are corrected in NNCF's
slower way: on footage unlike that of the calibration the lowest was 0.999, 0.993 in its fast way.
"""

from __future__ import annotations

import logging
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import closing, contextmanager
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .._util.extras import require_packages
from .._util.files import make_folder
from .._util.machine import worker_bytes, worker_count
from .._version import __version__
from ..config import Preprocessing
from ..decoding.messages import DecodeSettings, Ended, Failed, Job, Planned
from ..decoding.pool import Block, DecodePool, Event
from ..errors import ExportError, InputError
from ..network.architecture import CCLNetwork
from ..network.frame_maps import FrameMaps
from ..network.stored import tensors_sha256
from ..network.windows import WindowAssembler
from ..sampling import ClipPlan, Sampling
from ..video.open import MediaLimits
from .engine import CPU_BATCH_FRAMES
from .int8_cache import (
    Int8Facts,
    Int8Model,
    find_int8,
    model_folder,
    network_sha256,
    write_int8,
)
from .openvino_engine import (
    FrameRunner,
    import_openvino,
    openvino_core,
    without_telemetry,
)
from .runtime import check_model, cores_to_use, graph_of
from .torch_engine import TorchEngine

CLIPS = 128
FEWEST_CLIPS = 16
HELD_OUT = 4
"""One clip of so many is held out of the calibration, and compared."""

DEADLINE_SECONDS = 600.0
"""Longest that decoding one video may take."""

LOWEST_COSINE = 0.99
"""Lowest cosine allowed between a vector of the int8 network and that of the float32 one."""

logger = logging.getLogger(__name__)

Clips = npt.NDArray[np.uint8]
Vectors = npt.NDArray[np.float32]


def build_int8(
    model: CCLNetwork,
    videos: Sequence[str | Path],
    *,
    cache: str | Path | None = None,
    force: bool = False,
) -> Int8Model:
    """Make the int8 model of a model, unless the cache holds it; takes about a minute.

    Args:
        model: A model in eval mode, float32, on the CPU; it is not changed.
        videos: Some dozens of real videos, like those to be embedded; see
            :func:`calibration_clips`.
        cache: Folder; None is ``$CCL_CACHE``, or ``ccl_hub`` in the user's cache folder.
        force: Make it again, even if it is there.

    Returns:
        The int8 model.

    Raises:
        InputError: The model is not one to quantise, or too few frames can be read.
        ExportError: A package is missing, or the int8 network differs too much from the model.
        WeightsError: What the cache holds is damaged; ``force`` replaces it.
        OutputError: The cache cannot be written.

    Example:
        >>> from ccl_hub import CCLModel
        >>> model = CCLModel.from_pretrained("ccl_lite0")  # doctest: +SKIP
        >>> build_int8(model, sorted(Path("videos").glob("*.mp4"))).sha256  # doctest: +SKIP
        '9a0f...'
    """
    check_model(model, "openvino-int8")
    if not force and (cached := find_int8(model, cache)) is not None:
        return cached
    require_packages(
        "building an int8 model", ["openvino", "nncf"], "openvino", "use the backend torch"
    )
    folder = make_folder(model_folder(model, cache))
    clips = calibration_clips(videos, model.preprocessing)
    held_out = np.arange(len(clips)) % HELD_OUT == HELD_OUT - 1
    frames = clips[~held_out].reshape(-1, *clips.shape[2:])  # (M,T,S,S,3) -> (M*T,S,S,3)
    core = openvino_core()  # before those that NNCF makes and drops
    data = _ir_bytes(_quantised(model, frames))
    network = core.read_model(*data)
    frame_cosine, clip_cosine = _compared(model, network, clips[held_out])
    facts = Int8Facts(
        sha256=network_sha256(*data),
        model=model.name,
        weights_sha256=model.weights_sha256,
        tensors_sha256=tensors_sha256(model),
        config_fingerprint=model.config.fingerprint(),
        calibration_frames=len(frames),
        compared_frames=clips[held_out].shape[0] * clips.shape[1],
        frame_cosine=frame_cosine,
        clip_cosine=clip_cosine,
        versions={
            "ccl-hub": __version__,
            **{name: version(name) for name in ("torch", "openvino", "nncf")},
        },
    )
    built = write_int8(folder, facts, data)
    logger.info("wrote %s", built.path)
    return built


# Calibration frames -----------------------------------------------------------------------------


def calibration_clips(
    videos: Sequence[str | Path], preprocessing: Preprocessing, clips: int = CLIPS
) -> Clips:
    """Read clips spread evenly over the videos and within each; the same ones every time.

    Args:
        videos: Local files. Of more than ``clips``, as many are taken, evenly spread; one that
            cannot be read is left out with a warning.
        preprocessing: How clips are sampled, resized and cropped.
        clips: About how many.

    Returns:
        (M, T, S, S, 3) uint8 RGB, all different; S is ``preprocessing.crop_px``.

    Raises:
        InputError: Fewer than 16 clips can be read.
    """
    if isinstance(videos, str | Path):
        raise InputError(f"videos is {str(videos)!r}; allowed: a list of the paths of videos.")
    videos = list(videos)
    chosen = np.unique(np.linspace(0, len(videos) - 1, min(clips, len(videos))).astype(int))
    each = -(-clips // max(1, len(chosen)))
    different: list[Clips] = []
    for path, clips_or_reason in _decoded([videos[i] for i in chosen], preprocessing, each):
        if isinstance(clips_or_reason, str):
            logger.warning("%s: left out of calibration: %s", path, clips_or_reason)
        else:
            different += clips_or_reason
    if len(different) < FEWEST_CLIPS:
        raise InputError(
            f"calibration has {len(different)} clips of {preprocessing.clip_frames} frames from "
            f"{len(chosen)} videos; allowed: {FEWEST_CLIPS} or more; give more or longer videos."
        )
    return np.stack(different)


def _decoded(
    paths: list[str | Path], preprocessing: Preprocessing, clips: int
) -> Iterator[tuple[str | Path, list[Clips] | str]]:
    """Yield each video and its different clips, each (T,S,S,3), or why there are none.

    Decoded in processes, as a batch does it: these may be the first of a million files.
    """
    plans: dict[int, ClipPlan] = {}
    blocks: dict[int, list[Clips]] = {}
    results: list[Future[list[Clips] | str]] = [Future() for _ in paths]

    def hear(event: Event) -> None:
        match event:
            case Planned(number, plan):
                plans[number], blocks[number] = plan, []
            case Block():
                blocks[event.job].append(event.frames.copy())
                event.release()
            case Ended(number):
                rows = np.unique(plans.pop(number).indices, axis=0)  # short videos repeat
                indices, frames = np.unique(rows), np.concatenate(blocks.pop(number))
                results[number].set_result(list(frames[np.searchsorted(indices, rows)]))
            case Failed(number, _, reason):
                blocks.pop(number, None)
                results[number].set_result(reason)
            case BaseException():
                for result in results:
                    if not result.done():
                        result.set_exception(event)

    workers, sampling = worker_count(), Sampling(clips=clips)
    settings = DecodeSettings(
        preprocessing, sampling, MediaLimits(), memory_bytes=worker_bytes(workers)
    )
    with closing(DecodePool(settings, hear, workers, DEADLINE_SECONDS)) as pool:
        for number, path in enumerate(paths):
            pool.submit(Job(number, Path(path).absolute()))
        for path, result in zip(paths, results, strict=True):  # the same order every time
            yield path, result.result()


# Quantisation -----------------------------------------------------------------------------------


def _quantised(model: CCLNetwork, frames: Clips) -> Any:
    """Return an int8 ``openvino.Model`` with ranges from (n,S,S,3) frames."""
    batches = np.array_split(frames, -(-len(frames) // CPU_BATCH_FRAMES))
    with _quiet_nncf() as nncf:
        return nncf.quantize(
            openvino_core().read_model(graph_of(model, "openvino-int8")[0]),
            nncf.Dataset(batches),
            subset_size=len(batches),
            fast_bias_correction=False,
            ignored_scope=nncf.IgnoredScope(types=["MatMul"]),  # the taps of conv6
        )


@contextmanager
def _quiet_nncf() -> Iterator[Any]:
    """Import NNCF: no telemetry, messages to :mod:`logging` instead of stdout, no bars."""
    imported_before, kind = "nncf" in sys.modules, logging.getLoggerClass()
    with without_telemetry():
        nncf = import_module("nncf")
    if not imported_before:
        logging.setLoggerClass(kind)
        log = logging.getLogger("nncf")
        log.handlers.clear()
        log.propagate = True
        log.setLevel(logging.NOTSET)  # the program decides, not NNCF
    console = import_module("rich").get_console()
    quiet, console.quiet = console.quiet, True
    try:
        yield nncf
    finally:
        console.quiet = quiet


def _ir_bytes(network: Any) -> tuple[bytes, bytes]:
    """Return .xml and .bin; the same for the same network, whatever was made before."""
    for number, node in enumerate(network.get_ordered_ops()):
        node.set_friendly_name(f"{node.get_type_name()}_{number}")
    network.set_friendly_name("ccl_hub")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.xml"
        import_openvino().save_model(network, path, compress_to_fp16=False)
        return path.read_bytes(), path.with_suffix(".bin").read_bytes()


def _compared(model: CCLNetwork, network: Any, clips: Clips) -> tuple[float, float]:
    """Return the lowest cosines of frame and clip vectors, or raise if one is too low."""
    int8 = _vectors(model, FrameRunner(network, "int8", cores_to_use(0)), clips)
    float32 = _vectors(model, TorchEngine(model), clips)
    lowest = [_lowest_cosine(one, other) for one, other in zip(int8, float32, strict=True)]
    logger.info(
        "int8: lowest cosine to float32 on %d clips held out: frames %.4f, clips %.4f",
        len(clips),
        *lowest,
    )
    for name, value in zip(("frame", "clip"), lowest, strict=True):
        if not value >= LOWEST_COSINE:  # NaN never is
            raise ExportError(
                f"the int8 network of {model.name!r} is not kept: a {name} vector has a cosine of "
                f"{value:.4f} to the float32 one, allowed is {LOWEST_COSINE} or more; calibrate "
                "on more and more varied videos, or use the backend openvino in float32."
            )
    return lowest[0], lowest[1]


def _vectors(
    model: CCLNetwork, run: Callable[[np.ndarray], FrameMaps], clips: Clips
) -> tuple[Vectors, Vectors]:
    """Frame vectors (M,T,D) and clip vectors (M,D) of (M,T,S,S,3) clips."""
    count, length = clips.shape[:2]
    indices = np.arange(count * length).reshape(count, length)
    windows = WindowAssembler(indices, graph_of(model, "openvino-int8")[1])
    pieces = [windows.add(FrameMaps(*map(np.asarray, run(clip)))) for clip in clips]
    vectors, frames = map(np.concatenate, zip(*pieces, strict=True))
    return frames, vectors


def _lowest_cosine(one: Vectors, other: Vectors) -> float:
    """Return the lowest cosine between vectors at the same position: (...,D), (...,D)."""
    a, b = one.astype(np.float64), other.astype(np.float64)
    norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    return float(((a * b).sum(-1) / np.maximum(norms, np.finfo(float).tiny)).min())
