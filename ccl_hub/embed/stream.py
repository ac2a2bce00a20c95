"""One video in, embeddings out: decode -> sample -> network on frames -> windows.

Every distinct frame goes through the network once (:mod:`ccl_hub.network.windows`), a few at a
time. Memory is bounded by the frames in flight and by the result; :class:`ClipStream` gives the
result in parts, for windows so dense that it should not be held whole.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import numpy as np
import torch

from .. import sampling
from .._version import __version__
from ..backends.engine import Engine
from ..errors import TOO_LITTLE_MEMORY, DecodeError, InputError, MediaLimitError
from ..network.architecture import CCLNetwork
from ..network.windows import ClipArrays, ClipVectors, WindowAssembler
from ..video.info import SourceFacts
from ..video.open import MediaLimits
from ..video.pixels import DECODER_VERSION, resize_rgb
from ..video.reader import VideoReader
from . import writers
from .embeddings import EmbeddingProvenance, Embeddings
from .frame_loop import assembled, engine_of, frames_at_once
from .in_memory import as_array, pil_pixels

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = [
    "ClipStream",
    "EmbeddingProvenance",
    "Embeddings",
    "embed_frames",
    "embed_image",
    "embed_video",
    "gather",
    "make_provenance",
    "write_video",
]

logger = logging.getLogger(__name__)

ImageLike: TypeAlias = "str | Path | np.ndarray | Image"
Network: TypeAlias = CCLNetwork | Engine
Progress: TypeAlias = Callable[[int, int], None]
T = TypeVar("T")


class ClipStream:
    """Embeddings of one video in parts, in order of time and bounded memory.

    Args:
        model: See :func:`embed_video`.
        path: See :func:`embed_video`.
        wanted: Which clips.
        batch_size: See :func:`embed_video`.
        limits: See :func:`embed_video`.
        decode_index: List the frames by decoding them, which leaves out those that cannot be;
            without it such a frame is a DecodeError in the middle of the stream.
        with_frames: Give the vectors of frames, too.

    Raises:
        MediaError: The file cannot be embedded; its subclass and ``code`` say why.
        InputError: An argument is not allowed.

    Example:
        >>> wanted = sampling.Sampling(every_seconds=0.04)
        >>> with ClipStream(model, "film.mp4", wanted) as stream:  # doctest: +SKIP
        ...     for part in stream:
        ...         print(part.clips.shape)
    """

    def __init__(
        self,
        model: Network,
        path: str | Path,
        wanted: sampling.Sampling,
        *,
        batch_size: int | None = None,
        limits: MediaLimits | None = None,
        decode_index: bool = False,
        with_frames: bool = True,
    ) -> None:
        self._engine, self._with_frames = engine_of(model), with_frames
        self._batch_frames = frames_at_once(self._engine, batch_size)
        self._path, self._wanted = path, wanted
        pre = self._engine.model.preprocessing
        self._reader = VideoReader(path, resize=pre, limits=limits, decode_index=decode_index)
        info, most = self._reader.info, (limits or MediaLimits()).max_windows
        try:
            self.plan = wanted.plan(info.seconds, info.duration_seconds, pre, most)
        except MediaLimitError as error:
            raise MediaLimitError(error.reason, path) from error

    def __iter__(self) -> Iterator[ClipVectors]:
        """Yield the vectors of some neighbouring clips at a time.

        Raises:
            MediaError: A frame cannot be decoded.
            ModelError: The model gives NaN or infinity.
        """
        windows = WindowAssembler(self.plan.indices, self._engine.shift, self._with_frames)
        frames = (frame for _, frame in self._reader.frames(windows.frames))
        yield from assembled(self._engine, windows, frames, self._batch_frames)

    def provenance(self) -> EmbeddingProvenance:
        """What made the embeddings; to be asked for after the last part."""
        facts = SourceFacts.of(self._reader.info)
        return make_provenance(self._engine, self._wanted, self._path, facts)

    def __enter__(self) -> ClipStream:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._reader.close()


def embed_video(
    model: Network,
    path: str | Path,
    *,
    clips: int | None = None,
    every_seconds: float | None = None,
    batch_size: int | None = None,
    limits: MediaLimits | None = None,
    progress: Progress | None = None,
) -> Embeddings:
    """Embed one local video or image file.

    Args:
        model: A model in eval mode, or an engine of :func:`ccl_hub.backends.make_engine`.
        path: A regular local file; anything FFmpeg can decode and the whitelist allows.
        clips: Clips spread evenly over the whole video (default 10, as the paper evaluates).
        every_seconds: Instead of ``clips``: a clip starting every so many seconds, to the end of
            the video, tail included.
        batch_size: As many frames as this number of clips has go through the network at once;
            None for what suits the device.
        limits: Largest media accepted.
        progress: Called with (clips done, clips in all) after each batch.

    Returns:
        :class:`Embeddings`; ``incomplete`` is True if part of the file could not be read. Videos
        shorter than a clip (1.28 s) are looped, so a still image is a one-frame video.

    Raises:
        MediaError: The file cannot be embedded; its subclass and ``code`` say why.
        InputError: An argument is not allowed.
        ModelError: The model gives NaN or infinity.

    Example:
        >>> from ccl_hub import CCLModel
        >>> from ccl_hub.publish.golden import golden_clip
        >>> embed_video(CCLModel().eval(), golden_clip(), clips=1).video.shape
        (512,)
    """

    def whole(stream: ClipStream) -> Embeddings:
        parts = _watched(stream, len(stream.plan.indices), progress)
        return gather(parts, stream.plan, stream.provenance)

    wanted = sampling.Sampling(clips, every_seconds)
    return _streamed(model, path, wanted, batch_size, limits, whole)


def write_video(
    model: Network,
    path: str | Path,
    out: Path,
    level: str | None = None,
    *,
    clips: int | None = None,
    every_seconds: float | None = None,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> tuple[EmbeddingProvenance, dict[str, tuple[int, ...]]]:
    """Embed one file straight into another; a ``.npy`` is written in bounded memory.

    Args:
        model: See :func:`embed_video`.
        path: The video.
        out: See :meth:`Embeddings.save`.
        level: See :meth:`Embeddings.save`.
        clips: See :func:`embed_video`.
        every_seconds: See :func:`embed_video`.
        batch_size: See :func:`embed_video`.
        progress: See :func:`embed_video`.

    Returns:
        The provenance, and the shapes of clips, frames and video.

    Raises:
        OutputError: The place cannot be written.
        MediaError: See :func:`embed_video`.
        InputError: See :func:`embed_video`.
        ModelError: See :func:`embed_video`.
    """
    out = Path(out)
    writers.check_output(out, level, source=Path(path))

    def written(stream: ClipStream) -> tuple[EmbeddingProvenance, dict[str, tuple[int, ...]]]:
        count, frames = stream.plan.indices.shape
        parts = _watched(stream, count, progress)
        if out.suffix == ".npy":
            dim = writers.save_npy(out, level or "clip", (count, frames), parts)
        else:
            whole = gather(parts, stream.plan, stream.provenance)
            whole.save(out, level)
            dim = len(whole.video)
        shapes = {"clips": (count, dim), "frames": (count, frames, dim), "video": (dim,)}
        return stream.provenance(), shapes

    wanted = sampling.Sampling(clips, every_seconds)
    with_frames = out.suffix != ".npy" or level == "frame"
    return _streamed(model, path, wanted, batch_size, None, written, with_frames)


def _streamed(
    model: Network,
    path: str | Path,
    wanted: sampling.Sampling,
    batch_size: int | None,
    limits: MediaLimits | None,
    use: Callable[[ClipStream], T],
    with_frames: bool = True,
) -> T:
    """Use a stream; once more if its index lists frames that cannot be decoded, without them."""

    def attempt(decode_index: bool) -> T:
        with ClipStream(
            engine,
            path,
            wanted,
            batch_size=batch_size,
            limits=limits,
            decode_index=decode_index,
            with_frames=with_frames,
        ) as stream:
            return use(stream)

    engine = engine_of(model)
    try:
        try:
            return attempt(decode_index=False)
        except DecodeError as error:
            logger.info("%s; trying again with the frames that can be decoded", error)
            return attempt(decode_index=True)
    except MemoryError as error:
        raise MediaLimitError(TOO_LITTLE_MEMORY, path) from error


def embed_frames(
    model: Network,
    frames: np.ndarray,
    seconds: Sequence[float] | np.ndarray,
    *,
    clips: int | None = None,
    every_seconds: float | None = None,
    batch_size: int | None = None,
) -> Embeddings:
    """Embed frames that are already in memory, through the same resize as files.

    Args:
        model: See :func:`embed_video`.
        frames: (N, H, W, 3) uint8 RGB, N >= 1.
        seconds: (N,) ascending presentation times in seconds.
        clips: See :func:`embed_video`.
        every_seconds: See :func:`embed_video`.
        batch_size: See :func:`embed_video`.

    Returns:
        :class:`Embeddings`. The last frame is taken to last as long as the one before it.

    Raises:
        InputError: Shape, dtype, order or number of times is not allowed.
        MediaLimitError: ``every_seconds`` makes too many windows of them.
        ModelError: The model gives NaN or infinity.
    """
    wanted, engine = sampling.Sampling(clips, every_seconds), engine_of(model)
    batch_frames = frames_at_once(engine, batch_size)
    frames = as_array(frames)
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or not len(frames):
        raise InputError(
            f"frames are {frames.dtype} of shape {frames.shape}; "
            "allowed: uint8 (N, H, W, 3) RGB with N >= 1."
        )
    times = np.asarray(seconds, dtype=np.float64)
    if times.shape != (len(frames),) or not np.isfinite(times).all() or (np.diff(times) < 0).any():
        raise InputError(
            f"seconds have shape {times.shape} for {len(frames)} frames; "
            "allowed: one finite, ascending time for each frame."
        )
    times = times - times[0]
    duration = float(times[-1] + (times[-1] - times[-2] if len(times) > 1 else 0.0))
    pre = engine.model.preprocessing
    plan = wanted.plan(times, duration, pre, MediaLimits().max_windows)
    windows = WindowAssembler(plan.indices, engine.shift)
    small = (resize_rgb(frames[i : i + 1], pre)[0] for i in windows.frames)
    parts = assembled(engine, windows, small, batch_frames)

    def provenance() -> EmbeddingProvenance:
        facts = make_provenance(engine, wanted)
        return replace(facts, source_frames=len(frames), duration_seconds=duration)

    return gather(parts, plan, provenance)


def embed_image(model: Network, image: ImageLike) -> Embeddings:
    """Embed one still image, as a video of one frame (one clip, W = 1).

    A file with several frames (an animation, a video) gives the one clip in its middle.

    Args:
        model: See :func:`embed_video`.
        image: A file, a uint8 (H, W, 3) RGB array, or a PIL image of 8 bits a channel, which is
            treated as its file would be: turned upright by its EXIF tag, on black where
            transparent.

    Returns:
        :class:`Embeddings` with ``clips`` (1,512); all T frame vectors are equal.

    Raises:
        MediaError: The file cannot be read.
        InputError: The array is not uint8 (H, W, 3), or ``image`` is none of the three.
    """
    if isinstance(image, (str, Path)):
        return embed_video(model, image, clips=1)
    if isinstance(image, (np.ndarray, torch.Tensor)):
        array = as_array(image)
    elif hasattr(image, "getexif"):  # only a PIL image has it, so PIL is there
        array = pil_pixels(image)
    else:
        raise InputError(
            f"the image is a {type(image).__name__}; allowed: a path, a uint8 (H, W, 3) RGB "
            "array, or a PIL image."
        )
    if array.ndim != 3:
        raise InputError(f"the image has shape {array.shape}; allowed: uint8 (H, W, 3) RGB.")
    return embed_frames(model, array[None], [0.0], clips=1)


def make_provenance(
    engine: Engine,
    wanted: sampling.Sampling,
    path: str | Path | None = None,
    source: SourceFacts | None = None,
) -> EmbeddingProvenance:
    """Say what made embeddings: the engine, the sampling and, for a file, what is known of it."""
    model, run = engine.model, engine.info
    facts = EmbeddingProvenance(
        model=model.name,
        weights_sha256=model.weights_sha256,
        config_fingerprint=model.config.fingerprint(),
        dtype=run.dtype,
        device=run.device,
        sampling=str(wanted),
        ccl_hub=__version__,
        torch=torch.__version__,
        backend=f"{run.backend} {run.detail}".strip(),
    )
    if path is None or source is None:
        return facts
    return replace(
        facts,
        decoder=DECODER_VERSION,
        source=os.fspath(path),
        source_bytes=source.size_bytes,
        source_frames=source.frames,
        duration_seconds=source.duration_seconds,
        completeness=source.completeness,
        note=source.note,
    )


def gather(
    parts: Iterable[ClipVectors],
    plan: sampling.ClipPlan,
    provenance: Callable[[], EmbeddingProvenance],
) -> Embeddings:
    """Put the parts of one video together.

    Args:
        parts: In order, every clip of the plan.
        plan: Its clips.
        provenance: Asked for after the last part, when all is known.
    """
    arrays = ClipArrays(len(plan.indices))
    for part in parts:
        arrays.add(part)
    clips, frames = arrays.vectors
    mean = clips.mean(axis=0, dtype=np.float64).astype(np.float32)
    return Embeddings(clips, plan.clip_seconds, frames, plan.frame_seconds, mean, provenance())


def _watched(
    parts: Iterable[ClipVectors], total: int, progress: Progress | None
) -> Iterator[ClipVectors]:
    """Pass parts on and tell of them."""
    done = 0
    for part in parts:
        yield part
        done += len(part.clips)
        if progress is not None:
            progress(done, total)
