"""One video in, embeddings out: decode -> sample -> transform -> model, a few clips at a time.

Memory is bounded by the clips in flight and by the result, not by the length of the video.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch

from . import __version__, sampling, video, writers
from .arrays import as_array, pil_pixels
from .errors import DecodeError, InputError, ModelError
from .transforms import to_clips

if TYPE_CHECKING:
    from PIL.Image import Image

    from .model import CCLModel

__all__ = ["EmbeddingProvenance", "Embeddings", "embed_frames", "embed_image", "embed_video"]

logger = logging.getLogger(__name__)

ImageLike: TypeAlias = "str | Path | np.ndarray | Image"
Progress: TypeAlias = Callable[[int, int], None]
_Arrays: TypeAlias = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]
DEFAULT_CLIPS = 10


@dataclass(frozen=True)
class EmbeddingProvenance:
    """What made these embeddings, so that they can be compared or made again.

    Args:
        model: Name or path the model was loaded from, or "" if built by hand.
        weights_sha256: Hash of its weights file, or "".
        config_fingerprint: Hash of architecture and preprocessing.
        dtype: Floating-point type of the model's weights.
        device: Kind of device it ran on.
        sampling: "clips=N" or "every_seconds=S".
        ccl_hub: Version of this package.
        torch: Version of torch.
        decoder: Versions of the decoder, or "" for frames given as arrays.
        source: The file, or "" for arrays.
        source_bytes: Its size, or 0.
        source_frames: Frames it holds, as found by reading it.
        duration_seconds: From the first frame's time to the end of the last.
        completeness: "complete", "incomplete" (truncated or damaged) or "unknown" (the container
            does not say how long the video should be).
        note: What was found missing, in words.
    """

    model: str
    weights_sha256: str
    config_fingerprint: str
    dtype: str
    device: str
    sampling: str
    ccl_hub: str
    torch: str
    decoder: str = ""
    source: str = ""
    source_bytes: int = 0
    source_frames: int = 0
    duration_seconds: float = 0.0
    completeness: str = "complete"
    note: str = ""


@dataclass(frozen=True, eq=False)
class Embeddings:
    """Embeddings of one video at three levels; W clips of T frames, D = 512.

    Compare by cosine similarity: clips and videos with each other, frames with each other. How
    well frames find videos depends on the checkpoint; its model card says.

    Args:
        clips: (W, D) float32, one vector for each clip (the network's video feature).
        clip_seconds: (W, 2) float64, start and end of each clip in seconds from the first frame.
        frames: (W, T, D) float32, one vector for each sampled frame.
        frame_seconds: (W, T) float64, presentation time of each sampled frame.
        video: (D,) float32, mean of ``clips``.
        provenance: What made them.
    """

    clips: np.ndarray
    clip_seconds: np.ndarray
    frames: np.ndarray
    frame_seconds: np.ndarray
    video: np.ndarray
    provenance: EmbeddingProvenance

    @property
    def incomplete(self) -> bool:
        """True if part of the video could not be read; what is here comes from the rest."""
        return self.provenance.completeness == "incomplete"

    def save(self, path: str | Path, level: str | None = None) -> None:
        """Write to a file, whole or not at all.

        Args:
            path: Ends in ``.npy`` (one array), ``.npz`` or ``.safetensors`` (every array, times
                and provenance). Replaced if it exists.
            level: For ``.npy``: "clip" (W,512), the default; "frame" (W,T,512); "video" (512,).

        Raises:
            InputError: Unknown suffix or level.
            OutputError: The place cannot be written.
        """
        writers.save(self, Path(path), level)

    @staticmethod
    def load(path: str | Path) -> Embeddings:
        """Read what :meth:`save` wrote as ``.npz`` or ``.safetensors``.

        Raises:
            InputError: Another kind of file, or a damaged one.
            FileNotFoundError: No such file.
        """
        return writers.load(Path(path))

    def __repr__(self) -> str:
        source = self.provenance.source or "array"
        return (
            f"Embeddings({source!r}, clips={self.clips.shape}, frames={self.frames.shape}, "
            f"seconds={self.provenance.duration_seconds:.2f}, {self.provenance.completeness})"
        )


def embed_video(
    model: CCLModel,
    path: str | Path,
    *,
    clips: int | None = None,
    every_seconds: float | None = None,
    batch_size: int = 8,
    limits: video.MediaLimits | None = None,
    progress: Progress | None = None,
) -> Embeddings:
    """Embed one local video or image file.

    Args:
        model: Put in eval mode by the caller or by ``from_pretrained``.
        path: A regular local file; anything FFmpeg can decode and the whitelist allows.
        clips: Clips spread evenly over the whole video (default 10, as the paper evaluates).
        every_seconds: Instead of ``clips``: a clip starting every so many seconds, to the end of
            the video, tail included.
        batch_size: Clips that go through the model at once.
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
        >>> model = CCLModel.from_pretrained("ccl_r18_mini")  # doctest: +SKIP
        >>> embed_video(model, "video.mp4").video.shape  # doctest: +SKIP
        (512,)
    """
    label = _check_call(model, clips, every_seconds, batch_size)

    def attempt(decode_index: bool) -> tuple[_Arrays, video.VideoInfo]:
        with video.VideoReader(
            path, resize=model.preprocessing, limits=limits, decode_index=decode_index
        ) as reader:
            info = reader.info
            plan = _plan(info.seconds, info.duration_seconds, model, clips, every_seconds)
            stream = reader.frames(np.unique(plan.indices))
            return _run(model, plan, stream, batch_size, progress), reader.info

    try:
        arrays, info = attempt(decode_index=False)
    except DecodeError as error:
        # The index lists frames that cannot be decoded: choose among those that can.
        logger.info("%s; trying again with the frames that can be decoded", error)
        arrays, info = attempt(decode_index=True)
    provenance = _provenance(
        model,
        label,
        decoder=video.DECODER_VERSION,
        source=os.fspath(path),
        source_bytes=info.size_bytes,
        source_frames=len(info.seconds),
        duration_seconds=info.duration_seconds,
        completeness=info.completeness,
        note=info.note,
    )
    return Embeddings(*arrays, provenance=provenance)


def embed_frames(
    model: CCLModel,
    frames: np.ndarray,
    seconds: Sequence[float] | np.ndarray,
    *,
    clips: int | None = None,
    every_seconds: float | None = None,
    batch_size: int = 8,
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
        ModelError: The model gives NaN or infinity.
    """
    label = _check_call(model, clips, every_seconds, batch_size)
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
    pre = model.preprocessing
    plan = _plan(times, duration, model, clips, every_seconds)
    wanted = np.unique(plan.indices).tolist()
    stream = ((i, video.resize_rgb(frames[i : i + 1], pre)[0]) for i in wanted)
    arrays = _run(model, plan, stream, batch_size)
    provenance = _provenance(model, label, source_frames=len(frames), duration_seconds=duration)
    return Embeddings(*arrays, provenance=provenance)


def embed_image(model: CCLModel, image: ImageLike) -> Embeddings:
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


def _plan(
    frame_seconds: np.ndarray,
    duration_seconds: float,
    model: CCLModel,
    clips: int | None,
    every_seconds: float | None,
) -> sampling.ClipPlan:
    """Choose frames by whichever of ``clips`` and ``every_seconds`` was given."""
    return sampling.sample_eval(
        frame_seconds,
        duration_seconds,
        model.preprocessing,
        clips=DEFAULT_CLIPS if clips is None else clips,
        every_seconds=every_seconds,
    )


def _check_call(
    model: CCLModel, clips: int | None, every_seconds: float | None, batch_size: int
) -> str:
    """Refuse what cannot work before any decoding; return the sampling in words."""
    if clips is not None and every_seconds is not None:
        raise InputError(
            f"both clips={clips} and every_seconds={every_seconds} were given; give one."
        )
    if model.training:
        raise InputError("the model is in training mode; call model.eval() before embedding.")
    if batch_size < 1:
        raise InputError(f"batch_size is {batch_size}; allowed: a whole number >= 1.")
    if every_seconds is not None:
        return f"every_seconds={every_seconds:g}"
    return f"clips={DEFAULT_CLIPS if clips is None else clips}"


def _run(
    model: CCLModel,
    plan: sampling.ClipPlan,
    stream: Iterable[tuple[int, np.ndarray]],
    batch_size: int,
    progress: Progress | None = None,
) -> _Arrays:
    """Embed every clip of the plan from a stream of frames in ascending order."""
    # Videos shorter than a clip give the same clip many times: compute it once.
    rows, where = np.unique(plan.indices, axis=0, return_inverse=True)
    clips, frames, done = [], [], 0
    for batch in _batches(rows, stream, batch_size):
        clip_vectors, frame_vectors = _forward(model, batch)
        clips.append(clip_vectors)
        frames.append(frame_vectors)
        done += len(batch)
        if progress is not None:
            progress(done, len(rows))
    where = where.reshape(-1)
    all_clips = np.concatenate(clips)[where]
    return (
        all_clips,
        plan.clip_seconds,
        np.concatenate(frames)[where],
        plan.frame_seconds,
        all_clips.mean(axis=0, dtype=np.float64).astype(np.float32),
    )


def _batches(
    rows: np.ndarray, stream: Iterable[tuple[int, np.ndarray]], batch_size: int
) -> Iterator[np.ndarray]:
    """Yield uint8 (b,T,h,w,3) clips, holding only frames that this or a later clip needs.

    Args:
        rows: (W, T) frame indices, rows in lexicographic order.
        stream: (index, frame (h,w,3)) in ascending order of index, at least those in ``rows``.
        batch_size: The most clips to yield at once.
    """
    still_needed = np.minimum.accumulate(rows.min(axis=1)[::-1])[::-1]  # (W,) from here on
    held: dict[int, np.ndarray] = {}
    source, newest = iter(stream), -1
    for begin in range(0, len(rows), batch_size):
        part = rows[begin : begin + batch_size]
        last = int(part.max())
        while newest < last:
            newest, frame = next(source, (last, None))
            if frame is None:
                raise DecodeError(f"frame {last} was promised by the index but never decoded.")
            held[newest] = frame
        yield np.stack([np.stack([held[int(i)] for i in row]) for row in part])
        end = begin + batch_size
        oldest = int(still_needed[end]) if end < len(rows) else last + 1
        held = {index: frame for index, frame in held.items() if index >= oldest}


def _forward(model: CCLModel, clips: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Embed uint8 (b,T,h,w,3) clips: float32 (b,D) and (b,T,D)."""
    with torch.inference_mode():
        inputs = to_clips(torch.from_numpy(clips).to(model.device), model.preprocessing)
        try:
            output = model(inputs)
        except torch.OutOfMemoryError as error:
            raise InputError(
                f"batch_size is {len(clips)}: the device has too little memory for so many clips "
                "at once; use a smaller one."
            ) from error
        video_vectors, frame_vectors = output.video.cpu().numpy(), output.frames.cpu().numpy()
    if not (np.isfinite(video_vectors).all() and np.isfinite(frame_vectors).all()):
        raise ModelError(
            f"the model {model.name!r} gives NaN or infinity in {model.dtype}; use float32 or "
            "bfloat16, or other weights."
        )
    return video_vectors, frame_vectors


def _provenance(model: CCLModel, label: str, **source: object) -> EmbeddingProvenance:
    return EmbeddingProvenance(
        model=model.name,
        weights_sha256=model.weights_sha256,
        config_fingerprint=model.config.fingerprint(),
        dtype=str(model.dtype).removeprefix("torch."),
        device=model.device.type,
        sampling=label,
        ccl_hub=__version__,
        torch=torch.__version__,
        **source,  # type: ignore[arg-type]
    )
