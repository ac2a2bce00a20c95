"""Where a model's files are on this machine, fetched if they are on the Hub; and their bytes.

Only safetensors are read. A file's bytes are read once: what was hashed is what is loaded, by
:mod:`ccl_hub.network.weights` into torch, by :mod:`ccl_hub.network.stored` without.
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from .. import hub
from ..config import CCLConfig
from ..errors import InputError, ModelNotFoundError, WeightsError
from ..hub_options import HubOptions
from ..registry import BUNDLED_FOLDER, ORGANISATION_VARIABLE, REGISTRY, RegistryEntry

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"
GOLDEN_NAME = "golden.safetensors"
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


@dataclass(frozen=True)
class Source:
    """Where a model's files are on this machine.

    Args:
        name: What the user asked for, for messages and provenance.
        config: Read from ``config.json``.
        weights_path: The safetensors file.
        expected_sha256: Hash the file must have, or "" if none is published.
        hub_file: The weights in the cache of the Hub's client, or None if they are in a folder.
    """

    name: str
    config: CCLConfig
    weights_path: Path
    expected_sha256: str = ""
    hub_file: hub.HubFile | None = None

    @property
    def checked_against(self) -> str:
        """Whose hash the weights are compared with: "registry", "Hub", or "" for none."""
        if self.expected_sha256:
            return "registry"
        return "Hub" if self.hub_file is not None and self.hub_file.stated_hash else ""


def resolve(
    name_or_path: str | Path, revision: str | None = None, options: HubOptions | None = None
) -> Source:
    """Find a model's files, fetching them if they are on the Hub and not cached.

    Args:
        name_or_path: Registry name, local folder, or Hub id ``org/name`` (also
            ``org/name@revision``).
        revision: Commit, tag or branch, for Hub ids and unpinned names.
        options: How files of the Hub are fetched, and in which subfolder the model is.

    Raises:
        ModelNotFoundError: None of these exists.
        HubError: The Hub cannot be reached, or refuses.
        WeightsError: The folder or repository holds no safetensors, or its ``config.json`` is not
            what the Hub says it is.
        ConfigError: Its ``config.json`` cannot be read.
        InputError: There is a revision for something that has none.
    """
    text, options = str(name_or_path), options or HubOptions()
    entry = REGISTRY.get(text)
    if entry is not None and isinstance(name_or_path, str):  # a Path always means a folder
        return _resolve_entry(entry, revision, options)
    folder = expanded(name_or_path)
    if is_folder(folder):
        if revision is not None:
            raise InputError(
                f"revision is {revision!r} but {folder} is a local folder, which has none; "
                "leave it out."
            )
        return _from_folder(folder, text, options)
    repo, at_sign, pinned = text.partition("@")
    if at_sign and revision is not None:
        raise InputError(f"two revisions for {repo}: {pinned!r} and {revision!r}; give one.")
    if isinstance(name_or_path, str) and HUB_ID.fullmatch(repo):
        return _from_hub(repo, pinned if at_sign else revision, text, options)
    if os.path.isfile(folder):  # noqa: PTH113 - as in is_folder()
        raise ModelNotFoundError(
            f"{text!r} is a file; give the folder that holds {CONFIG_NAME} and {WEIGHTS_NAME}."
        )
    raise ModelNotFoundError(
        f"{text!r} is neither a known name, nor a folder here, nor a Hub id 'org/name'. "
        f"Known names: {', '.join(REGISTRY)}."
    )


def expanded(path: str | Path) -> Path:
    """Return the path with a leading ``~`` or ``~user`` resolved where there is such a user."""
    return Path(os.path.expanduser(path))  # noqa: PTH111 - Path.expanduser raises RuntimeError


def is_folder(path: Path) -> bool:
    """Whether there is such a folder; False even for what a folder cannot be called."""
    return os.path.isdir(path)  # noqa: PTH112 - Path.is_dir raises for a name that is too long


def bundled_folder(name: str) -> Path:
    """Return the folder of a checkpoint that ships inside the package."""
    return Path(str(resources.files("ccl_hub"))) / BUNDLED_FOLDER / name


def _resolve_entry(entry: RegistryEntry, revision: str | None, options: HubOptions) -> Source:
    pinned = entry.bundled or entry.published
    if revision is not None and pinned and revision != entry.revision:
        raise InputError(
            f"revision is {revision!r} but the name {entry.name!r} is pinned to "
            f"{entry.revision or 'this version of the package'}; leave it out, or give the Hub id."
        )
    if entry.bundled:
        return _from_folder(bundled_folder(entry.name), entry.name, options, entry.sha256)
    if not entry.published and not os.environ.get(ORGANISATION_VARIABLE):
        raise ModelNotFoundError(_not_published(entry))
    try:
        pinned_revision = entry.revision or revision
        return _from_hub(entry.repo, pinned_revision, entry.name, options, entry.sha256)
    except ModelNotFoundError as error:
        if entry.published:
            raise
        raise ModelNotFoundError(f"{error} {_not_published(entry)}") from error


def _not_published(entry: RegistryEntry) -> str:
    return (
        f"{entry.name!r} is not yet published (trained on: {entry.trained_on}). "
        "Load 'ccl_lite0', which ships inside the package; or train it with training/ and give "
        "the exported folder or your own Hub id 'org/name'; or set "
        f"{ORGANISATION_VARIABLE} to an organisation that has a repository of this name."
    )


def _from_folder(folder: Path, name: str, options: HubOptions, sha256: str = "") -> Source:
    folder = folder.joinpath(*options.parts)
    config_path, weights_path = folder / CONFIG_NAME, folder / WEIGHTS_NAME
    if not config_path.is_file():
        raise ModelNotFoundError(
            f"{folder}: no {CONFIG_NAME}; a model folder holds {CONFIG_NAME} and {WEIGHTS_NAME}. "
            "Write one with model.save_pretrained() or training.export."
        )
    if not weights_path.is_file():
        pickles = sorted(p.name for p in folder.iterdir() if p.suffix in PICKLE_SUFFIXES)
        if pickles:
            raise WeightsError(_only_pickles(str(folder), pickles[0]))
        raise WeightsError(f"{folder}: no {WEIGHTS_NAME}; copy or export the folder again.")
    config = CCLConfig.from_file(config_path)
    return Source(_named(name, options), config, weights_path, sha256)


def _named(name: str, options: HubOptions) -> str:
    """Return what the user asked for as one name, the subfolder behind it as in a path."""
    return "/".join([name.rstrip("/"), *options.parts]) if options.parts else name


def _only_pickles(where: str, file: str) -> str:
    return (
        f"{where}: the weights are a pickle ({file}), which can run code and is never loaded; "
        f"ask for or convert to {WEIGHTS_NAME}."
    )


def _from_hub(
    repo: str, revision: str | None, name: str, options: HubOptions, sha256: str = ""
) -> Source:
    """Fetch the two files of a Hub repository, or take them from the cache."""
    hub.check_revision(repo, revision)
    config_file = hub.fetch(repo, CONFIG_NAME, revision, options)
    if config_file is None:
        raise _lacking(repo, revision, CONFIG_NAME, options)
    hub.read(config_file)  # checks it: another mean or size would change every embedding
    config = CCLConfig.from_file(config_file.path)
    # From the very commit that the configuration came from: a branch may move in between.
    file = hub.fetch(repo, WEIGHTS_NAME, config_file.commit, options)
    if file is None:
        raise _lacking(repo, config_file.commit, WEIGHTS_NAME, options)
    return Source(_named(name, options), config, file.path, sha256, file)


def _lacking(repo: str, revision: str | None, missing: str, options: HubOptions) -> WeightsError:
    """Return the error of a repository without the file, which tells what it has instead."""
    name = f"{repo}@{revision}" if revision else repo
    files = hub.list_files(repo, revision, options)
    prefix = "".join(f"{part}/" for part in options.parts)
    siblings = [file for file in files if file.startswith(prefix)]
    pickles = [file for file in siblings if file.endswith(PICKLE_SUFFIXES)]
    if pickles and not any(file.endswith(".safetensors") for file in siblings):
        return WeightsError(_only_pickles(name, pickles[0]))
    shown = ", ".join(files[:5]) + (", ..." if len(files) > 5 else "")
    return WeightsError(
        f"{name}: the repository has no {prefix}{missing} (it has: {shown or 'nothing'}); only "
        "safetensors checkpoints of this package can be loaded. Write one with 'ccl-hub publish'."
    )


def read_weights(source: Source) -> tuple[bytes, str]:
    """Read the weights' file and compare it with the published hash.

    Returns:
        Its bytes and their sha256.

    Raises:
        WeightsError: The file cannot be read, or its hash is not the published one.
    """
    path, published = source.weights_path, source.expected_sha256
    data = hub.read(source.hub_file, published) if source.hub_file else hub.read_bytes(path)
    sha256 = hashlib.sha256(data).hexdigest()
    if published not in ("", sha256):
        raise WeightsError(
            f"{path}: sha256 is {sha256}, published is {published}; the file is damaged or was "
            "replaced. Install the package again."
        )
    return data, sha256


def beside(source: Source, name: str) -> Path | None:
    """Return another file of the same folder or commit, fetched if needed; None if there is none.

    Raises:
        ModelNotFoundError: Offline, and not in the cache.
        HubError: The file cannot be fetched.
        WeightsError: The file is not what the Hub says it is.
    """
    if source.hub_file is None:
        path = source.weights_path.with_name(name)
        return path if path.is_file() else None
    weights = source.hub_file
    file = hub.fetch(weights.repo, name, weights.commit, weights.options)
    if file is None:
        return None
    hub.read(file)
    return file.path
