"""How files are fetched from the Hugging Face Hub: the keywords of its client, as one object."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from .errors import InputError

__all__ = ["HubOptions"]


@dataclass(frozen=True)
class HubOptions:
    """How a model is fetched from the Hub; each field means what it means to huggingface_hub.

    Nothing is fetched for a local folder or a bundled model: all but ``subfolder`` then have no
    effect, as in transformers, so that one call serves both. (A ``revision`` is refused there: it
    would name other weights than those that are loaded.)

    Args:
        token: A token to send; False sends none; None sends that of ``HF_TOKEN`` or
            ``hf auth login`` if there is one, and True insists on it. No message shows it.
        cache_dir: Folder of the cache; None for the one that ``HF_HUB_CACHE`` or ``HF_HOME`` says.
        local_files_only: Take what the cache has, and ask nothing of the Hub.
        force_download: Fetch again what the cache has.
        subfolder: Folder inside the repository, or inside the local folder, where the model is;
            parts are divided by "/". None or "" is the top.

    Raises:
        InputError: A value is not allowed, or two contradict each other.

    Example:
        >>> options = HubOptions(token="hf_secret", subfolder="small/fp32/")
        >>> options.parts, "hf_secret" in repr(options)
        (['small', 'fp32'], False)
    """

    token: str | bool | None = field(default=None, repr=False)
    cache_dir: str | Path | None = None
    local_files_only: bool = False
    force_download: bool = False
    subfolder: str | None = None

    def __post_init__(self) -> None:
        self._check_token()
        for name in ("local_files_only", "force_download"):
            if not isinstance(getattr(self, name), bool):
                raise InputError(f"{name} is {getattr(self, name)!r}; allowed: True or False.")
        if self.local_files_only and self.force_download:
            raise InputError(
                "local_files_only and force_download contradict each other; give one of them."
            )
        text = self.subfolder or ""
        if not isinstance(text, str) or text.startswith("/") or "\\" in text or ".." in self.parts:
            raise InputError(
                f"subfolder is {self.subfolder!r}; allowed: a folder inside the repository or "
                "folder, such as 'small/fp32', with '/' between its parts."
            )

    def _check_token(self) -> None:
        """Refuse what cannot be a token, without showing it, as the libraries below would."""
        token = self.token
        if token is None or isinstance(token, bool):
            return
        if not isinstance(token, str):
            raise InputError(
                f"token is of type {type(token).__name__}; allowed: text, True, False or None."
            )
        if not token or not token.isascii() or not token.isprintable() or " " in token:
            raise InputError(
                "token is text, but cannot be a token (it is empty, or holds blanks, line ends or "
                "letters beyond ASCII; it is not shown here); give it without these, or None."
            )

    @property
    def parts(self) -> list[str]:
        """The names of the folders that lead from the top to the model."""
        return [part for part in (self.subfolder or "").split("/") if part not in ("", ".")]

    def keywords(self) -> dict[str, Any]:
        """Return the fields as keywords of :meth:`ccl_hub.CCLModel.from_pretrained`."""
        return {field.name: getattr(self, field.name) for field in fields(self)}
