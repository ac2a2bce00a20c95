"""Every error this package raises on purpose.

    CCLError
    ├── ConfigError (ValueError)          a configuration value or key is not allowed
    ├── InputError (ValueError)           an argument of a call is not allowed
    ├── ModelError                        a model cannot be loaded, or gives NaN
    │   ├── ModelNotFoundError            no such model name, folder or Hub repository
    │   ├── HubError                      the Hub cannot be reached, or refuses
    │   ├── PublishError                  a model folder is not fit to be published
    │   └── WeightsError                  the weights are there but must not be used
    ├── MediaError                        one video or image cannot be embedded as asked
    │   ├── MediaNotFoundError            no such file, or not a regular local file
    │   ├── UnreadableError               the file is there, but its storage fails
    │   ├── UnsupportedMediaError         container or codec that is refused or unknown
    │   ├── NoVideoError                  a readable file without any video frame
    │   ├── MediaLimitError               larger than the stated limits
    │   ├── DecodeError                   damaged or truncated beyond use
    │   ├── DecoderCrashError             its decoding process died
    │   └── DecoderFaultError             an unforeseen error, or a call that the sandbox refuses
    ├── OutputError (OSError)             a result could not be written
    ├── ExportError                       a model cannot be written for another runtime
    └── TrainingError                     a training run cannot start or go on

Each message says what happened, in which file, the value seen, what is allowed and what to do
next. ``MediaError.code`` is a short stable word for tables and scripts.
"""

from __future__ import annotations

from pathlib import Path

__all__ = [
    "CCLError",
    "ConfigError",
    "DecodeError",
    "DecoderCrashError",
    "DecoderFaultError",
    "ExportError",
    "HubError",
    "InputError",
    "MediaError",
    "MediaLimitError",
    "MediaNotFoundError",
    "ModelError",
    "ModelNotFoundError",
    "NoVideoError",
    "OutputError",
    "PublishError",
    "TrainingError",
    "UnreadableError",
    "UnsupportedMediaError",
    "WeightsError",
]


TOO_LITTLE_MEMORY = (
    "its result takes more memory than is free; ask for fewer windows (every_seconds, --every) or "
    "for no frames, close what else uses the memory, and try what failed again (--retry-failed)."
)
"""Reason of a :class:`MediaLimitError` where the process that embeds has a MemoryError."""


class CCLError(Exception):
    """Base of every error raised on purpose by this package."""


class ConfigError(CCLError, ValueError):
    """A configuration value or key is not allowed."""


class InputError(CCLError, ValueError):
    """An argument of a call is not allowed."""


class ModelError(CCLError):
    """A model cannot be loaded, or gives NaN."""


class ModelNotFoundError(ModelError):
    """No such model name, local folder or Hub repository."""


class HubError(ModelError):
    """The Hugging Face Hub cannot be reached, or refuses; trying again may help."""


class PublishError(ModelError):
    """A model folder is not fit to be published."""


class WeightsError(ModelError):
    """Weights were found but must not be used: wrong hash, wrong keys, or a pickle."""


class MediaError(CCLError):
    """One video or image cannot be embedded as asked.

    Args:
        message: What happened, the value seen, what is allowed, and what to do next.
        path: The file, which is put in front of the message; None for arrays.
    """

    code = "media"

    def __init__(self, message: str, path: str | Path | None = None) -> None:
        self.reason = message
        self.path = None if path is None else Path(path)
        super().__init__(message if path is None else f"{path}: {message}")

    def __reduce__(self) -> tuple[type[MediaError], tuple[str, Path | None]]:
        """Pickle by reason and path, so that errors cross process boundaries unchanged."""
        return (type(self), (self.reason, self.path))


class MediaNotFoundError(MediaError):
    """No such file, or not a regular local file."""

    code = "not_found"


class UnreadableError(MediaError):
    """The file is there, but cannot be read from its storage; trying again later may help."""

    code = "unreadable"


class UnsupportedMediaError(MediaError):
    """The container or codec is refused or unknown."""

    code = "unsupported"


class NoVideoError(MediaError):
    """The file is readable but holds no video frame."""

    code = "no_video"


class MediaLimitError(MediaError):
    """The video is larger than the stated limits."""

    code = "too_large"


class DecodeError(MediaError):
    """The video is damaged or truncated beyond use."""

    code = "damaged"


class DecoderCrashError(MediaError):
    """The process that decoded it died; see :class:`ccl_hub.embed.ClipStream` for ``decode``."""

    code = "crashed"


class DecoderFaultError(MediaError):
    """Its decoding process met an unforeseen error, or a system call that its sandbox refuses."""

    code = "internal"


class OutputError(CCLError, OSError):
    """A result could not be written."""


class ExportError(CCLError):
    """A model cannot be written for another runtime: a package is missing, or numbers differ."""


class TrainingError(CCLError):
    """A training run cannot start or go on."""


def code_and_reason(error: Exception) -> tuple[str, str]:
    """Return the reason code of a video that failed unforeseen, and the reason in words.

    Args:
        error: The error that is handled; a MemoryError is "too_large", any other "internal".
    """
    if isinstance(error, MemoryError):
        return MediaLimitError.code, TOO_LITTLE_MEMORY
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    file = "unknown code" if place is None else Path(place.tb_frame.f_code.co_filename).name
    line = 0 if place is None else place.tb_lineno
    return "internal", (
        f"unexpected {type(error).__name__} in {file}, line {line}: "
        f"{error}; convert the video, and please report this."
    )
