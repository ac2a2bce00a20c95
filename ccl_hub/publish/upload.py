"""Publish a model folder on the Hugging Face Hub: check it, send it in one commit, name it.

What is sent is what was checked: a folder that changes meanwhile is refused. The repository then
holds exactly the files of the folder that :data:`FILES` names; a second publication replaces the
first as a whole.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch

from .. import hub
from .._util.files import write_atomically
from ..config import CCLConfig, without_later_fields
from ..errors import CCLError, ModelNotFoundError, PublishError
from ..hub_options import HubOptions
from ..network import model_files, weights
from ..network.architecture import CCLNetwork
from ..network.model_files import CONFIG_NAME, GOLDEN_NAME, WEIGHTS_NAME, expanded, is_folder
from ..registry import REGISTRY
from . import golden, model_card
from .model_card import CARD_NAME, FOLDER_PLACEHOLDER, Card

logger = logging.getLogger(__name__)

PREPROCESSOR_NAME = "preprocessor_config.json"
PROVENANCE_NAME = "training_provenance.json"
REQUIRED = (CONFIG_NAME, WEIGHTS_NAME, PREPROCESSOR_NAME, CARD_NAME)
# Everything that is ever sent; what else lies in the folder stays there.
FILES = (*REQUIRED, GOLDEN_NAME, PROVENANCE_NAME, "LICENSE")


@dataclass(frozen=True)
class CheckedFolder:
    """A model folder that may be published, and its content.

    Args:
        config: What its ``config.json`` says.
        contents: The files to send, by name.
        checks: What was checked, one line each.
        left_out: Names of files that are not sent.
    """

    config: CCLConfig
    contents: dict[str, bytes]
    checks: tuple[str, ...]
    left_out: tuple[str, ...]


@dataclass(frozen=True)
class Published:
    """What a publication is, to be pinned and verified by others.

    Args:
        repo: Repository, ``org/name``.
        revision: Full sha of the commit; "" for a dry run.
        sha256: Hash of ``model.safetensors``.
        size_bytes: Size of ``model.safetensors``.
        trained_on: The training data in one line.
    """

    repo: str
    revision: str
    sha256: str
    size_bytes: int
    trained_on: str

    def registry_entry(self) -> str:
        """Return the entry for ``ccl_hub/registry.py``, as Python text."""
        lines = (
            f"name={json.dumps(self.repo.partition('/')[2])},",
            f"trained_on={json.dumps(self.trained_on, ensure_ascii=False)},",
            f'revision="{self.revision}",' + ("" if self.revision else "  # not yet published"),
            f'sha256="{self.sha256}",',
            f"size_bytes={self.size_bytes:_},",
        )
        return "\n".join(["RegistryEntry(", *(f"    {line}" for line in lines), "),"])


def publish(
    folder: str | Path,
    repo: str,
    *,
    private: bool = False,
    branch: str | None = None,
    message: str = "",
    dry_run: bool = False,
    token: str | bool | None = None,
) -> Published:
    """Check a model folder and send it to the Hub in one commit.

    Args:
        folder: A folder of ``training.export``, see :func:`check_folder`; or, if there is no such
            folder, the name of a model that ships inside the package.
        repo: ``org/name``; made if missing.
        private: Make the repository private.
        branch: Branch to commit to, made if missing; the main branch if None.
        message: Message of the commit; it names the model if empty.
        dry_run: Check everything, send nothing.
        token: A token that may write; see :class:`ccl_hub.HubOptions`.

    Raises:
        InputError: ``repo``, ``branch`` or ``token`` is not as the Hub allows.
        PublishError: The folder is not fit to be published; the text lists all that is wrong.
        HubError: The Hub cannot be reached or refuses.
    """
    hub.check_repo(repo)
    hub.check_revision(repo, branch)
    options = HubOptions(token)
    checked = check_folder(folder)
    for line in checked.checks:
        logger.info("ok: %s", line)
    if checked.left_out:
        logger.info("not sent: %s", ", ".join(checked.left_out))
    contents = dict(checked.contents)
    card = contents[CARD_NAME].decode().replace(FOLDER_PLACEHOLDER, repo)
    contents[CARD_NAME] = card.encode()
    data, source = contents[WEIGHTS_NAME], checked.config.provenance
    facts = Published(repo, "", hashlib.sha256(data).hexdigest(), len(data), source.trained_on)
    if dry_run:
        return facts
    sha = hub.commit(
        repo,
        contents,
        options,
        remove=[name for name in FILES if name not in contents],
        private=private,
        branch=branch,
        message=message or f"Publish {source.name or repo}",
    )
    return dataclasses.replace(facts, revision=sha)


def check_folder(folder: str | Path) -> CheckedFolder:
    """Read a model folder and check that others will be able to use it.

    It must hold the files of :data:`REQUIRED`, with a complete card (see
    :mod:`ccl_hub.publish.model_card`); no pickles; weights that load strictly; and golden values
    that agree with them, or, without these, finite embeddings of the golden clip.

    Raises:
        PublishError: Lists everything that is wrong.
    """
    path = expanded(folder)
    entry = REGISTRY.get(str(path))
    if entry is not None and entry.bundled and not is_folder(path):
        path = model_files.bundled_folder(entry.name)
        logger.info("no folder %s here: the model that ships inside the package", entry.name)
    if not is_folder(path):
        raise PublishError(f"{path}: no such folder; give one written by training.export.")
    names = sorted(file.name for file in path.iterdir())
    wrong = [f"no {name}" for name in REQUIRED if name not in names]
    wrong += [
        f"{name} is a pickle, which can run code"
        for name in names
        if Path(name).suffix in model_files.PICKLE_SUFFIXES
    ]
    if wrong:
        raise _unfit(path, wrong)
    contents = _contents(path, names)
    config, checks = _check_model(path, contents)
    wrong = [f"{CARD_NAME}: {problem}" for problem in _card_problems(contents[CARD_NAME])]
    wrong += _preprocessor_problems(config, contents[PREPROCESSOR_NAME])
    if wrong:
        raise _unfit(path, wrong)
    if _contents(path, names) != contents:
        raise PublishError(f"{path}: changed while it was checked; publish it again.")
    checks += (f"{CARD_NAME} is complete",)
    left_out = tuple(name for name in names if name not in contents)
    return CheckedFolder(config, contents, checks, left_out)


def _contents(path: Path, names: list[str]) -> dict[str, bytes]:
    try:
        return {name: (path / name).read_bytes() for name in FILES if name in names}
    except OSError as error:
        raise PublishError(
            f"{error.filename}: cannot be read ({error.strerror or error}); check that it is a "
            "file, and the permissions."
        ) from error


def _unfit(path: Path, wrong: list[str]) -> PublishError:
    return PublishError(
        f"{path}: not fit to be published: {'; '.join(line.rstrip('.') for line in wrong)}. "
        "training.export writes a whole folder; fill in its card, then publish again."
    )


def _check_model(path: Path, contents: dict[str, bytes]) -> tuple[CCLConfig, tuple[str, ...]]:
    """Load the model as a user would and check its numbers."""
    try:
        source = model_files.resolve(path)
        if GOLDEN_NAME in contents:
            wrong = [str(check) for check in golden.verify(path) if not check.passed]
            if wrong:
                raise _unfit(path, [f"{GOLDEN_NAME}: {line}" for line in wrong])
            return source.config, ("weights load strictly", "golden values agree")
        vectors = golden.compute(weights.load(CCLNetwork, source))
    except (PublishError, ModelNotFoundError):
        raise
    except CCLError as error:
        raise _unfit(path, [str(error)]) from error
    if not all(torch.from_numpy(array).isfinite().all() for array in vectors.values()):
        raise _unfit(path, [f"{WEIGHTS_NAME} gives NaN or infinity on the golden clip"])
    return source.config, ("weights load strictly", "embeddings of the golden clip are finite")


def _card_problems(data: bytes) -> list[str]:
    try:
        text = data.decode()
        metadata = hub.card_metadata(text) if text.startswith("---") else {}
    except UnicodeDecodeError as error:
        return [f"not UTF-8 text ({error})"]
    except CCLError as error:
        return [str(error)]
    # The repository's name is filled in on publication.
    return model_card.problems(text.replace(FOLDER_PLACEHOLDER, "org/name"), metadata)


def _preprocessor_problems(config: CCLConfig, data: bytes) -> list[str]:
    expected = json.loads(json.dumps(config.preprocessing.identity()))
    try:
        written = json.loads(data)
    except ValueError as error:
        return [f"{PREPROCESSOR_NAME}: not JSON ({error})"]
    same = isinstance(written, dict) and without_later_fields(written) == expected
    return [] if same else [f"{PREPROCESSOR_NAME} differs from {CONFIG_NAME}"]


def write_texts(folder: Path, config: CCLConfig, card: str) -> None:
    """Write ``preprocessor_config.json`` and the card beside ``config.json``."""
    preprocessing = json.dumps(dataclasses.asdict(config.preprocessing), indent=2) + "\n"
    write_atomically(folder / PREPROCESSOR_NAME, preprocessing)
    write_atomically(folder / CARD_NAME, card)


def push(
    model: CCLNetwork,
    repo: str,
    *,
    card: Card | str | Path,
    private: bool = False,
    branch: str | None = None,
    message: str = "",
    dtype: torch.dtype | None = None,
    token: str | bool | None = None,
) -> Published:
    """Publish a model that is in memory; see :meth:`ccl_hub.CCLModel.push_to_hub`."""
    hub.check_repo(repo)
    text = _card_text(card, model.config)
    with tempfile.TemporaryDirectory(prefix="ccl-hub-") as name:
        folder = weights.save(model, Path(name), dtype)
        write_texts(folder, model.config, text)
        golden.write(weights.load(CCLNetwork, model_files.resolve(folder)), folder)
        return publish(folder, repo, private=private, branch=branch, message=message, token=token)


def _card_text(card: Card | str | Path, config: CCLConfig) -> str:
    if isinstance(card, Card):
        return model_card.render(config, card)
    if isinstance(card, str):
        return card
    try:
        return expanded(card).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PublishError(
            f"{card}: cannot be read ({error}); give the text of a card."
        ) from error
