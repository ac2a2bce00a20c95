"""Finding, verifying, reading and writing weights; no pickle path, nothing loaded by halves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch
from tiny_models import tiny_model

from ccl_hub.config import CCLConfig
from ccl_hub.errors import ConfigError, InputError, ModelNotFoundError, OutputError, WeightsError
from ccl_hub.model import CCLModel
from ccl_hub.network import model_files, weights
from ccl_hub.registry import REGISTRY, list_models


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny_model().save_pretrained(tmp_path / "model")


def rewrite(folder: Path, change) -> None:
    path = folder / model_files.WEIGHTS_NAME
    tensors = safetensors.torch.load_file(path)
    change(tensors)
    safetensors.torch.save_file(tensors, path)


def test_save_and_load_give_equal_outputs(folder: Path) -> None:
    model, clips = tiny_model(), torch.randn(1, 3, 4, 64, 64)
    again = CCLModel.from_pretrained(folder)
    assert not again.training
    assert torch.equal(model(clips).video, again(clips).video)
    assert again.config == model.config
    assert len(again.weights_sha256) == 64


def test_half_precision_keeps_norms_exact(tmp_path: Path) -> None:
    model = tiny_model()
    tensors = safetensors.torch.load_file(
        model.save_pretrained(tmp_path, torch.float16) / model_files.WEIGHTS_NAME
    )
    assert tensors["trunk.conv1.weight"].dtype == torch.float16
    assert torch.equal(tensors["trunk.bn1.running_var"], model.trunk.bn1.running_var)
    assert torch.equal(tensors["trunk.bn1.weight"], model.trunk.bn1.weight)


def test_loading_leaves_the_random_generator_alone(folder: Path) -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    CCLModel.from_pretrained(folder)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("dtype", ["bfloat16", torch.float16])
def test_dtype_is_honoured(folder: Path, dtype: str | torch.dtype) -> None:
    assert CCLModel.from_pretrained(folder, dtype=dtype).dtype == (
        torch.bfloat16 if dtype == "bfloat16" else torch.float16
    )


def test_missing_tensor(folder: Path) -> None:
    rewrite(folder, lambda tensors: tensors.pop("trunk.conv1.weight"))
    with pytest.raises(WeightsError, match=r"missing trunk\.conv1\.weight"):
        CCLModel.from_pretrained(folder)


def test_unexpected_tensor(folder: Path) -> None:
    rewrite(folder, lambda tensors: tensors.update(extra=torch.zeros(1)))
    with pytest.raises(WeightsError, match="unexpected extra"):
        CCLModel.from_pretrained(folder)


def test_wrong_shape(folder: Path) -> None:
    rewrite(folder, lambda tensors: tensors.update({"projection.fc1.bias": torch.zeros(3)}))
    with pytest.raises(WeightsError, match=r"fc1\.bias is \(3,\), expected \(256,\)"):
        CCLModel.from_pretrained(folder)


def test_not_a_number(folder: Path) -> None:
    rewrite(folder, lambda t: t["projection.fc1.bias"].fill_(float("nan")))
    with pytest.raises(WeightsError, match="NaN"):
        CCLModel.from_pretrained(folder)


def test_truncated_file(folder: Path) -> None:
    path = folder / model_files.WEIGHTS_NAME
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(WeightsError, match="not a valid safetensors"):
        CCLModel.from_pretrained(folder)


def test_flipped_byte_of_a_registry_entry_names_both_hashes(folder: Path) -> None:
    path = folder / model_files.WEIGHTS_NAME
    _, good = weights.read_tensors(model_files.resolve(folder))
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    source = model_files.Source("x", CCLConfig(), path, expected_sha256=good)
    with pytest.raises(WeightsError) as caught:
        weights.read_tensors(source)
    assert good in str(caught.value) and str(path) in str(caught.value)


def test_pickles_are_refused(folder: Path) -> None:
    (folder / model_files.WEIGHTS_NAME).rename(folder / "pytorch_model.bin")
    with pytest.raises(WeightsError, match="pickle"):
        CCLModel.from_pretrained(folder)


def test_folder_without_configuration(folder: Path) -> None:
    (folder / model_files.CONFIG_NAME).unlink()
    with pytest.raises(ModelNotFoundError, match=r"config\.json"):
        CCLModel.from_pretrained(folder)


def test_folder_with_foreign_configuration(folder: Path) -> None:
    (folder / model_files.CONFIG_NAME).write_text(json.dumps({"model_type": "vit"}))
    with pytest.raises(ConfigError, match="'vit'"):
        CCLModel.from_pretrained(folder)


def test_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ModelNotFoundError) as caught:
        CCLModel.from_pretrained("ccl_r50")
    assert all(name in str(caught.value) for name in list_models())


def test_unpublished_name_says_so_and_what_to_do() -> None:
    with pytest.raises(ModelNotFoundError, match="not yet published") as caught:
        CCLModel.from_pretrained("ccl_r18_k400")
    assert "ccl_lite0" in str(caught.value) and "training/" in str(caught.value)


def test_a_path_means_a_folder_even_if_it_is_called_like_a_known_model(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.rename(folder.with_name("ccl_r18_k400"))
    monkeypatch.chdir(folder.parent)
    assert CCLModel.from_pretrained(Path("ccl_r18_k400")).name == "ccl_r18_k400"
    with pytest.raises(ModelNotFoundError, match="not yet published"):
        CCLModel.from_pretrained("ccl_r18_k400")


def test_home_is_the_same_for_saving_and_loading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert tiny_model().save_pretrained("~/model") == tmp_path / "model"
    CCLModel.from_pretrained("~/model")
    with pytest.raises(ModelNotFoundError, match="Known names"):  # not RuntimeError
        CCLModel.from_pretrained("~nobody.of.this.name/model")


def test_the_weights_file_in_place_of_its_folder(folder: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="is a file; give the folder"):
        CCLModel.from_pretrained(folder / model_files.WEIGHTS_NAME)


@pytest.mark.parametrize("name", ["a/b..c", "a/b--c", "a/" + "x" * 200])
def test_a_name_the_hub_client_refuses(name: str) -> None:
    with pytest.raises(ModelNotFoundError, match="not a Hub id"):
        CCLModel.from_pretrained(name)


def test_wrong_kind_of_numbers(folder: Path) -> None:
    rewrite(
        folder, lambda t: t.update({"projection.fc1.bias": torch.zeros(256, dtype=torch.int8)})
    )
    with pytest.raises(WeightsError, match=r"fc1\.bias is torch\.int8, expected torch\.float32"):
        CCLModel.from_pretrained(folder)


def test_a_configuration_far_larger_than_the_weights_takes_no_memory(folder: Path) -> None:
    config = json.loads((folder / model_files.CONFIG_NAME).read_text())
    config["architecture"]["projection_hidden"] = 10**12
    (folder / model_files.CONFIG_NAME).write_text(json.dumps(config))
    with pytest.raises(WeightsError, match="does not fit the architecture"):
        CCLModel.from_pretrained(folder)


def test_unreadable_weights_are_a_clear_error(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(WeightsError, match=r"model\.safetensors: cannot be read \(Permission"):
        CCLModel.from_pretrained(folder)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"device": "meta"}, "meta"),
        ({"device": ""}, "''"),
        ({"device": "cuda:99"}, "cuda:99"),
        ({"device": "toaster"}, "toaster"),
        ({"dtype": "int8"}, "float32, bfloat16, float16"),
        ({"dtype": torch.int64}, "float32, bfloat16, float16"),
        ({"revision": "main"}, "local folder"),
    ],
)
def test_bad_arguments(folder: Path, arguments: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        CCLModel.from_pretrained(folder, **arguments)


def test_save_into_a_file_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="cannot be made"):
        tiny_model().save_pretrained(tmp_path / "file")


@pytest.mark.parametrize("name", [name for name, one in REGISTRY.items() if one.bundled])
def test_bundled_checkpoint_is_what_the_registry_says(name: str) -> None:
    entry = REGISTRY[name]
    path = model_files.bundled_folder(entry.name) / model_files.WEIGHTS_NAME
    assert path.stat().st_size == entry.size_bytes
    model = CCLModel.from_pretrained(entry.name)
    assert model.weights_sha256 == entry.sha256
    assert model.config.provenance.name == entry.name


def test_every_published_entry_is_pinned_and_hashed() -> None:
    for entry in REGISTRY.values():
        if entry.published:
            assert len(entry.sha256) == 64 and entry.size_bytes > 0
            assert entry.bundled or len(entry.revision) == 40
        else:
            assert not entry.bundled and not entry.revision
