"""What goes wrong between the Hub and the cache: nothing wrong is loaded, nothing stays broken."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_client import Client, content, load
from hub_server import Hub, serve
from tiny_models import tiny_model

from ccl_hub.network import model_files
from ccl_hub.registry import REGISTRY, RegistryEntry

NAME = "org/ccl_tiny"


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


@pytest.fixture
def entry(hub: Hub) -> RegistryEntry:
    """The published entry of a registry that has this model."""
    repository = hub.repositories[NAME]
    sha = repository.branches["main"]
    data = repository.commits[sha][model_files.WEIGHTS_NAME]
    digest = hashlib.sha256(data).hexdigest()
    return RegistryEntry("ccl_tiny", "nothing", False, sha, digest, len(data))


def flip(path: Path) -> str:
    """Change the last byte of a cached file; return the sha256 it now has."""
    real = path.resolve()
    data = bytearray(real.read_bytes())
    data[-1] ^= 1
    real.write_bytes(data)
    return hashlib.sha256(data).hexdigest()


# Contents (promise 21) ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ccl_tiny", NAME])
def test_a_flipped_byte_in_the_cache_is_fetched_again_once(
    hub: Hub, client: Client, entry: RegistryEntry, wanted: tuple, name: str
) -> None:
    """By the hash of the registry, and by that which the Hub states for any repository."""
    assert client.load(name, None, (entry,)) == wanted
    flip(client.cached(model_files.WEIGHTS_NAME)[0])
    assert client.load(name, None, (entry,)) == wanted
    assert hub.downloads(model_files.WEIGHTS_NAME) == 2
    assert client.load(name, None, (entry,)) == wanted
    assert hub.downloads(model_files.WEIGHTS_NAME) == 2, "the repaired file stays"


@pytest.mark.parametrize("name", ["ccl_tiny", NAME])
def test_wrong_bytes_from_the_hub_are_never_loaded(
    hub: Hub, client: Client, entry: RegistryEntry, wanted: tuple, name: str
) -> None:
    assert client.load(NAME) == wanted  # the configuration is there
    data = client.cached(model_files.WEIGHTS_NAME)[0].read_bytes()
    client.cached(model_files.WEIGHTS_NAME)[0].resolve().unlink()
    hub.requests.clear()
    hub.faults.flip = True
    kind, text = client.load(name, None, (entry,))
    bad = hashlib.sha256(data[:-1] + bytes([data[-1] ^ 1])).hexdigest()
    assert kind == "WeightsError"
    assert str(client.cached(model_files.WEIGHTS_NAME)[0]) in text
    assert f"hash is {bad}" in text and entry.sha256 in text and "fetched again" in text
    assert hub.downloads(model_files.WEIGHTS_NAME) == 2
    hub.faults.flip = False
    assert client.load(name, None, (entry,)) == wanted, "the next call repairs it"


def test_a_repository_that_was_changed_behind_its_pin(
    hub: Hub, client: Client, entry: RegistryEntry
) -> None:
    """The Hub states the right hash of other weights: the registry does not take them."""
    other = tiny_model()
    other.head.bn6.bias.data += 1
    path = other.save_pretrained(client.cache.parent / "other") / model_files.WEIGHTS_NAME
    files = hub.repositories[NAME].commits[entry.revision]
    hub.repositories[NAME].commits[entry.revision] = {**files, path.name: path.read_bytes()}
    kind, text = client.load("ccl_tiny", None, (entry,))
    assert kind == "WeightsError" and entry.sha256 in text
    assert hashlib.sha256(path.read_bytes()).hexdigest() in text
    assert hub.downloads(model_files.WEIGHTS_NAME) == 2


def test_a_flipped_byte_of_the_configuration(hub: Hub, client: Client, wanted: tuple) -> None:
    """Another mean or size would change every embedding without a word."""
    assert client.load(NAME) == wanted
    path = client.cached(model_files.CONFIG_NAME)[0]
    text = path.read_text()
    path.resolve().write_text(text.replace("0.43216", "0.43217"))
    assert path.read_text() != text
    assert client.load(NAME) == wanted
    assert path.read_text() == text
    assert hub.downloads(model_files.CONFIG_NAME) == 2


def test_offline_a_damaged_file_is_named_with_both_hashes(
    client: Client, entry: RegistryEntry, wanted: tuple
) -> None:
    assert client.load("ccl_tiny", None, (entry,)) == wanted
    path = client.cached(model_files.WEIGHTS_NAME)[0]
    bad = flip(path)
    kind, text = client.load("ccl_tiny", None, (entry,), False, HF_HUB_OFFLINE="1")
    assert kind == "WeightsError" and "cannot be fetched again" in text
    assert bad in text and entry.sha256 in text and str(path) in text


def checked_against(name: str) -> str:
    return model_files.resolve(name).checked_against


@pytest.mark.slow
def test_whose_hash_it_was_is_told(client: Client, wanted: tuple) -> None:
    assert client.load(NAME) == wanted
    assert client.run(checked_against, NAME) == "Hub"
    assert client.run(checked_against, "ccl_r18_mini") == "registry"
    path = client.cached(model_files.WEIGHTS_NAME)[0]  # as caches without symbolic links keep it
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data)
    assert client.load(NAME) == wanted
    assert client.run(checked_against, NAME) == ""


# Transfers (promise 23) --------------------------------------------------------------------------


def test_a_body_that_breaks_off_is_gone_on_with(hub: Hub, client: Client, wanted: tuple) -> None:
    hub.faults.break_off = 2
    assert client.load(NAME) == wanted


def test_a_server_that_ignores_ranges(hub: Hub, client: Client, wanted: tuple) -> None:
    """What comes is then the whole file again: it must not be put behind the first half."""
    hub.faults.break_off = 2
    hub.faults.ignore_range = True
    assert client.load(NAME) == wanted


@pytest.mark.slow
def test_a_connection_that_always_breaks_is_a_clear_error_and_works_next_time(
    hub: Hub, client: Client, wanted: tuple
) -> None:
    assert client.load(NAME) == wanted
    client.cached(model_files.WEIGHTS_NAME)[0].resolve().unlink()
    hub.faults.break_off = 1000
    hub.faults.ignore_range = True
    kind, text = client.load(NAME)
    assert kind == "HubError" and text.startswith(NAME) and "the download failed" in text
    hub.faults.break_off = 0
    assert client.load(NAME) == wanted


def test_a_short_answer_that_says_it_is_whole(hub: Hub, client: Client, wanted: tuple) -> None:
    assert client.load(NAME) == wanted
    client.cached(model_files.WEIGHTS_NAME)[0].resolve().unlink()
    hub.faults.short = True
    kind, text = client.load(NAME)
    assert kind == "HubError" and "the download failed" in text
    hub.faults.short = False
    assert client.load(NAME) == wanted


@pytest.mark.slow
def test_a_server_that_stalls_is_given_up(hub: Hub, client: Client, wanted: tuple) -> None:
    assert client.load(NAME) == wanted
    hub.faults.hold = threading.Event()
    client.cached(model_files.WEIGHTS_NAME)[0].resolve().unlink()
    try:
        kind, text = client.load(NAME, HF_HUB_DOWNLOAD_TIMEOUT="1")
    finally:
        hub.faults.hold.set()
    assert kind == "HubError" and "the download failed" in text
    assert client.load(NAME) == wanted


@pytest.mark.skipif(os.name == "nt", reason="sends SIGKILL")
def test_killed_in_the_middle_of_a_download(hub: Hub, client: Client, wanted: tuple) -> None:
    assert client.load(NAME) == wanted
    client.cached(model_files.WEIGHTS_NAME)[0].resolve().unlink()
    hub.half_sent.clear()
    hub.faults.hold = threading.Event()
    running = client.start(load, NAME)
    assert hub.half_sent.wait(60), "the download never began"
    running.kill()
    hub.faults.hold.set()
    hub.faults.hold = None
    assert client.load(NAME) == wanted
    path = client.cached(model_files.WEIGHTS_NAME)[0]
    published = hub.repositories[NAME].commits[path.parent.name]
    assert path.read_bytes() == published[model_files.WEIGHTS_NAME]


def test_eight_processes_at_once_on_one_empty_cache(
    hub: Hub, client: Client, wanted: tuple
) -> None:
    running = [client.start(load, NAME) for _ in range(8)]
    assert [one.result() for one in running] == [wanted] * 8
    assert hub.downloads(model_files.WEIGHTS_NAME) == 1, "the others waited for the first"
    assert client.load(NAME, None, (), False, HF_HUB_OFFLINE="1") == wanted


# The registry itself (promise 24) ----------------------------------------------------------------


def test_every_entry_is_pinned_and_hashed_and_no_address_is_written_down() -> None:
    for entry in REGISTRY.values():
        if entry.published:
            assert len(entry.sha256) == 64 and set(entry.sha256) <= set("0123456789abcdef")
            assert entry.size_bytes > 0
            assert entry.bundled or len(entry.revision) == 40
            assert not (entry.bundled and entry.revision)
        else:
            assert not entry.bundled and not entry.revision and not entry.size_bytes
        assert entry.repo == ("" if entry.bundled else f"org/{entry.name}")
    package = Path(model_files.__file__).parents[1]
    for path in [*package.glob("*.py"), package.parent / "hubconf.py"]:
        text = path.read_text(encoding="utf-8")
        assert "localhost" not in text and "127.0.0.1" not in text, path
        assert "huggingface.co" not in text, f"{path}: the client knows its own address"
