"""Talk to the Hugging Face Hub: fetch, check, publish; every request to it is made here.

The client, ``huggingface_hub``, brings the cache, resumed downloads, offline mode
(``HF_HUB_OFFLINE``), mirrors (``HF_ENDPOINT``), proxies (``HTTPS_PROXY``) and tokens (``HF_TOKEN``
or ``hf auth login``); its keywords are in :class:`HubOptions`. It compares sizes, not contents;
here every file is compared with its hash before use. Every error it raises leaves as one of ours.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from ._version import __version__
from .errors import HubError, InputError, ModelError, ModelNotFoundError, WeightsError
from .hub_options import HubOptions

__all__ = [
    "HubFile",
    "card_metadata",
    "check_repo",
    "check_revision",
    "commit",
    "fetch",
    "list_files",
    "read",
    "read_bytes",
]

logger = logging.getLogger(__name__)

SHA256_DIGITS, SHA1_DIGITS = 64, 40
LOG_IN = "log in with 'hf auth login', set HF_TOKEN or give a token"
OFFLINE = "offline mode is on (HF_HUB_OFFLINE)"
LOCAL_ONLY = "only local files are asked for (local_files_only)"
# Git's own rules. A name with ".." would also leave the folder where the cache keeps revisions.
REVISION = re.compile(r"(?!.*\.\.)[^\s\x00-\x1f\x7f~^:?*\[\\]+")
# What an address may hold that only its owner should see: a password, a signature.
SECRETS = (
    (re.compile(r"(?<=Bearer )[^\s'\"]+"), "***"),
    (re.compile(r"(?<=://)[^/@\s]+@"), "***@"),
    (re.compile(r"(?<=[^\s?]\?)[^\s'\"]*=[^\s'\"]*"), "..."),
)


@dataclass(frozen=True)
class HubFile:
    """One file of a repository, in the cache on this machine.

    Args:
        repo: Repository, ``org/name``.
        commit: Full sha of the commit it belongs to.
        name: File name in the repository, or in its subfolder.
        path: Where the cache keeps it.
        options: How it was fetched, and how the files beside it will be.
    """

    repo: str
    commit: str
    name: str
    path: Path
    options: HubOptions = field(default_factory=HubOptions)

    @property
    def stated_hash(self) -> str:
        """What the Hub says the content hashes to, or "" if the cache does not tell.

        The cache keeps a file under the Hub's name for its content, with a link to it in the
        folder of the commit: the sha256 (64 digits) of a large file, the git object id (40) of a
        small one. Where there are no symbolic links (Windows without developer mode), this name
        is lost and files are checked by size only, as they arrive.
        """
        if not self.path.is_symlink():
            return ""
        name = self.path.readlink().name
        known = len(name) in (SHA1_DIGITS, SHA256_DIGITS) and set(name) <= set("0123456789abcdef")
        return name if known else ""


def check_repo(repo: str) -> None:
    """Refuse, before the Hub is asked, what it does not take for the name of a repository.

    Raises:
        InputError: ``repo`` is not ``org/name`` by the Hub's rules.
    """
    import huggingface_hub.utils
    from huggingface_hub.errors import HFValidationError

    utils: Any = huggingface_hub.utils
    try:
        utils.validate_repo_id(repo)
    except HFValidationError as error:
        raise InputError(f"{repo!r} is not a Hub id ({_brief(error)})") from error
    if repo.count("/") != 1:
        raise InputError(
            f"{repo!r} is not a Hub id; allowed: 'org/name', of letters, digits, '-', '_', '.'."
        )


def check_revision(repo: str, revision: str | None) -> None:
    """Refuse, before the Hub is asked, what cannot be the name of a commit, tag or branch.

    Raises:
        InputError: It is empty or breaks the rules of Git; None is the main branch.
    """
    if revision is not None and not REVISION.fullmatch(revision):
        raise InputError(
            f"the revision of {repo} is {revision!r}; allowed: a commit, tag or branch, or none "
            "for the main branch."
        )


def fetch(
    repo: str,
    name: str,
    revision: str | None = None,
    options: HubOptions | None = None,
    *,
    again: bool = False,
) -> HubFile | None:
    """Return a file of a repository, from the cache or else from the Hub.

    Args:
        repo: ``org/name``.
        name: File name at the root of the repository, or in the subfolder of the options.
        revision: Commit, tag or branch; the main branch if None. A full commit sha that is in the
            cache is never asked for again.
        options: How to fetch it.
        again: Replace what is in the cache, as ``force_download`` does.

    Returns:
        The file; None if the repository has no such file.

    Raises:
        ModelNotFoundError: No such repository or revision, or offline and not in the cache.
        HubError: The Hub cannot be reached, refuses, or the download broke off.
    """
    import huggingface_hub
    from huggingface_hub import errors as hub_errors

    options = options or HubOptions()
    again = again or options.force_download
    if again and options.local_files_only:
        raise HubError(f"{repo}: {LOCAL_ONLY}; leave it out to fetch again.")
    with _our_errors(repo, revision, "fetch again" if again else "fetch", options):
        try:
            path = Path(
                huggingface_hub.hf_hub_download(
                    repo,
                    name,
                    subfolder="/".join(options.parts),
                    revision=revision,
                    token=options.token,
                    cache_dir=options.cache_dir,
                    local_files_only=options.local_files_only,
                    force_download=again,
                    library_name="ccl-hub",
                    library_version=__version__,
                )
            )
        except hub_errors.RemoteEntryNotFoundError:
            return None
    return HubFile(repo, path.parents[len(options.parts)].name, name, path, options)


def read(file: HubFile, sha256: str = "") -> bytes:
    """Return the content of a fetched file if it is what was published.

    Args:
        file: From :func:`fetch`.
        sha256: Hash it must have; what the Hub states if empty.

    Raises:
        WeightsError: The content differs, even after it was fetched again; the text names the
            file and both hashes.
    """
    expected = sha256 or file.stated_hash
    data = read_bytes(file.path)
    actual = _hash_like(expected, data)
    if actual == expected:
        return data
    logger.warning("%s: damaged (hash %s, not %s); fetching it again", file.path, actual, expected)
    source = "published" if sha256 else "the Hub states"
    try:
        fetch(file.repo, file.name, file.commit, file.options, again=True)
    except ModelError as error:
        raise WeightsError(
            f"{file.path}: hash is {actual}, {source} {expected}; the file is damaged or was "
            f"replaced, and cannot be fetched again ({error})"
        ) from error
    data = read_bytes(file.path)
    actual = _hash_like(expected, data)
    if actual != expected:
        raise WeightsError(
            f"{file.path}: hash is {actual}, {source} {expected}, even after it was fetched again "
            f"from {file.repo}; it is not loaded. Check HF_ENDPOINT and proxies, and report it to "
            "those who published it."
        )
    return data


def _hash_like(expected: str, data: bytes) -> str:
    """Return the hash of ``data`` of the kind of ``expected``, or that if it is not a hash."""
    if len(expected) == SHA256_DIGITS:
        return hashlib.sha256(data).hexdigest()
    if len(expected) == SHA1_DIGITS:
        plain = hashlib.sha1(data, usedforsecurity=False).hexdigest()  # what some mirrors state
        git = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
        return plain if plain == expected else git
    return expected


def read_bytes(path: Path) -> bytes:
    """Return the content of a file of a model.

    Raises:
        WeightsError: It cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise WeightsError(
            f"{path}: cannot be read ({error.strerror or error}); "
            "check the permissions and the disk."
        ) from error


def list_files(
    repo: str, revision: str | None = None, options: HubOptions | None = None
) -> list[str]:
    """Return the names of all files of a repository, sorted.

    Raises:
        ModelNotFoundError: See :func:`fetch`.
        HubError: See :func:`fetch`.
    """
    options = options or HubOptions()
    with _our_errors(repo, revision, options=options):
        return sorted(_api(options.token).list_repo_files(repo, revision=revision))


def commit(
    repo: str,
    files: Mapping[str, bytes],
    options: HubOptions,
    *,
    remove: Sequence[str] = (),
    private: bool = False,
    branch: str | None = None,
    message: str,
) -> str:
    """Write files to a repository in one commit, and check what the Hub then holds.

    Args:
        repo: ``org/name``; made if missing.
        files: Content by name.
        options: Their token is used.
        remove: Names that must be gone if the repository has them.
        private: Make the repository private; one that exists must be private already.
        branch: Branch to commit to, made if missing; the main branch if None.
        message: Message of the commit.

    Returns:
        The full sha of the commit; of the last one if nothing changed.

    Raises:
        HubError: The Hub cannot be reached or refuses, the repository is public though private
            was asked for, or the Hub holds something other than what was sent.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    api = _api(options.token)
    with _our_errors(repo, branch, "publish"):
        api.create_repo(repo, private=private or None, exist_ok=True)
        if private and not api.model_info(repo).private:
            raise HubError(
                f"{repo}: exists and is public, but --private was asked for; nothing was sent. "
                "Make it private in its settings on the Hub, or leave the option out."
            )
        if branch is not None:
            api.create_branch(repo, branch=branch, exist_ok=True)
        present = set(api.list_repo_files(repo, revision=branch))
        changes = [CommitOperationAdd(name, data) for name, data in files.items()]
        removals = [CommitOperationDelete(name) for name in remove if name in present]
        commit_info = api.create_commit(
            repo, [*changes, *removals], commit_message=message, revision=branch
        )
        infos = api.get_paths_info(repo, list(files), revision=commit_info.oid)
    stored = {info.path: info for info in infos}
    for name, data in files.items():
        _check_stored(f"{repo}@{commit_info.oid}/{name}", stored.get(name), data)
    return str(commit_info.oid)


def _check_stored(name: str, info: Any, data: bytes) -> None:
    """Compare what the Hub says it holds with what was sent."""
    large, size = getattr(info, "lfs", None), getattr(info, "size", None)
    stored = large.sha256 if large else getattr(info, "blob_id", "")  # as HubFile.stated_hash
    sent = _hash_like(stored, data)
    if size != len(data) or stored != sent:
        raise HubError(
            f"{name}: the Hub holds {size} bytes, hash {stored or 'not stated'}; sent were "
            f"{len(data)} bytes, hash {sent or 'unknown'}. Publish again."
        )


def card_metadata(text: str) -> dict[str, Any]:
    """Return the metadata at the head of a model card, read as the Hub reads it.

    Raises:
        HubError: It is not valid YAML, or its ``model-index`` is malformed.
    """
    import huggingface_hub

    try:
        card: Any = huggingface_hub.ModelCard(text, ignore_metadata_errors=False)
    except Exception as error:  # of whatever reads YAML, which is not our dependency
        raise HubError(f"the metadata cannot be read ({_brief(error)})") from error
    return cast("dict[str, Any]", card.data.to_dict())


def _api(token: str | bool | None) -> Any:
    import huggingface_hub

    return huggingface_hub.HfApi(token=token, library_name="ccl-hub", library_version=__version__)


@contextmanager
def _our_errors(
    repo: str, revision: str | None, purpose: str = "fetch", options: HubOptions | None = None
) -> Iterator[None]:
    """Raise what the Hub's client raises in this block as one of ours."""
    name = f"{repo}@{revision}" if revision else repo
    try:
        yield
    except ModelError:
        raise
    except Exception as error:
        # The client lets through what each library below it raises: the ImportError of a proxy
        # that needs one more package, the KeyError of an answer that is JSON but not the Hub's.
        offline = LOCAL_ONLY if options is not None and options.local_files_only else OFFLINE
        raise _translated(name, _cause(error), purpose, offline) from error


def _cause(error: BaseException) -> BaseException:
    """Return the error that tells most: the client wraps those of requests in general ones."""
    from huggingface_hub import errors as hub_errors

    general = isinstance(error, (RuntimeError, ValueError, hub_errors.LocalEntryNotFoundError))
    exact = isinstance(error, (hub_errors.HfHubHTTPError, hub_errors.HFValidationError))
    if general and not exact and isinstance(error.__cause__, Exception):
        return _cause(error.__cause__)
    return error


def _translated(name: str, error: BaseException, purpose: str, offline: str) -> ModelError:
    """Return our error for one of the Hub's client: what, where, what to do."""
    from huggingface_hub import errors as hub_errors

    from .registry import REGISTRY

    known = f"Known names: {', '.join(REGISTRY)}."
    if isinstance(error, hub_errors.HFValidationError):
        return ModelNotFoundError(
            f"{name}: not a folder here, and not a Hub id ({_brief(error)}). {known}"
        )
    if isinstance(error, hub_errors.GatedRepoError):
        return HubError(f"{name}: access is restricted; ask for it on its Hub page and {LOG_IN}.")
    if isinstance(error, hub_errors.RepositoryNotFoundError):
        return ModelNotFoundError(
            f"{name}: no such repository on the Hub, or it is private, and no folder here; check "
            f"the name, and {LOG_IN}. {known}"
        )
    if isinstance(error, hub_errors.RevisionNotFoundError):
        return ModelNotFoundError(
            f"{name}: the repository has no such revision; give a commit, tag or branch it has."
        )
    if isinstance(error, (hub_errors.OfflineModeIsEnabled, hub_errors.LocalEntryNotFoundError)):
        if purpose != "fetch":
            return HubError(f"{name}: {offline}; unset it to {purpose}.")
        return ModelNotFoundError(
            f"{name}: no folder here, not in the local cache, and {offline}; check the name, "
            "fetch it once while online, or use 'ccl_lite0', which needs no network."
        )
    if isinstance(error, hub_errors.LocalTokenNotFoundError):
        return HubError(f"{name}: a token is asked for (token=True), but there is none; {LOG_IN}.")
    if isinstance(error, hub_errors.HfHubHTTPError):
        return HubError(f"{name}: {_refusal(error, purpose)}")
    if purpose == "publish":
        return HubError(
            f"{name}: publishing failed ({_brief(error)}); nothing is published in part: try "
            "again, and check the connection and HF_ENDPOINT."
        )
    return HubError(
        f"{name}: the download failed ({_brief(error)}); try again, and check the connection, the "
        "proxy, HF_ENDPOINT, and that the cache folder (HF_HOME, cache_dir) is writable and has "
        "space. "
        "'ccl_lite0' needs no network."
    )


def _refusal(error: Any, purpose: str) -> str:
    """Return what an HTTP status means and what to do about it."""
    status = error.response.status_code
    if status == 401:
        right = " that may write" if purpose == "publish" else ""
        return f"the Hub refuses or lacks a token (401: {_brief(error)}); {LOG_IN}{right}."
    if status == 403:
        if purpose == "publish":
            return (
                f"the Hub does not allow it (403: {_brief(error)}); use a token that may write, "
                "and a name or organisation that is yours."
            )
        return f"the Hub does not allow it (403: {_brief(error)}); ask its owner, and {LOG_IN}."
    if status == 429:
        return f"too many requests (429: {_brief(error)}); wait a few minutes, and {LOG_IN}."
    if status >= 500:
        return (
            f"the Hub is in trouble ({status}: {_brief(error)}); try again later, or use a "
            "mirror through HF_ENDPOINT."
        )
    return f"the Hub answered with an error ({status}: {_brief(error)}); check HF_ENDPOINT."


def _brief(error: BaseException) -> str:
    """Return an error's text on one line, without secrets in addresses, and not too long."""
    text = " ".join(str(error).split())
    if not text or isinstance(error, LookupError | TypeError | AttributeError):
        text = f"{type(error).__name__} {text}".rstrip()  # a text that says little by itself
    for pattern, shown in SECRETS:
        text = pattern.sub(shown, text)
    return text if len(text) <= 300 else f"{text[:300]}..."
