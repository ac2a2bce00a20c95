"""The model as its user meets it: load, save, publish, embed.

What it computes is :class:`ccl_hub.network.architecture.CCLNetwork`; whatever lies below this
module takes that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Never, Self

import torch

from ._util.checks import known_keywords
from .hub_options import HubOptions
from .network import model_files, weights
from .network.architecture import CCLNetwork, CCLOutput
from .network.devices import resolve_device, resolve_dtype

if TYPE_CHECKING:
    import numpy as np

    from .decoding.one_video import Decode
    from .embed.embeddings import Embeddings
    from .embed.in_memory import ImageLike
    from .publish.model_card import Card
    from .publish.upload import Published

__all__ = ["CCLModel", "CCLOutput"]

PRETRAINED_KEYWORDS = ("revision", "device", "dtype", *(f.name for f in fields(HubOptions)))
"""What :meth:`CCLModel.from_pretrained` takes besides the name."""


class CCLModel(CCLNetwork):
    """Frame and video embeddings by Cycle-Contrastive Learning (12,128,192 parameters).

    Args:
        config: Architecture, preprocessing and provenance; the paper's network by default, with
            fresh random weights. :meth:`from_pretrained` gives a trained one.

    Example:
        >>> import torch
        >>> model = CCLModel().eval()
        >>> with torch.inference_mode():
        ...     output = model(torch.zeros(1, 3, 8, 112, 112))
        >>> output.frames.shape, output.video.shape
        (torch.Size([1, 8, 512]), torch.Size([1, 512]))
    """

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        revision: str | None = None,
        device: str | torch.device | None = None,
        dtype: torch.dtype | str | None = None,
        *,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        force_download: bool = False,
        subfolder: str | None = None,
        **unknown: Never,
    ) -> Self:
        """Load a trained model, in eval mode.

        The keywords from ``token`` on mean what they mean to huggingface_hub; see
        :class:`ccl_hub.HubOptions`. For a local folder or a bundled model nothing is fetched, so
        all but ``subfolder`` have no effect.

        Args:
            name_or_path: A name of ``ccl_hub.list_models()``, a Hub id ``org/name``, or a local
                folder with ``config.json`` and ``model.safetensors`` (safetensors only). A
                ``Path`` always means a folder.
            revision: Commit, tag or branch on the Hub; names in the registry are pinned already.
            device: Where to put the weights; ``"auto"`` takes CUDA or MPS when there is one; CPU
                by default.
            dtype: ``torch.float32`` (default), ``torch.bfloat16`` or ``torch.float16``, or its
                name.
            token: A token for the Hub, or False for none; by default that of ``HF_TOKEN`` or
                ``hf auth login``, which True insists on.
            cache_dir: Folder of the cache, instead of the usual one.
            local_files_only: Take what the cache has, and ask nothing of the Hub.
            force_download: Fetch again what the cache has.
            subfolder: Folder inside the repository, or the local folder, where the model is.
            unknown: No other keyword is allowed.

        Returns:
            The model; ``model.weights_sha256`` names the exact file it came from.

        Raises:
            ModelNotFoundError: No such name, folder or repository.
            HubError: The Hub cannot be reached, or refuses.
            WeightsError: Wrong hash, wrong keys or shapes, or only pickled weights.
            ConfigError: The configuration beside the weights is not one we can read.
            InputError: Unknown keyword, dtype or device, or a value that is not allowed.

        Example:
            >>> model = CCLModel.from_pretrained("ccl_lite0")
            >>> model.training
            False
        """
        known_keywords(unknown, PRETRAINED_KEYWORDS)
        options = HubOptions(token, cache_dir, local_files_only, force_download, subfolder)
        device, dtype = resolve_device(device), resolve_dtype(dtype)
        return weights.load(
            cls, model_files.resolve(name_or_path, revision, options), device, dtype
        )

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype | None = None) -> Path:
        """Write ``model.safetensors`` and ``config.json``, each whole or not at all.

        Args:
            folder: Made if missing; ``~`` is your home.
            dtype: Floating-point type of the stored weights; unchanged if None. BatchNorm
                statistics and counters stay exact (float32, int64).

        Returns:
            The folder.

        Raises:
            OutputError: The folder cannot be written.
        """
        return weights.save(self, model_files.expanded(folder), dtype)

    def push_to_hub(
        self,
        repo: str,
        *,
        card: Card | str | Path,
        private: bool = False,
        branch: str | None = None,
        message: str = "",
        dtype: torch.dtype | None = None,
        token: str | bool | None = None,
    ) -> Published:
        """Check and publish this model in one commit, with golden values.

        Args:
            repo: ``org/name`` on the Hub; made if missing. Log in with ``hf auth login`` first.
            card: The model card: its text, a path, or a
                :class:`ccl_hub.publish.model_card.Card`, from which the text is made.
            private: Make the repository private.
            branch: Branch to commit to; the main branch if None.
            message: Message of the commit.
            dtype: See :meth:`save_pretrained`.
            token: A token that may write; by default that of your login.

        Returns:
            The commit, hash and size to pin.

        Raises:
            PublishError: The card is not complete, or the model is not fit to be published.
            HubError: The Hub cannot be reached or refuses.
        """
        from .publish.upload import push

        return push(
            self,
            repo,
            card=card,
            private=private,
            branch=branch,
            message=message,
            dtype=dtype,
            token=token,
        )

    def embed(
        self,
        path: str | Path,
        *,
        clips: int | None = None,
        every_seconds: float | None = None,
        batch_size: int | None = None,
        decode: Decode = "auto",
    ) -> Embeddings:
        """Embed one video file; see :func:`ccl_hub.embed.embed_video`.

        On Linux it is decoded in a confined process; ``decode="in-process"`` decodes it here.
        """
        from .decoding.one_video import prepare

        prepare(decode)  # it starts while this process imports
        from .embed.stream import embed_video

        return embed_video(
            self,
            path,
            clips=clips,
            every_seconds=every_seconds,
            batch_size=batch_size,
            decode=decode,
        )

    def embed_frames(
        self,
        frames: np.ndarray,
        seconds: Sequence[float] | np.ndarray,
        *,
        clips: int | None = None,
        every_seconds: float | None = None,
        batch_size: int | None = None,
    ) -> Embeddings:
        """Embed frames already in memory; see :func:`ccl_hub.embed.embed_frames`."""
        from .embed.in_memory import embed_frames

        return embed_frames(
            self, frames, seconds, clips=clips, every_seconds=every_seconds, batch_size=batch_size
        )

    def embed_image(self, image: ImageLike, *, decode: Decode = "auto") -> Embeddings:
        """Embed one still image; see :func:`ccl_hub.embed.embed_image`."""
        from .embed.in_memory import embed_image

        return embed_image(self, image, decode=decode)
