"""Publishing through huggingface_hub's own client to a server on 127.0.0.1."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import safetensors.torch
import torch
from hub_client import Client, content, environment
from hub_server import Hub, serve
from project import ROOT

from ccl_hub import CCLModel
from ccl_hub.config import Architecture, CCLConfig, Provenance
from ccl_hub.errors import CCLError, HubError, InputError, PublishError
from ccl_hub.hub import _check_stored
from ccl_hub.network.model_files import CONFIG_NAME, WEIGHTS_NAME
from ccl_hub.publish import check_folder, golden, publish, push, upload, write_texts
from ccl_hub.publish.model_card import CARD_NAME, Card, render
from ccl_hub.publish.upload import FILES, PREPROCESSOR_NAME
from ccl_hub.registry import REGISTRY, RegistryEntry

CARD = Card(licence="apache-2.0", training="Not at all: random weights.")
NAME = "someone/ccl_tiny"
WRITER, READER = {"HF_TOKEN": "hf_w"}, {"HF_TOKEN": "hf_r"}


def new_model(seed: int = 0) -> CCLModel:
    torch.manual_seed(seed)
    shape = Architecture(stage_channels=(4, 4, 8, 8), stage_blocks=(1, 1, 1, 1))
    source = Provenance(name="ccl_tiny", trained_on="nothing")
    return CCLModel(CCLConfig(shape, provenance=source)).eval()


def write(folder: Path, seed: int = 0, with_golden: bool = True) -> Path:
    model = new_model(seed)
    model.save_pretrained(folder)
    write_texts(folder, model.config, render(model.config, CARD))
    if with_golden:
        golden.write(CCLModel.from_pretrained(folder), folder)
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("made"))


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "model"))


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serve() as running:
        yield running


@pytest.fixture
def client(hub: Hub, tmp_path: Path) -> Client:
    return Client(hub, tmp_path / "cache")


def send(folder: Path, repo: str = NAME, **options: Any) -> Any:
    try:
        done = publish(folder, repo, **options)
    except CCLError as error:
        return type(error).__name__, str(error)
    return done, done.registry_entry()


def send_options(folder: Path, options: dict[str, Any]) -> Any:
    return send(folder, **options)


# What is sent ------------------------------------------------------------------------------------


def test_one_commit_with_everything_and_the_entry_to_pin_it(
    hub: Hub, client: Client, folder: Path
) -> None:
    (folder / "notes.txt").write_text("not to be sent")
    done, text = client.run(send, folder, **WRITER)
    repository = hub.repositories[NAME]
    assert repository.messages == ["initial commit", "Publish ccl_tiny"]
    assert done.revision == repository.branches["main"] and not repository.private
    files = repository.commits[done.revision]
    names = {CONFIG_NAME, WEIGHTS_NAME, PREPROCESSOR_NAME, CARD_NAME, golden.GOLDEN_NAME}
    assert set(files) == {*names, ".gitattributes"}
    for name in names - {CARD_NAME}:
        assert files[name] == (folder / name).read_bytes(), name
    assert f'from_pretrained("{NAME}")'.encode() in files[CARD_NAME]
    entry = eval(text.rstrip(","), {"RegistryEntry": RegistryEntry})  # noqa: S307
    assert (entry.name, entry.trained_on) == ("ccl_tiny", "nothing")
    assert (entry.revision, entry.size_bytes) == (done.revision, len(files[WEIGHTS_NAME]))
    wanted = ("loaded", content(CCLModel.from_pretrained(folder)))
    assert client.load("ccl_tiny", None, (entry,), CCL_HUB_ORG="someone") == wanted


def test_a_second_publication_replaces_the_first(hub: Hub, client: Client, folder: Path) -> None:
    first, _ = client.run(send, folder, **WRITER)
    (folder / golden.GOLDEN_NAME).unlink()  # those of the first must not stay beside the second
    write(folder, seed=1, with_golden=False)
    second, _ = client.run(send_options, folder, {"message": "Better"}, **WRITER)
    repository = hub.repositories[NAME]
    assert repository.messages[2:] == ["Better"]
    assert set(repository.commits[second.revision]) & set(FILES) == set(FILES[:4])
    assert client.load(f"{NAME}@{first.revision}") != client.load(NAME)
    again, _ = client.run(send, folder, **WRITER)
    assert again == second, "nothing changed: no commit"
    assert len(repository.messages) == 3


def test_private_branch_and_dry_run(hub: Hub, client: Client, folder: Path) -> None:
    done, text = client.run(send_options, folder, {"dry_run": True}, **WRITER)
    assert done.revision == "" and hub.requests == [] and done.sha256 in text
    options = {"private": True, "branch": "next"}
    done, _ = client.run(send_options, folder, options, **WRITER)
    repository = hub.repositories[NAME]
    assert repository.private
    assert repository.branches["next"] == done.revision != repository.branches["main"]
    wanted = ("loaded", content(CCLModel.from_pretrained(folder)))
    assert client.load(NAME, "next", **READER) == wanted
    assert Client(hub, client.cache / "other").load(NAME, "next")[0] == "ModelNotFoundError"


def test_push_from_memory(hub: Hub, client: Client) -> None:
    done = client.run(push_half, **WRITER)
    files = hub.repositories[NAME].commits[done.revision]
    assert set(FILES) - set(files) == {"training_provenance.json", "LICENSE"}
    stored = safetensors.torch.load(files[WEIGHTS_NAME])
    assert stored["trunk.conv1.weight"].dtype == torch.float16
    assert client.run(golden_checks, NAME) == [True] * 5


def push_half() -> Any:
    return new_model().push_to_hub(NAME, card=CARD, dtype=torch.float16)


def golden_checks(name: str) -> list[bool]:
    return [check.passed for check in golden.verify(name)]


# What is refused before anything is sent ---------------------------------------------------------


def break_weights(folder: Path) -> None:
    tensors = safetensors.torch.load_file(folder / WEIGHTS_NAME)
    tensors["head.bn6.bias"][0] = torch.nan
    safetensors.torch.save_file(tensors, folder / WEIGHTS_NAME)


def drop_tensor(folder: Path) -> None:
    tensors = safetensors.torch.load_file(folder / WEIGHTS_NAME)
    del tensors["head.bn6.bias"]
    safetensors.torch.save_file(tensors, folder / WEIGHTS_NAME)


def explode(folder: Path) -> None:
    """Finite weights whose embeddings are not."""
    (folder / golden.GOLDEN_NAME).unlink()
    tensors = safetensors.torch.load_file(folder / WEIGHTS_NAME)
    for name, tensor in tensors.items():
        if tensor.is_floating_point():
            tensors[name] = torch.full_like(tensor, 1e38)
    safetensors.torch.save_file(tensors, folder / WEIGHTS_NAME)


def other_weights(folder: Path) -> None:
    new_model(seed=1).save_pretrained(folder)


def test_a_folder_from_before_the_frame_choice_is_fit(folder: Path) -> None:
    for name in (CONFIG_NAME, PREPROCESSOR_NAME):
        values = json.loads((folder / name).read_text())
        assert values.get("preprocessing", values).pop("frame_choice") == "nearest"
        (folder / name).write_text(json.dumps(values))
    check_folder(folder)


def edit(name: str, old: str, new: str):
    def change(folder: Path) -> None:
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new))

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: (f / CARD_NAME).unlink(), "no README.md"),
        (lambda f: (f / CONFIG_NAME).unlink(), "no config.json"),
        (lambda f: (f / PREPROCESSOR_NAME).unlink(), "no preprocessor_config.json"),
        (lambda f: (f / "x.pt").write_bytes(b"x"), "x.pt is a pickle"),
        (drop_tensor, "missing head.bn6.bias"),
        (break_weights, "holds NaN"),
        (explode, "NaN or infinity"),
        (other_weights, "golden.safetensors: DIFFER model, frame vectors"),
        (edit(CARD_NAME, "## Bias and limits", "## Bias"), "no section '## Bias and limits'"),
        (edit(CARD_NAME, "license:", "licence:"), "its head has no license"),
        (edit(CARD_NAME, "tags:", "tags: ["), "the metadata cannot be read"),
        (edit(CARD_NAME, "Not at all", "TODO"), "placeholder TODO"),
        (edit(PREPROCESSOR_NAME, "112", "128"), "differs from config.json"),
        (edit(PREPROCESSOR_NAME, "{", ""), "not JSON"),
        (edit(CONFIG_NAME, '"ccl"', '"vit"'), "'vit'"),
    ],
)
def test_a_folder_that_is_not_fit(folder: Path, change: Any, words: str) -> None:
    change(folder)
    with pytest.raises(PublishError) as caught:
        check_folder(folder)
    assert words in str(caught.value) and str(folder) in str(caught.value)


def test_everything_that_is_wrong_is_told_at_once(folder: Path) -> None:
    edit(CARD_NAME, "## Citation", "## Quote")(folder)
    edit(CARD_NAME, "Not at all", "TODO")(folder)
    edit(PREPROCESSOR_NAME, "112", "128")(folder)
    with pytest.raises(PublishError) as caught:
        check_folder(folder)
    for words in ("'## Citation'", "TODO", "differs"):
        assert words in str(caught.value)


def test_a_fit_folder_says_what_was_checked(folder: Path) -> None:
    checked = check_folder(folder)
    assert checked.checks[:2] == ("weights load strictly", "golden values agree")
    (folder / golden.GOLDEN_NAME).unlink()
    assert "embeddings of the golden clip are finite" in check_folder(folder).checks


def test_bad_arguments(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'ccl_tiny' is not a Hub id"):
        publish(folder, "ccl_tiny")
    with pytest.raises(PublishError, match="no such folder"):
        publish(tmp_path / "absent", NAME)
    with pytest.raises(PublishError, match="placeholder"):
        push(new_model(), NAME, card=Card())
    with pytest.raises(PublishError, match="cannot be read"):
        push(new_model(), NAME, card=tmp_path / "absent.md")


def test_a_folder_is_never_taken_for_the_registry_name_it_bears(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The golden values of ./ccl_r18_mini were those of the bundled model, and ./ccl_r18_k400,
    which is what one trains to publish, was refused as not yet published."""
    monkeypatch.chdir(folder.parent)
    for name in ("ccl_r18_mini", "ccl_r18_k400"):
        shutil.copytree(folder, name)
        checked = check_folder(name)
        assert checked.checks[1] == "golden values agree"
        assert checked.contents[WEIGHTS_NAME] == (folder / WEIGHTS_NAME).read_bytes()


def test_every_bundled_model_can_be_published_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    caplog.set_level("INFO", "ccl_hub")
    for entry in REGISTRY.values():
        if entry.bundled:
            done = publish(entry.name, f"org/{entry.name}", dry_run=True)
            assert (done.sha256, done.size_bytes) == (entry.sha256, entry.size_bytes)
            assert done.trained_on == entry.trained_on
            assert f"no folder {entry.name} here: the model that ships inside" in caplog.text
    with pytest.raises(PublishError, match="ccl_r18_k400: no such folder"):
        publish("ccl_r18_k400", NAME)


def test_what_cannot_be_read_or_changes_meanwhile_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = upload._check_model

    def change(place: Path, contents: dict[str, bytes]) -> Any:
        (place / PREPROCESSOR_NAME).write_bytes(contents[PREPROCESSOR_NAME] + b"\n")
        return check(place, contents)

    with monkeypatch.context() as patched:
        patched.setattr(upload, "_check_model", change)
        with pytest.raises(PublishError, match="changed while it was checked"):
            check_folder(folder)
    (folder / "LICENSE").mkdir()
    with pytest.raises(PublishError, match="LICENSE: cannot be read"):
        check_folder(folder)


@pytest.mark.parametrize("repo", ["org/a--b", "org/a.git", f"org/{'a' * 100}", "org/a/b", "a"])
def test_names_that_the_hub_would_refuse_are_refused_by_a_dry_run_too(
    folder: Path, repo: str
) -> None:
    with pytest.raises(InputError, match="is not a Hub id"):
        publish(folder, repo, dry_run=True)
    with pytest.raises(InputError, match="is not a Hub id"):
        push(new_model(), repo, card=Card())
    with pytest.raises(InputError, match="the revision of someone/ccl_tiny is 'a b'"):
        publish(folder, NAME, branch="a b", dry_run=True)


def test_what_the_hub_holds_is_compared_by_hash() -> None:
    data = b"{}\n"
    git = hashlib.sha1(b"blob 3\0" + data, usedforsecurity=False).hexdigest()
    sha256 = hashlib.sha256(data).hexdigest()
    small = {"size": 3, "lfs": None, "blob_id": git}
    large = {"size": 3, "lfs": SimpleNamespace(sha256=sha256), "blob_id": "0" * 40}
    for facts in (small, large):
        _check_stored("x", SimpleNamespace(**facts), data)
        with pytest.raises(HubError, match="the Hub holds 3 bytes, hash "):
            _check_stored("x", SimpleNamespace(**facts), b"[]\n")
    with pytest.raises(HubError, match="the Hub holds None bytes, hash not stated"):
        _check_stored("x", None, data)


# What the Hub refuses ----------------------------------------------------------------------------


@pytest.mark.slow
def test_who_may_not_write_is_told_what_is_needed(hub: Hub, client: Client, folder: Path) -> None:
    kind, text = client.run(send, folder)
    assert kind == "HubError" and text.startswith(NAME) and "401" in text and "may write" in text
    kind, text = client.run(send, folder, **READER)
    assert kind == "HubError" and "403" in text and "token that may write" in text
    kind, text = client.run(send, folder, HF_HUB_OFFLINE="1", **WRITER)
    assert kind == "HubError" and "offline mode is on" in text and "to publish" in text
    assert not hub.repositories
    done, _ = client.run(send_options, folder, {"token": "hf_w"}, **READER)
    assert done.revision, "the token that is given is the one that is sent"


def test_a_public_repository_does_not_become_private_in_silence(
    hub: Hub, client: Client, folder: Path
) -> None:
    client.run(send, folder, **WRITER)
    commits = len(hub.repositories[NAME].messages)
    kind, text = client.run(send_options, folder, {"private": True}, **WRITER)
    assert kind == "HubError" and "exists and is public" in text
    assert len(hub.repositories[NAME].messages) == commits


def test_an_upload_that_fails_leaves_no_commit(hub: Hub, client: Client, folder: Path) -> None:
    hub.faults.upload_status = 503
    kind, text = client.run(send, folder, **WRITER)
    assert kind == "HubError" and text.startswith(NAME) and "503" in text
    assert hub.repositories[NAME].messages == ["initial commit"]


# The command -------------------------------------------------------------------------------------


def test_the_command(hub: Hub, folder: Path, tmp_path: Path) -> None:
    code = "from ccl_hub.cli.hub_command import hub_main; hub_main()"
    (folder / "notes.txt").write_text("not to be sent")

    def command(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", code, "publish", str(folder), *arguments],
            env=environment(hub, tmp_path / "cache", **WRITER),
            capture_output=True,
            text=True,
            cwd=ROOT,
            timeout=120,
        )

    done = command(NAME, "--message", "First", "--json")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert hub.repositories[NAME].branches["main"] == facts["revision"]
    assert hub.repositories[NAME].messages[-1] == "First"
    for line in ("ok: golden values agree", "not sent: notes.txt", f"published {NAME}@"):
        assert line in done.stderr, done.stderr
    (folder / CARD_NAME).write_text("# Nothing")
    done = command(NAME, "--dry-run")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("ccl-hub: ") and "'## Licence'" in done.stderr
