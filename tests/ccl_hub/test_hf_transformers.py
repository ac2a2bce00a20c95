"""``transformers.AutoModel`` gives our model, strictly loaded, without code from anywhere else."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import torch
from hub_client import environment
from hub_server import serve
from project import ROOT
from tiny_models import tiny_model

from ccl_hub import CCLModel
from ccl_hub.network import model_files

CLIP = "torch.linspace(-1, 1, 12288).reshape(1, 3, 4, 32, 32)"
CODE = f"""
import sys, torch
import ccl_hub.hf_transformers
from transformers import AutoConfig, AutoModel

folder, broken = sys.argv[1:]
model = AutoModel.from_pretrained(folder)
print(type(model).__name__, isinstance(model, ccl_hub.CCLModel), model.training)
with torch.inference_mode():
    print(model({CLIP}).video.tolist())
print(model.weights_sha256)
print(AutoModel.from_pretrained(folder, dtype=torch.bfloat16, device_map="cpu").dtype)
config = AutoConfig.from_pretrained(folder)
print(AutoModel.from_pretrained(folder, config=config).training)
fresh = AutoModel.from_config(config)
print(fresh.training, fresh.config == model.config)
config.preprocessing["crop_px"] = 96
for place, options in [
    (folder, dict(config=config)),
    (folder, dict(quantization_config="hf_geheim")),
    (folder, dict(device_map=0.5)),
    (folder, dict(dtype="int3")),
    (broken, {{}}),
]:
    try:
        print(AutoModel.from_pretrained(place, **options))
    except ccl_hub.errors.CCLError as error:
        print(type(error).__name__, *str(error).split())
"""


def test_auto_model(tmp_path: Path) -> None:
    folder = tiny_model().save_pretrained(tmp_path / "model")
    broken = tiny_model().save_pretrained(tmp_path / "broken")
    tensors = {"trunk.conv1.weight": torch.zeros(8, 3, 7, 7)}  # what others load with a warning
    (broken / model_files.WEIGHTS_NAME).unlink()
    torch.save(tensors, broken / "pytorch_model.bin")
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(folder), str(broken)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    model = CCLModel.from_pretrained(folder)
    with torch.inference_mode():
        wanted = model(torch.linspace(-1, 1, 12288).reshape(1, 3, 4, 32, 32)).video.tolist()
    lines = done.stdout.splitlines()
    assert lines[:6] == [
        "CCLAutoModel True False",
        str(wanted),
        hashlib.sha256((folder / model_files.WEIGHTS_NAME).read_bytes()).hexdigest(),
        "torch.bfloat16",
        "False",
        "True True",
    ]
    for line, (start, part) in zip(
        lines[6:],
        [
            ("InputError", "not that of the weights"),
            ("InputError unknown keyword 'quantization_config'; allowed are config", "subfolder"),
            ("InputError device is '0.5'", "cuda:N"),
            ("InputError dtype is 'int3'", "float32"),
            ("WeightsError", "can run code and is never loaded"),
        ],
        strict=True,
    ):
        assert line.startswith(start) and part in line
    assert "geheim" not in done.stdout + done.stderr, "a token is shown to nobody"


FROM_THE_HUB = """
import sys, torch
import ccl_hub.hf_transformers
from transformers import AutoModel

name, cache_dir = sys.argv[1:]
how = dict(token="hf_r", cache_dir=cache_dir, subfolder="small")
print(AutoModel.from_pretrained(name, **how).weights_sha256)
print(AutoModel.from_pretrained(name, **{**how, "token": None}, local_files_only=True).name)
"""


def test_auto_model_from_a_private_subfolder(tmp_path: Path) -> None:
    folder = tiny_model().save_pretrained(tmp_path / "model" / "small")
    with serve() as hub:
        hub.add("someone/several", tmp_path / "model", private=True)
        settings = environment(hub, tmp_path / "cache", PYTHONPATH=str(ROOT))
        done = subprocess.run(
            [sys.executable, "-c", FROM_THE_HUB, "someone/several", str(tmp_path / "own")],
            env=settings,
            capture_output=True,
            text=True,
            cwd=tmp_path,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
    wanted = hashlib.sha256((folder / model_files.WEIGHTS_NAME).read_bytes()).hexdigest()
    assert done.stdout.splitlines() == [wanted, "someone/several/small"]
    assert not (tmp_path / "cache" / "hub").exists(), "all of it is in the folder that was named"


def test_without_transformers_the_extra_is_named() -> None:
    code = "import sys; sys.modules['transformers'] = None; import ccl_hub.hf_transformers"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1
    assert "ImportError: ccl_hub.hf_transformers cannot import transformers" in done.stderr
    assert "pip install 'ccl-hub[transformers]'" in done.stderr
