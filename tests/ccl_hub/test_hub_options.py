"""Token, cache, local files only, forced downloads, subfolders: as huggingface_hub has them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hub_client import Client, content, entry, environment
from hub_server import Hub, serve
from project import ROOT
from tiny_models import tiny_model

import hubconf
from ccl_hub import CCLModel, HubOptions, embed_many
from ccl_hub.errors import CCLError, InputError, ModelNotFoundError
from ccl_hub.network import model_files
from ccl_hub.publish import golden
from ccl_hub.publish.golden import golden_clip

NAME = "someone/ccl_tiny"
SECRET, WRONG = "hf_geheim", "hf_falsch"  # of the loopback server alone
INNER = "variants/small"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model at the top, another one two folders below, and its golden values beside it."""
    folder = tiny_model().save_pretrained(tmp_path_factory.mktemp("tiny"))
    inner = inner_model().save_pretrained(folder / INNER)
    golden.write(CCLModel.from_pretrained(inner), inner)
    return folder


def inner_model() -> CCLModel:
    model = tiny_model()
    model.head.bn6.bias.data += 1
    return model


@pytest.fixture(scope="module")
def top() -> tuple[str, str]:
    return "loaded", content(tiny_model())


@pytest.fixture(scope="module")
def inner() -> tuple[str, str]:
    return "loaded", content(inner_model())


@pytest.fixture
def hub(folder: Path) -> Iterator[Hub]:
    """A private repository of both models."""
    with serve() as running:
        running.add(NAME, folder, private=True)
        running.tokens[SECRET] = "read"
        yield running


@pytest.fixture
def client(hub: Hub, tmp_path: Path) -> Client:
    return Client(hub, tmp_path / "cache")


def ask(client: Client, name: str = NAME, sockets: bool = True, **keywords: Any) -> tuple:
    return client.load(name, None, (), sockets, keywords)


# Each keyword ------------------------------------------------------------------------------------


def test_a_token_is_sent_withheld_or_insisted_on(hub: Hub, client: Client, top: tuple) -> None:
    assert ask(client, token=False)[0] == "ModelNotFoundError"
    assert client.load(NAME, None, (), True, {"token": False}, HF_TOKEN=SECRET)[0] != "loaded"
    kind, text = ask(client, token=True)
    assert kind == "HubError" and "token=True" in text and "hf auth login" in text
    kind, text = ask(client, token=WRONG)
    assert kind == "HubError" and "401" in text and "falsch" not in text
    assert client.cached(model_files.CONFIG_NAME) == []
    assert client.load(NAME, None, (), True, {"token": SECRET}, HF_TOKEN=WRONG) == top
    assert (
        client.load(NAME, None, (), True, {"token": True, "force_download": True}, HF_TOKEN=SECRET)
        == top
    )


def test_a_cache_folder_is_used_for_everything(
    hub: Hub, client: Client, tmp_path: Path, top: tuple
) -> None:
    place = tmp_path / "elsewhere"
    assert ask(client, token=SECRET, cache_dir=str(place)) == top
    assert client.cached("*") == [] and len(list(place.rglob("snapshots/*/*"))) == 2
    assert ask(client, sockets=False, cache_dir=place, local_files_only=True) == top
    weights_file = next(place.rglob(f"snapshots/*/{model_files.WEIGHTS_NAME}"))
    damage(weights_file)
    assert ask(client, token=SECRET, cache_dir=place) == top, "fetched again by the same token"
    assert client.cached("*") == []


def test_local_files_only_asks_nothing_of_the_hub(hub: Hub, client: Client, top: tuple) -> None:
    kind, text = ask(client, sockets=False, local_files_only=True)
    assert kind == "ModelNotFoundError" and "local_files_only" in text
    assert "HF_HUB_OFFLINE" not in text
    assert ask(client, token=SECRET) == top
    hub.requests.clear()
    assert ask(client, sockets=False, local_files_only=True) == top
    damage(client.cached(model_files.WEIGHTS_NAME)[0])
    kind, text = ask(client, sockets=False, local_files_only=True)
    assert kind == "WeightsError" and "cannot be fetched again" in text
    assert "local_files_only" in text and hub.requests == []


def test_a_forced_download_fetches_what_is_there(hub: Hub, client: Client, top: tuple) -> None:
    at = f"{NAME}@{hub.repositories[NAME].branches['main']}"
    assert ask(client, token=SECRET) == top
    for name in (NAME, at):
        hub.requests.clear()
        assert ask(client, name, token=SECRET, force_download=True) == top
        assert (
            hub.downloads(model_files.WEIGHTS_NAME) == hub.downloads(model_files.CONFIG_NAME) == 1
        )
    offline = {"HF_HUB_OFFLINE": "1"}
    kind, text = client.load(NAME, None, (), False, {"force_download": True}, **offline)
    assert kind == "HubError" and "HF_HUB_OFFLINE" in text and "fetch again" in text


@pytest.mark.slow
def test_a_model_in_a_subfolder(
    hub: Hub, client: Client, top: tuple, inner: tuple, folder: Path
) -> None:
    assert top != inner
    assert ask(client, token=SECRET, subfolder="") == top
    assert ask(client, token=SECRET, subfolder=INNER) == inner
    assert ask(client, f"{NAME}@main", token=SECRET, subfolder=f"./{INNER}/") == inner
    path = next(client.cache.rglob(f"snapshots/*/{INNER}/{model_files.WEIGHTS_NAME}"))
    damage(path)
    assert ask(client, token=SECRET, subfolder=INNER) == inner
    kind, text = ask(client, token=SECRET, subfolder="variants")
    assert kind == "WeightsError" and "no variants/config.json (it has: config.json" in text
    model = CCLModel.from_pretrained(folder, subfolder=INNER)
    assert (content(model), model.name) == (inner[1], f"{folder}/{INNER}")
    with pytest.raises(ModelNotFoundError, match=r"variants: no config\.json"):
        CCLModel.from_pretrained(folder, subfolder="variants")
    with pytest.raises(ModelNotFoundError, match=r"no config\.json"):
        CCLModel.from_pretrained("ccl_r18_mini", subfolder=INNER)


def test_a_pickle_in_the_subfolder_is_named(hub: Hub, client: Client) -> None:
    repository = hub.repositories[NAME]
    files = dict(repository.commits[repository.branches["main"]])
    files[f"{INNER}/pytorch_model.bin"] = files.pop(f"{INNER}/{model_files.WEIGHTS_NAME}")
    del files[f"{INNER}/{model_files.GOLDEN_NAME}"]
    repository.commit(files)
    kind, text = ask(client, token=SECRET, subfolder=INNER)
    assert kind == "WeightsError" and f"pickle ({INNER}/pytorch_model.bin)" in text


def test_names_of_the_registry_take_them_too(hub: Hub, client: Client, top: tuple) -> None:
    keywords = {"token": SECRET, "cache_dir": client.cache / "own"}
    known, settings = (entry(hub, "someone"),), {"CCL_HUB_ORG": "someone"}
    assert client.load("ccl_tiny", None, known, True, keywords, **settings) == top
    assert client.load("ccl_tiny", None, known, True, {}, **settings)[0] == "ModelNotFoundError"
    keywords = {"cache_dir": client.cache / "own", "local_files_only": True}
    assert client.load("ccl_tiny", None, known, False, keywords, **settings) == top


# Everywhere that loads a model -------------------------------------------------------------------


def everywhere(keywords: Mapping[str, Any]) -> list[str]:
    """What each way of loading a model gave, in one process."""
    options = HubOptions(**keywords)
    (item,) = embed_many([golden_clip()], NAME, clips=1, device="cpu", hub=options)
    assert item.embeddings is not None, item.reason
    checks = golden.verify(NAME, hub=options)
    assert all(check.passed for check in checks), checks
    models = [
        CCLModel.from_pretrained(NAME, **keywords),
        hubconf.ccl_r18_k400(weights=NAME, **keywords),
    ]
    return [item.embeddings.provenance.weights_sha256, *(m.weights_sha256 for m in models)]


def test_every_way_to_a_model_takes_them(hub: Hub, client: Client, tmp_path: Path) -> None:
    keywords = {"token": SECRET, "cache_dir": tmp_path / "own", "subfolder": INNER}
    assert len(set(client.run(everywhere, keywords))) == 1
    assert client.cached("*") == [], "golden values came into the same cache"
    assert hub.downloads("golden.safetensors") == 1


def command(hub: Hub, tmp_path: Path, program: str, *arguments: object) -> Any:
    settings = environment(hub, tmp_path / "cache", MY_TOKEN=SECRET, PYTHONPATH=str(ROOT))
    code = f"from ccl_hub.cli.{program}_command import {program}_main as main; main()"
    return subprocess.run(
        [sys.executable, "-c", code] + [str(argument) for argument in arguments],
        env=settings,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=300,
    )


def test_the_commands_take_them_and_show_no_token(hub: Hub, tmp_path: Path) -> None:
    options = ["--subfolder", INNER, "--cache-dir", tmp_path / "own"]
    out = tmp_path / "x.npz"
    embed = ["embed", golden_clip(), "--clips", 1, "--model", NAME, "--out", out, "--json"]
    done = command(hub, tmp_path, *embed, *options, "--token-env", "MY_TOKEN")
    assert done.returncode == 0, done.stderr
    made = json.loads(done.stdout)["provenance"]
    assert made["model"] == f"{NAME}/{INNER}"
    assert SECRET not in done.stdout + done.stderr
    assert SECRET.encode() not in out.read_bytes()
    verify = ["hub", "verify", NAME, *options, "--token-env", "MY_TOKEN"]
    done = command(hub, tmp_path, *verify)
    assert done.returncode == 0 and "DIFFER" not in done.stdout, done.stdout + done.stderr
    info = command(hub, tmp_path, "hub", "info", NAME, *options, "--local-files-only")
    assert info.returncode == 0, info.stderr
    assert json.loads(info.stdout)["sha256"] == made["weights_sha256"]
    assert not (tmp_path / "cache" / "hub").exists()
    for given in (SECRET, "NO_SUCH_VARIABLE"):
        done = command(hub, tmp_path, "hub", "info", NAME, "--token-env", given)
        assert done.returncode == 2 and "environment variable" in done.stderr
        assert given not in done.stdout + done.stderr, "it may be the token itself"


# What is not allowed, and what has no effect -----------------------------------------------------


def test_a_folder_and_a_bundled_model_are_had_whatever_is_said_of_the_hub(folder: Path) -> None:
    """As in transformers: one call for a name that may be a folder."""
    for keywords in (
        {"token": True, "cache_dir": "/no/such/folder", "local_files_only": True},
        {"token": SECRET, "force_download": True},
    ):
        assert CCLModel.from_pretrained(folder, **keywords).name == str(folder)
        assert CCLModel.from_pretrained("ccl_r18_mini", **keywords).name == "ccl_r18_mini"


@pytest.mark.parametrize(
    ("keywords", "words"),
    [
        (
            {"tokn": SECRET},
            r"unknown keyword 'tokn'; allowed are revision, device, dtype, token, ",
        ),
        ({"local_files_only": True, "force_download": True}, "contradict each other"),
        ({"local_files_only": "false"}, "local_files_only is 'false'; allowed: True or False"),
        ({"force_download": 1}, "force_download is 1"),
        ({"subfolder": "../x"}, r"subfolder is '\.\./x'; allowed: a folder inside"),
        ({"subfolder": "/x"}, "subfolder is '/x'"),
        ({"subfolder": "a\\b"}, "subfolder is"),
        ({"token": f"{SECRET}\n"}, "cannot be a token"),
        ({"token": ""}, "cannot be a token"),
        ({"token": f"{SECRET} x"}, "cannot be a token"),
        ({"token": SECRET.encode()}, "token is of type bytes"),
    ],
)
def test_what_is_not_allowed_is_named_but_no_token(keywords: dict, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        CCLModel.from_pretrained("ccl_r18_mini", **keywords)
    assert "geheim" not in str(caught.value)
    words = words.replace("are revision", "are pretrained, weights, revision")
    with pytest.raises(InputError, match=words) as caught:
        hubconf.ccl_r18_mini(**keywords)
    assert "geheim" not in str(caught.value)


def test_keywords_of_fresh_weights() -> None:
    with pytest.raises(InputError, match=r"unknown keyword 'device'; allowed are .*, config\."):
        hubconf.ccl_r18_mini(pretrained=False, device="cpu")


def test_no_token_is_in_a_repr() -> None:
    assert SECRET not in repr(HubOptions(token=SECRET))
    assert issubclass(InputError, CCLError)


def damage(path: Path) -> None:
    """Change the last byte of a cached file."""
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.resolve().write_bytes(data)
