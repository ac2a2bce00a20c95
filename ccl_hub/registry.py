"""The checkpoints this package knows by name. Data only: nothing is fetched here."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from .errors import InputError

__all__ = [
    "BUNDLED_FOLDER",
    "DEFAULT_MODEL",
    "REGISTRY",
    "RegistryEntry",
    "list_models",
    "organisation",
]

# The organisation on the Hub that publishes these checkpoints, and the variable that names another
# one: that of a fork, or of your own copies.
ORGANISATION = "org"
ORGANISATION_VARIABLE = "CCL_HUB_ORG"
# Folder inside the package that holds one folder for each bundled checkpoint.
BUNDLED_FOLDER = "checkpoints"


@dataclass(frozen=True)
class RegistryEntry:
    """One named checkpoint.

    Args:
        name: What users type.
        trained_on: Pretraining data in one line.
        bundled: True if it ships inside the package and needs no network.
        revision: Full commit sha on the Hub; "" while nothing is published.
        sha256: Hash of ``model.safetensors``; "" while nothing is published.
        size_bytes: Size of ``model.safetensors``; 0 while nothing is published.
    """

    name: str
    trained_on: str
    bundled: bool = False
    revision: str = ""
    sha256: str = ""
    size_bytes: int = 0

    @property
    def repo(self) -> str:
        """Repository on the Hugging Face Hub, or "" if bundled; see :func:`organisation`."""
        return "" if self.bundled else f"{organisation()}/{self.name}"

    @property
    def published(self) -> bool:
        """Whether weights exist that can be loaded and verified."""
        return bool(self.sha256)


DEFAULT_MODEL = "ccl_lite0"

_ENTRIES = (
    RegistryEntry(
        name=DEFAULT_MODEL,
        trained_on="ImageNet with labels (its start), then 3,578 unlabelled clips, 271 minutes "
        "(robot arms, internet video, phones, pets, sports, surveillance)",
        bundled=True,
        sha256="f0b2957d4a6fa94516e732d1323b90d924f9372212f535a68aebfff008562930",
        size_bytes=10_776_040,
    ),
    RegistryEntry(
        name="ccl_r18_mini",
        trained_on="3,222 unlabelled clips, 225 minutes (robot arms, phones, pets, surveillance)",
        bundled=True,
        sha256="c3d1000b2a631ade5a73e801297a718388c213c91292f5d7ec147bd503774cb3",
        size_bytes=24_336_512,
    ),
    RegistryEntry(
        name="ccl_r18_k400",
        trained_on="Kinetics-400, train split, without labels",
    ),
    RegistryEntry(
        name="ccl_r18_ucf101",
        trained_on="UCF101, train split 1, without labels",
    ),
)

REGISTRY: dict[str, RegistryEntry] = {entry.name: entry for entry in _ENTRIES}


def organisation() -> str:
    """Return the organisation on the Hub: ``CCL_HUB_ORG`` if set, read at every call.

    Raises:
        InputError: ``CCL_HUB_ORG`` is not the name of an organisation.
    """
    name = os.environ.get(ORGANISATION_VARIABLE) or ORGANISATION
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name, re.ASCII):
        raise InputError(
            f"{ORGANISATION_VARIABLE} is {name!r}; allowed: one name of a user or organisation "
            "on the Hub, of letters, digits, '-', '_' and '.'."
        )
    return name


def list_models() -> list[str]:
    """Return the checkpoint names that :meth:`CCLModel.from_pretrained` knows.

    Example:
        >>> list_models()
        ['ccl_lite0', 'ccl_r18_mini', 'ccl_r18_k400', 'ccl_r18_ucf101']
    """
    return list(REGISTRY)
