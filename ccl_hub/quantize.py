"""The network in 8-bit integers for OpenVINO: made once from real videos, checked, kept on disk.

    videos -> clips -+-> 3 of 4: ranges of activations -> int8 network -+-> compared -> cache
                     +-> 1 of 4: held out -----------------------------+

NNCF's post-training quantisation, per channel for weights. The taps of conv6 stay in float32: they
are 2 % of the work, and the clip vectors owe most of their error to them (lowest cosine 0.987
with them in int8, 0.997 without, of ``ccl_r18_mini``).

A model's place in the cache is named by its weights and configuration. Its network is a pair of
files named by their own hash, and ``int8.json``, written last, says which pair it is; so two
processes that build at once leave a whole model, that of the last.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .backends import check_model, cores_to_use
from .config import Preprocessing, parse_dataclass
from .crop import centre_crop
from .dense import WindowAssembler
from .engine import CPU_BATCH_FRAMES, FrameGraph, FrameMaps, TorchEngine
from .engine_openvino import FrameRunner, convert, import_openvino, without_telemetry
from .errors import ExportError, InputError, MediaError, WeightsError
from .files import make_folder, write_atomically
from .interop import require_packages
from .sampling import sample_eval
from .video import VideoReader

if TYPE_CHECKING:
    from .model import CCLModel

__all__ = [
    "LOWEST_COSINE",
    "Int8Facts",
    "Int8Model",
    "build_int8",
    "cache_folder",
    "calibration_clips",
    "find_int8",
    "int8_for",
]

CLIPS = 128
FEWEST_CLIPS = 16
HELD_OUT = 4
"""Every so many clips, one is held out of calibration and compared."""

LOWEST_COSINE = 0.99
"""Allowed between a vector of the int8 network and the same of the float32 one."""

RECORD_NAME = "int8.json"
REBUILD = "build it again with build_int8(model, videos, force=True)"

logger = logging.getLogger(__name__)

Clips = npt.NDArray[np.uint8]
Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Int8Facts:
    """What ``int8.json`` says of an int8 model.

    Args:
        sha256: Hash of the network: of the bytes of its .xml, then of its .bin.
        model: Name of the float32 model.
        weights_sha256: Hash of the file it was loaded from, or "".
        tensors_sha256: Hash of its weights themselves.
        config_fingerprint: Hash of its architecture and preprocessing.
        calibration_frames: Frames that the ranges come from.
        compared_frames: Frames held out, in clips of the model's length.
        frame_cosine: Lowest cosine between the two networks' vectors of these frames.
        clip_cosine: Lowest cosine between their vectors of the clips.
        versions: Of the packages that made it.
    """

    sha256: str
    model: str
    weights_sha256: str
    tensors_sha256: str
    config_fingerprint: str
    calibration_frames: int
    compared_frames: int
    frame_cosine: float
    clip_cosine: float
    versions: dict[str, Any]


@dataclass(frozen=True)
class Int8Model:
    """An int8 model in the cache.

    Args:
        path: The network's .xml; its .bin is beside it.
        facts: What is known of it.
    """

    path: Path
    facts: Int8Facts

    @property
    def sha256(self) -> str:
        """Hash of the network, which tells it from every other."""
        return self.facts.sha256

    def read(self) -> tuple[bytes, bytes]:
        """Return the bytes of .xml and .bin, whose hash is right.

        Raises:
            WeightsError: A file is missing or damaged.
        """
        try:
            data = self.path.read_bytes(), self.path.with_suffix(".bin").read_bytes()
        except OSError as error:
            raise WeightsError(
                f"{self.path}: the int8 network cannot be read ({error.strerror or error}); "
                f"{REBUILD}."
            ) from error
        found = _hash(*data)
        if found != self.sha256:
            raise WeightsError(
                f"{self.path}: sha256 of the int8 network is {found}, it was written with "
                f"{self.sha256}; it is damaged: {REBUILD}."
            )
        return data


def build_int8(
    model: CCLModel,
    videos: Sequence[str | Path],
    *,
    cache: str | Path | None = None,
    force: bool = False,
) -> Int8Model:
    """Make the int8 model of a model, unless the cache holds it; takes about a minute.

    Args:
        model: In eval mode, float32, on the CPU; not changed.
        videos: Real videos like those to be embedded, some dozens; see
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
        >>> model = CCLModel.from_pretrained("ccl_r18_mini")  # doctest: +SKIP
        >>> build_int8(model, sorted(Path("videos").glob("*.mp4"))).sha256  # doctest: +SKIP
        '9a0f...'
    """
    check_model(model, "openvino-int8")
    require_packages(
        "building an int8 model", ["openvino", "nncf"], "openvino", "use the backend torch"
    )
    if not force and (found := find_int8(model, cache)) is not None:
        return found
    folder = make_folder(_place(model, cache))
    clips = calibration_clips(videos, model.preprocessing)
    held_out = np.arange(len(clips)) % HELD_OUT == HELD_OUT - 1
    frames = clips[~held_out].reshape(-1, *clips.shape[2:])  # (M,T,S,S,3) -> (M*T,S,S,3)
    data = _ir_bytes(_quantised(model, frames))
    network = import_openvino().Core().read_model(*data)
    frame_cosine, clip_cosine = _compared(model, network, clips[held_out])
    facts = Int8Facts(
        sha256=_hash(*data),
        model=model.name,
        weights_sha256=model.weights_sha256,
        tensors_sha256=_tensors_sha256(model),
        config_fingerprint=model.config.fingerprint(),
        calibration_frames=len(frames),
        compared_frames=clips[held_out].shape[0] * clips.shape[1],
        frame_cosine=frame_cosine,
        clip_cosine=clip_cosine,
        versions={name: version(name) for name in ("ccl-hub", "torch", "openvino", "nncf")},
    )
    return _write(folder, facts, data)


def find_int8(model: CCLModel, cache: str | Path | None = None) -> Int8Model | None:
    """Return the int8 model that :func:`build_int8` made of a model, or None.

    Args:
        model: As it was then; found by its weights, whatever file they came from.
        cache: See :func:`build_int8`.

    Raises:
        WeightsError: It is there but damaged.
    """
    path = _place(model, cache) / RECORD_NAME
    try:
        values = json.loads(path.read_bytes())
        facts = parse_dataclass(Int8Facts, values, str(path))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, RecursionError) as error:  # ConfigError is one
        raise WeightsError(
            f"{path}: not a record of an int8 model ({error}); {REBUILD}."
        ) from error
    expected = (_tensors_sha256(model), model.config.fingerprint())
    if (facts.tensors_sha256, facts.config_fingerprint) != expected or not re.fullmatch(
        "[0-9a-f]{64}", facts.sha256
    ):
        raise WeightsError(f"{path}: the record of another model; {REBUILD}.")
    found = Int8Model(path.with_name(f"{facts.sha256}.xml"), facts)
    found.read()
    return found


def int8_for(model: CCLModel, calibration: Int8Model | Sequence[str | Path] | None) -> Int8Model:
    """Return the int8 model to use: the one given, the one in the cache, or a new one.

    Args:
        model: The float32 model.
        calibration: See :func:`ccl_hub.backends.make_engine`.

    Raises:
        InputError: It was made of another model, or there is none and no videos to build one.
        WeightsError: It is damaged.
        ExportError: See :func:`build_int8`.
    """
    if isinstance(calibration, Int8Model):
        if calibration.facts.tensors_sha256 != _tensors_sha256(model):
            raise InputError(
                f"{calibration.path}: made of {calibration.facts.model!r}, whose weights are not "
                f"those of {model.name!r}; build one with build_int8(model, videos)."
            )
        return calibration
    if calibration is not None:
        return build_int8(model, calibration)
    found = find_int8(model)
    if found is None:
        raise InputError(
            f"there is no int8 model of {model.name!r} in {cache_folder()}; give videos to "
            "calibrate on, or build one with ccl_hub.quantize.build_int8(model, videos)."
        )
    return found


def cache_folder() -> Path:
    """Return ``$CCL_CACHE``, or else ``ccl_hub`` in ``$XDG_CACHE_HOME`` or ``~/.cache``."""
    named = os.environ.get("CCL_CACHE")
    if named:
        return Path(named).expanduser()
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))  # one that is not absolute does not count
    return (base if base.is_absolute() else Path("~/.cache").expanduser()) / "ccl_hub"


def _place(model: CCLModel, cache: str | Path | None) -> Path:
    folder = cache_folder() if cache is None else Path(cache).expanduser()
    return folder / "int8" / f"{_tensors_sha256(model)[:16]}-{model.config.fingerprint()}"


def _tensors_sha256(model: CCLModel) -> str:
    """Hash the weights themselves: a model that was changed after loading is another one."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()


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
    videos = list(videos)
    chosen = np.unique(np.linspace(0, len(videos) - 1, min(clips, len(videos))).astype(int))
    each = -(-clips // max(1, len(chosen)))
    found: list[Clips] = []
    for number in chosen.tolist():
        try:
            found += _clips_of(videos[number], preprocessing, each)
        except MediaError as error:
            logger.warning("left out of calibration: %s", error)
    if len(found) < FEWEST_CLIPS:
        raise InputError(
            f"calibration has {len(found)} clips of {preprocessing.clip_frames} frames from "
            f"{len(chosen)} videos; allowed: {FEWEST_CLIPS} or more; give more or longer videos."
        )
    return np.stack(found)


def _clips_of(path: str | Path, pre: Preprocessing, clips: int) -> Iterator[Clips]:
    """Yield different clips of one video, each (T,S,S,3)."""
    with VideoReader(path, resize=pre) as reader:
        info = reader.info
        plan = sample_eval(info.seconds, info.duration_seconds, pre, clips=clips)
        rows = np.unique(plan.indices, axis=0)  # short videos repeat
        frames = {
            number: np.array(centre_crop(frame, pre.crop_px))
            for number, frame in reader.frames(np.unique(rows))
        }
        for row in rows.tolist():
            yield np.stack([frames[number] for number in row])


# Quantisation -----------------------------------------------------------------------------------


def _quantised(model: CCLModel, frames: Clips) -> Any:
    """Return an int8 ``openvino.Model`` with ranges from (n,S,S,3) frames."""
    batches = np.array_split(frames, -(-len(frames) // CPU_BATCH_FRAMES))
    with _quiet_nncf() as nncf:
        return nncf.quantize(
            convert(model),
            nncf.Dataset(batches),
            subset_size=len(batches),
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


def _compared(model: CCLModel, network: Any, clips: Clips) -> tuple[float, float]:
    """Return the lowest cosines of frame and clip vectors, or raise if one is too low."""
    run = FrameRunner(network, "int8", cores_to_use(0))
    lowest = [
        float(_cosines(one, other).min())
        for one, other in zip(
            _vectors(model, run, clips), _vectors(model, TorchEngine(model), clips), strict=True
        )
    ]
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
    model: CCLModel, run: Callable[[np.ndarray], FrameMaps], clips: Clips
) -> tuple[Vectors, Vectors]:
    """Frame vectors (M*T,D) and clip vectors (M,D) of (M,T,S,S,3) clips."""
    count, length = clips.shape[:2]
    windows = WindowAssembler(
        np.arange(count * length).reshape(count, length), FrameGraph(model).shift
    )
    found = [windows.add(run(clip)) for clip in clips]
    frames = np.concatenate([part.frames for part in found])  # (M,T,D)
    return frames.reshape(count * length, -1), np.concatenate([part.clips for part in found])


def _cosines(one: Vectors, other: Vectors) -> npt.NDArray[np.float64]:
    """Cosine of each row with the row of the same number: (N,D), (N,D) -> (N,)."""
    a, b = one.astype(np.float64), other.astype(np.float64)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    found: npt.NDArray[np.float64] = (a * b).sum(1) / np.maximum(norms, np.finfo(float).tiny)
    return found


# Cache ------------------------------------------------------------------------------------------


def _write(folder: Path, facts: Int8Facts, data: tuple[bytes, bytes]) -> Int8Model:
    """Write the pair, then the record that names it."""
    path = folder / f"{facts.sha256}.xml"
    xml, weights = data
    text = (json.dumps(asdict(facts), indent=2) + "\n").encode()
    write_atomically(path, lambda file: file.write(xml))
    write_atomically(path.with_suffix(".bin"), lambda file: file.write(weights))
    write_atomically(folder / RECORD_NAME, lambda file: file.write(text))
    logger.info("wrote %s", path)
    return Int8Model(path, facts)


def _hash(xml: bytes, weights: bytes) -> str:
    return hashlib.sha256(xml + weights).hexdigest()
