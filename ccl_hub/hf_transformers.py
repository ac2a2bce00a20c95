"""``transformers.AutoModel`` for the model folders and Hub repositories of this package.

    import ccl_hub.hf_transformers  # registers; needs pip install 'ccl-hub[transformers]'
    from transformers import AutoModel

    model = AutoModel.from_pretrained("org/name")  # or a folder

No code is fetched, so ``trust_remote_code`` is not needed. What comes back is a
:class:`ccl_hub.CCLModel`, loaded as always: safetensors alone, strictly, hash checked, in eval
mode; it embeds files by ``model.embed``, so there is no processor class. Names of the registry,
which transformers does not know, are for ``CCLModel.from_pretrained``.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

try:
    from transformers import AutoConfig, AutoModel, PretrainedConfig
except ImportError as error:
    raise ImportError(
        f"ccl_hub.hf_transformers cannot import transformers ({error}); "
        "pip install 'ccl-hub[transformers]'."
    ) from error

from ._util.checks import known_keywords
from .config import SCHEMA_VERSION, CCLConfig
from .errors import InputError
from .hub_options import HubOptions
from .model import CCLModel

__all__ = ["CCLAutoModel", "CCLTransformersConfig"]

HUB_KEYWORDS = ("revision", *(field.name for field in dataclasses.fields(HubOptions)))
ALLOWED = ("config", "dtype", "device_map", "trust_remote_code", *HUB_KEYWORDS)
ADDED = ("_from_auto", "adapter_kwargs")  # AutoModel itself adds these


class CCLTransformersConfig(PretrainedConfig):  # type: ignore[misc]
    """``config.json`` as transformers reads it: our fields as plain dictionaries."""

    model_type = "ccl"

    def to_ccl(self) -> CCLConfig:
        """Return our own configuration.

        Raises:
            ConfigError: A key or value is not one of ours.
        """
        names = [field.name for field in dataclasses.fields(CCLConfig)]
        values = {name: getattr(self, name) for name in names if hasattr(self, name)}
        version = getattr(self, "schema_version", SCHEMA_VERSION)
        return CCLConfig.from_dict({"model_type": "ccl", "schema_version": version, **values})


class CCLAutoModel(CCLModel):
    """:class:`CCLModel` with the keywords that ``AutoModel`` passes on."""

    config_class = CCLTransformersConfig

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, name_or_path: str | Path, **options: Any
    ) -> CCLAutoModel:
        """Load as :meth:`CCLModel.from_pretrained` does.

        Args:
            name_or_path: A folder or a Hub id.
            options: ``dtype``, ``device_map`` (one device, or ``"auto"``), ``config``, which must
                be that of the weights, and ``revision``, ``token``, ``cache_dir``,
                ``local_files_only``, ``force_download`` and ``subfolder``.

        Raises:
            InputError: Another option, or another configuration.
        """
        passed = {
            key: value
            for key, value in options.items()
            if key not in ADDED and value is not None and (value is not False or key == "token")
        }
        known_keywords(passed, ALLOWED)
        model = super().from_pretrained(
            name_or_path,
            device=passed.get("device_map"),
            dtype=passed.get("dtype"),
            **{key: passed[key] for key in HUB_KEYWORDS if key in passed},
        )
        config = passed.get("config")
        if config is not None and config.to_ccl().fingerprint() != model.config.fingerprint():
            raise InputError(
                f"{name_or_path}: the config given is not that of the weights; leave it out."
            )
        return model

    @classmethod
    def _from_config(cls, config: CCLTransformersConfig) -> CCLAutoModel:
        """Fresh random weights, for ``AutoModel.from_config``."""
        return cls(config.to_ccl())


AutoConfig.register("ccl", CCLTransformersConfig, exist_ok=True)
AutoModel.register(CCLTransformersConfig, CCLAutoModel, exist_ok=True)
