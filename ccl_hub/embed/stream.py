"""One video in, embeddings out: decode -> sample -> network on frames -> windows.

Every distinct frame goes through the network once (:mod:`ccl_hub.network.windows`), a few at a
time. Memory is bounded by the frames in flight and by the result; :class:`ClipStream` gives the
result in pieces, for windows so dense that it should not be held whole.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from ..decoding.messages import DecodeSettings
from ..decoding.one_video import Decode, StartsOverError, open_one
from ..errors import TOO_LITTLE_MEMORY, DecodeError, MediaLimitError
from ..network.windows import ClipVectors, WindowAssembler
from ..sampling import Sampling
from ..video.open import MediaLimits
from ..video.reader import DEFAULT_THREADS
from . import writers
from .embeddings import EmbeddingProvenance, Embeddings
from .frame_loop import assembled, engine_of, frames_at_once
from .results import gather, make_provenance

if TYPE_CHECKING:
    from .frame_loop import Network

logger = logging.getLogger(__name__)

Progress: TypeAlias = Callable[[int, int], None]
T = TypeVar("T")


class ClipStream:
    """Embeddings of one video in pieces, in order of time and bounded memory.

    Args:
        model: See :func:`embed_video`.
        path: A local video or image file.
        sampling: Which clips are embedded.
        batch_size: See :func:`embed_video`.
        limits: Largest media accepted.
        decode_index: List the frames by decoding them, which leaves out those that cannot be
            decoded; without it such a frame is a DecodeError in the middle of the stream.
        with_frames: Also give the vectors of frames.
        decode: See :func:`embed_video`.

    Raises:
        MediaError: The file cannot be embedded; its subclass and ``code`` say why.
        InputError: An argument is not allowed.

    Example:
        >>> dense = Sampling(every_seconds=0.04)
        >>> with ClipStream(model, "film.mp4", dense) as stream:  # doctest: +SKIP
        ...     for piece in stream:
        ...         print(piece.clips.shape)
    """

    def __init__(
        self,
        model: Network,
        path: str | Path,
        sampling: Sampling,
        *,
        batch_size: int | None = None,
        limits: MediaLimits | None = None,
        decode_index: bool = False,
        with_frames: bool = True,
        decode: Decode = "auto",
    ) -> None:
        self._engine, self._with_frames = engine_of(model), with_frames
        self._batch_frames = frames_at_once(self._engine, batch_size)
        self.path, self._sampling = path, sampling
        settings = DecodeSettings(
            self._engine.model.preprocessing,
            sampling,
            limits or MediaLimits(),
            threads=DEFAULT_THREADS,
            sandbox="require" if decode == "confined" else "auto",
        )
        try:
            self._video = open_one(path, settings, decode, decode_index)
        except MediaLimitError as error:
            raise MediaLimitError(error.reason, path) from error
        self.plan = self._video.plan

    def __iter__(self) -> Iterator[ClipVectors]:
        """Yield the vectors of some neighbouring clips at a time.

        Raises:
            MediaError: A frame cannot be decoded.
            ModelError: The model gives NaN or infinity.
            StartsOverError: What was yielded is void; iterate again.
        """
        windows = WindowAssembler(self.plan.indices, self._engine.clip_head, self._with_frames)
        frames = self._video.frames()
        yield from assembled(self._engine, windows, frames, self._batch_frames)

    def provenance(self) -> EmbeddingProvenance:
        """Return what made the embeddings; it is complete after the last piece."""
        facts, level = self._video.facts, self._video.level
        return make_provenance(self._engine, self._sampling, self.path, facts, level)

    def __enter__(self) -> ClipStream:
        return self

    def __exit__(self, *_: object) -> None:
        self._video.close()


def embed_video(
    model: Network,
    path: str | Path,
    *,
    clips: int | None = None,
    every_seconds: float | None = None,
    batch_size: int | None = None,
    limits: MediaLimits | None = None,
    progress: Progress | None = None,
    decode: Decode = "auto",
) -> Embeddings:
    """Embed one local video or image file.

    Args:
        model: A model in eval mode, or an engine of :func:`ccl_hub.backends.make_engine`.
        path: A regular local file; anything FFmpeg can decode and the whitelist allows.
        clips: Clips spread evenly over the whole video (default 10, as the paper evaluates).
        every_seconds: Instead of ``clips``: a clip starting every so many seconds, to the end of
            the video, tail included.
        batch_size: Frames that go through the network at once, as a number of clips; None for
            what suits the device.
        limits: Largest media accepted.
        progress: Called with (clips done, clips in all) after each batch.
        decode: "auto" decodes in a confined process where the system can confine one, and else
            here; "confined" refuses to decode otherwise; "in-process" decodes here, where a file
            that takes over the decoder has the rights of the caller (SECURITY.md).

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
    engine, sampling = engine_of(model), Sampling(clips, every_seconds)
    stream = partial(
        ClipStream, engine, path, sampling, batch_size=batch_size, limits=limits, decode=decode
    )
    return _used(stream, path, lambda stream: _whole(stream, progress))


def embed_if_short(
    model: Network,
    path: str | Path,
    most_seconds: float,
    *,
    every_seconds: float,
    progress: Progress | None = None,
) -> Embeddings | None:
    """Embed one file as :func:`embed_video` does, or return None before any frame is computed.

    Args:
        model: See :func:`embed_video`, as the rest and the errors.
        path: A local video or image file.
        most_seconds: Longer ones are left.
        every_seconds: A clip starting every so many seconds.
        progress: Called with (clips done, clips in all) after each batch.
    """
    stream = partial(ClipStream, engine_of(model), path, Sampling(None, every_seconds))

    def use(stream: ClipStream) -> Embeddings | None:
        if stream.plan.clip_seconds.max() > most_seconds:
            return None
        return _whole(stream, progress)

    return _used(stream, path, use)


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
    decode: Decode = "auto",
) -> tuple[EmbeddingProvenance, dict[str, tuple[int, ...]]]:
    """Embed one file straight into another; a ``.npy`` is written in bounded memory.

    ``out`` and ``level`` are those of :meth:`Embeddings.save`; the other arguments and errors are
    those of :func:`embed_video`.

    Returns:
        The provenance, and the shapes of clips, frames and video.

    Raises:
        OutputError: The file cannot be written.
    """
    out = Path(out)
    writers.check_output(out, level, source=Path(path))

    def write(stream: ClipStream) -> tuple[EmbeddingProvenance, dict[str, tuple[int, ...]]]:
        count, frames = stream.plan.indices.shape
        if out.suffix == ".npy":
            pieces = (piece._asdict() for piece in _watched(stream, progress))
            dim = writers.write_npy(out, level or "clip", (count, frames), pieces)
        else:
            whole = _whole(stream, progress)
            whole.save(out, level)
            dim = len(whole.video)
        shapes = {"clips": (count, dim), "frames": (count, frames, dim), "video": (dim,)}
        return stream.provenance(), shapes

    engine, sampling = engine_of(model), Sampling(clips, every_seconds)
    stream = partial(ClipStream, engine, path, sampling, batch_size=batch_size, decode=decode)
    frames_kept = out.suffix != ".npy" or level == "frame"
    return _used(partial(stream, with_frames=frames_kept), path, write)


def _whole(stream: ClipStream, progress: Progress | None) -> Embeddings:
    """Compute every piece of a stream and put them together."""
    return gather(_watched(stream, progress), stream.plan, stream.provenance)


def _used(
    stream: Callable[..., ClipStream], path: str | Path, use: Callable[[ClipStream], T]
) -> T:
    """Use a new stream; if a frame that it lists cannot be decoded, one without such frames."""
    try:
        try:
            with stream() as clips:
                return _used_once(clips, use)
        except DecodeError as error:
            logger.info("%s; trying again with the frames that can be decoded", error)
        with stream(decode_index=True) as clips:  # the first one and its frames are gone
            return _used_once(clips, use)
    except MemoryError as error:
        raise MediaLimitError(TOO_LITTLE_MEMORY, path) from error


def _used_once(stream: ClipStream, use: Callable[[ClipStream], T]) -> T:
    """Use a stream, from its beginning again if it starts over."""
    while True:
        try:
            return use(stream)
        except StartsOverError as error:
            logger.info("%s: %s", stream.path, error)


def _watched(stream: ClipStream, progress: Progress | None) -> Iterator[ClipVectors]:
    """Pass the pieces of a stream on and report progress."""
    done = 0
    for piece in stream:
        yield piece
        done += len(piece.clips)
        if progress is not None:
            progress(done, len(stream.plan.indices))
