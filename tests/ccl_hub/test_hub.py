"""Weights from the Hub, through huggingface_hub's own client and a server on 127.0.0.1."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_client import Client, content, entry, environment
from hub_server import Hub, serve
from project import ROOT
from tiny_models import tiny_model

from ccl_hub.hub import _brief
from ccl_hub.network import model_files
from ccl_hub.registry import RegistryEntry

NAME = "someone/ccl_tiny"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model().save_pretrained(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def wanted() -> tuple[str, str]:
    return "loaded", content(tiny_model())


@pytest.fixture
def hub(folder: Path) -> Iterator[Hub]:
    with serve() as running:
        running.add(NAME, folder)
        yield running


@pytest.fixture
def client(hub: Hub, tmp_path: Path) -> Client:
    return Client(hub, tmp_path / "cache")


def as_user(token: str) -> dict[str, str]:
    return {"HF_TOKEN": token}


def commit(hub: Hub) -> str:
    return hub.repositories[NAME].branches["main"]


# Names, revisions, cache -------------------------------------------------------------------------


def test_fetch_then_offline_from_the_cache(hub: Hub, client: Client, wanted: tuple) -> None:
    assert client.load(NAME) == wanted
    assert hub.downloads(model_files.WEIGHTS_NAME) == 1
    hub.requests.clear()
    # Offline, no socket is so much as made: not even one that is then not used.
    assert client.load(NAME, None, (), False, HF_HUB_OFFLINE="1") == wanted
    # A full commit in the cache is never asked for again, online too.
    assert client.load(f"{NAME}@{commit(hub)}", None, (), False) == wanted
    assert hub.requests == []


def test_the_cache_serves_while_the_hub_is_away(hub: Hub, client: Client, wanted: tuple) -> None:
    assert client.load(NAME) == wanted
    assert client.load(NAME, HF_ENDPOINT="http://127.0.0.1:9") == wanted
    hub.faults.status = 503
    assert client.load(NAME) == wanted
    hub.faults.silent = threading.Event()
    assert client.load(NAME, HF_HUB_ETAG_TIMEOUT="1") == wanted
    hub.faults.silent.set()


def test_branches_commits_and_what_moves_in_between(hub: Hub, client: Client) -> None:
    repository = hub.repositories[NAME]
    first, files = commit(hub), repository.commits[commit(hub)]
    other = tiny_model()
    other.projection.fc2.bias.data += 1
    other.head.bn6.bias.data += 1
    path = other.save_pretrained(client.cache.parent / "other") / model_files.WEIGHTS_NAME
    changed = {**files, model_files.WEIGHTS_NAME: path.read_bytes()}
    second = repository.commit(changed, "next")
    old, new = ("loaded", content(tiny_model())), ("loaded", content(other))
    assert old != new
    assert client.load(f"{NAME}@next") == new
    assert client.load(NAME, "next") == new
    assert client.load(NAME) == old
    assert client.load(NAME, second) == new
    repository.branches["main"] = second
    assert client.load(NAME) == new
    assert client.load(f"{NAME}@{first}") == old
    kind, text = client.load(f"{NAME}@next", "main")
    assert kind == "InputError" and "two revisions" in text


def test_both_files_come_from_one_commit(hub: Hub, client: Client, wanted: tuple) -> None:
    assert client.load(NAME) == wanted
    asked = [line for line in hub.requests if line.endswith(model_files.WEIGHTS_NAME)]
    asked = [line for line in asked if "/store/" not in line]
    assert asked and all(f"/resolve/{commit(hub)}/" in line for line in asked)


def test_proxies_are_used(hub: Hub, client: Client, wanted: tuple) -> None:
    """The loopback server is the proxy; nobody else knows this host."""
    hub_host = {"HF_ENDPOINT": "http://hub.invalid", "HTTP_PROXY": hub.url}
    assert client.load(NAME, **hub_host) == wanted


# Registry ----------------------------------------------------------------------------------------


def test_names_are_pinned_and_their_organisation_can_be_named(
    hub: Hub, client: Client, wanted: tuple
) -> None:
    published = entry(hub, "someone")
    kind, text = client.load("ccl_tiny", None, (published,))
    assert kind == "ModelNotFoundError" and text.startswith("org/ccl_tiny@"), text
    assert client.load("ccl_tiny", None, (published,), CCL_HUB_ORG="someone") == wanted
    assert f"HEAD /{NAME}/resolve/{commit(hub)}/{model_files.WEIGHTS_NAME}" in hub.requests
    kind, text = client.load("ccl_tiny", "main", (published,), CCL_HUB_ORG="someone")
    assert kind == "InputError" and "pinned" in text
    kind, text = client.load("ccl_tiny", None, (published,), CCL_HUB_ORG="some/one")
    assert kind == "InputError" and "CCL_HUB_ORG is 'some/one'" in text


def test_an_unpublished_name_can_be_had_from_an_organisation_that_has_it(
    hub: Hub, client: Client, wanted: tuple
) -> None:
    coming = RegistryEntry(name="ccl_tiny", trained_on="something")
    for changes in ({}, {"CCL_HUB_ORG": "nobody"}):
        kind, text = client.load("ccl_tiny", None, (coming,), **changes)
        assert kind == "ModelNotFoundError"
        for word in ("not yet published", "training/", "'ccl_lite0'", "CCL_HUB_ORG"):
            assert word in text
    assert client.load("ccl_tiny", None, (coming,), CCL_HUB_ORG="someone") == wanted
    assert client.load("ccl_tiny", "main", (coming,), CCL_HUB_ORG="someone") == wanted


# What is missing or refused ----------------------------------------------------------------------


@pytest.mark.slow
def test_what_is_missing_is_named(client: Client) -> None:
    kind, text = client.load("someone/other")
    assert kind == "ModelNotFoundError" and text.startswith("someone/other: no such repository")
    kind, text = client.load("someone/other", **as_user("hf_r"))
    assert kind == "ModelNotFoundError" and text.startswith("someone/other: no such repository")
    kind, text = client.load(NAME, "v9")
    assert kind == "ModelNotFoundError" and text.startswith(f"{NAME}@v9: the repository has no")
    kind, text = client.load(NAME, HF_HUB_OFFLINE="1")
    assert kind == "ModelNotFoundError" and "not in the local cache" in text
    assert "HF_HUB_OFFLINE" in text and "ccl_lite0" in text


def test_private_repositories_need_a_token(hub: Hub, client: Client, wanted: tuple) -> None:
    hub.repositories[NAME].private = True
    kind, text = client.load(NAME)
    assert kind == "ModelNotFoundError" and "it is private" in text and "HF_TOKEN" in text
    kind, text = client.load(NAME, **as_user("hf_wrong"))
    assert kind == "HubError" and "401" in text and "hf auth login" in text
    assert "hf_wrong" not in text
    assert client.load(NAME, **as_user("hf_r")) == wanted


def test_gated_repositories_say_so(hub: Hub, client: Client, wanted: tuple) -> None:
    hub.repositories[NAME].gated = True
    kind, text = client.load(NAME)
    assert kind == "HubError" and text.startswith(f"{NAME}: access is restricted; ask for it")
    assert client.load(NAME, **as_user("hf_r")) == wanted


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (403, "does not allow it (403"),
        (429, "too many requests (429"),
        (500, "in trouble (500"),
        (503, "in trouble (503"),
        (418, "answered with an error (418"),
    ],
)
def test_each_refusal_says_what_to_do(hub: Hub, client: Client, status: int, words: str) -> None:
    hub.faults.status = status
    kind, text = client.load(NAME)
    assert kind == "HubError" and text.startswith(NAME) and words in text
    assert text.endswith(".") and "\n" not in text


def test_a_hub_that_cannot_be_reached(client: Client) -> None:
    kind, text = client.load(NAME, HF_ENDPOINT="http://127.0.0.1:9")
    assert kind == "HubError" and "the download failed" in text and "HF_ENDPOINT" in text
    kind, text = client.load(NAME, HTTP_PROXY="http://127.0.0.1:9")
    assert kind == "HubError" and "the proxy" in text


def test_an_endpoint_that_is_no_hub(hub: Hub, client: Client) -> None:
    kind, text = client.load(NAME, HF_ENDPOINT=f"{hub.store_url}/elsewhere")
    assert kind == "HubError" and "404" in text and "HF_ENDPOINT" in text


@pytest.mark.parametrize("revision", ["", " ", "a b", "a\nb", "a\0b", "../../x", "HEAD~1"])
@pytest.mark.slow
def test_what_can_be_no_revision_is_not_asked_for(hub: Hub, client: Client, revision: str) -> None:
    """An empty one was the main branch after "@"; one with ".." named files outside the cache."""
    for arguments in ((NAME, revision), (f"{NAME}@{revision}",)):
        kind, text = client.load(*arguments)
        assert (
            kind == "InputError" and repr(revision) in text and "a commit, tag or branch" in text
        )
    assert hub.requests == []


def test_names_too_long_for_a_file_system_are_just_unknown(client: Client) -> None:
    for name in ("a" * 300, f"org/{'a' * 300}"):
        kind, text = client.load(name)
        assert kind == "ModelNotFoundError" and "Hub id" in text


def test_whatever_the_client_raises_becomes_one_of_our_errors(client: Client) -> None:
    """A SOCKS proxy without the package for it was a traceback that called itself a bug."""
    kind, text = client.load(NAME, ALL_PROXY="socks5://127.0.0.1:9")
    assert kind == "HubError" and "socks" in text.lower() and "the proxy" in text


def test_errors_show_no_password_of_an_address(hub: Hub, client: Client) -> None:
    address = f"{hub.store_url}/elsewhere".replace("//", "//user:geheim@")
    kind, text = client.load(NAME, HF_ENDPOINT=address)
    assert kind == "HubError" and "404" in text and "geheim" not in text and "***@" in text
    signed = "403 for url 'https://store.invalid/x?Policy=a&Signature=geheim' at last"
    assert _brief(OSError(signed)) == "403 for url 'https://store.invalid/x?...' at last"
    header = "Illegal header value b'Bearer geheim'"
    assert _brief(ValueError(header)) == "Illegal header value b'Bearer ***'"
    assert _brief(KeyError("id")) == "KeyError 'id'"


def test_a_cache_that_cannot_be_written_is_a_clear_error(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    kind, text = Client(hub, tmp_path / "file").load(NAME)
    assert kind == "HubError" and "the download failed" in text and "HF_HOME" in text


# What is there but not loaded --------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".bin", ".pt", ".ckpt"])
def test_repository_with_only_pickles(hub: Hub, client: Client, suffix: str) -> None:
    files = dict(hub.repositories[NAME].commits[commit(hub)])
    files[f"pytorch_model{suffix}"] = files.pop(model_files.WEIGHTS_NAME)
    hub.repositories[NAME].commit(files)
    kind, text = client.load(NAME)
    assert kind == "WeightsError" and f"pickle (pytorch_model{suffix})" in text
    assert "safetensors" in text
    assert hub.downloads(suffix) == 0, "a pickle is not so much as fetched"


def test_repository_without_our_files_says_what_it_has(hub: Hub, client: Client) -> None:
    repository = hub.repositories[NAME]
    files = dict(repository.commits[commit(hub)])
    repository.commit({**files, "config.json": json.dumps({"model_type": "vit"}).encode()})
    kind, text = client.load(NAME)
    assert kind == "ConfigError" and "'vit'" in text
    assert hub.downloads(model_files.WEIGHTS_NAME) == 0, "another model is not downloaded first"
    repository.commit({"a.txt": b"x", "b.safetensors": b"y"})
    kind, text = client.load(NAME)
    assert kind == "WeightsError" and "no config.json (it has: a.txt, b.safetensors)" in text


@pytest.mark.skipif(os.name == "nt", reason="needs a pseudo-terminal")
def test_a_quiet_command_says_nothing_while_it_downloads(hub: Hub, tmp_path: Path) -> None:
    code = "from ccl_hub.cli.embed_command import embed_main; embed_main()"
    video, out = ROOT / "examples" / "bouncing_balls.mp4", tmp_path / "x.npy"
    options = ["--model", NAME, "--clips", "1", "--quiet"]
    settings = environment(hub, tmp_path / "cache")
    del settings["HF_HUB_DISABLE_PROGRESS_BARS"]
    ours, theirs = os.openpty()  # bars are drawn on terminals only
    done = subprocess.run(
        [sys.executable, "-c", code, str(video), "--out", str(out), *options],
        env=settings,
        stdout=subprocess.PIPE,
        stderr=theirs,
        cwd=ROOT,
        timeout=120,
    )
    os.write(theirs, b"end")  # so that reading does not wait for what never comes
    said = os.read(ours, 10_000)
    os.close(ours)
    os.close(theirs)
    assert (done.returncode, done.stdout, said) == (0, b"", b"end")
    assert out.is_file()
