"""From training to a stranger's vectors: train, export, publish, fetch, embed, all as commands."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_run
from hub_client import environment
from hub_server import Hub, serve
from project import ROOT

from ccl_hub.publish import golden
from training import export

BALLS = ROOT / "examples" / "bouncing_balls.mp4"
NAME = "someone/ccl_first"
PYTHON = """
import sys
from ccl_hub import CCLModel
CCLModel.from_pretrained(sys.argv[1]).embed(sys.argv[2], clips=2).save(sys.argv[3])
"""
TORCH_HUB = """
import sys, torch
name, video, out, clone = sys.argv[1:]
model = torch.hub.load(clone, "ccl_r18_k400", weights=name, source="local", trust_repo=True)
model.embed(video, clips=2).save(out)
"""
EMBED = "from ccl_hub.cli.embed_command import embed_main; embed_main()"
HUB = "from ccl_hub.cli.hub_command import hub_main; hub_main()"


def start(code: str, *arguments: object, cwd: Path, settings: dict[str, str]) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env=settings,
    )


def finish(process: subprocess.Popen) -> str:
    out, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return out


@pytest.mark.slow
def test_train_publish_and_embed_by_every_way(tmp_path: Path) -> None:
    short = ("schedule.epochs=1", "schedule.warmup_epochs=0")
    assert tiny_run.run(tmp_path / "run", changes=short).returncode == 0
    folder = tmp_path / "model"
    arguments = [str(tmp_path / "run"), "--out", str(folder), "--name", "ccl_first"]
    assert export.main([*arguments, "--licence", "apache-2.0"]) == 0
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
    with serve() as hub:
        writer = environment(hub, tmp_path / "cache", HF_TOKEN="hf_w")  # noqa: S106
        facts = json.loads(
            finish(start(HUB, "publish", folder, NAME, "--json", cwd=ROOT, settings=writer))
        )
        assert hub.repositories[NAME].branches["main"] == facts["revision"]
        outs = fetch_and_embed(hub, clone, tmp_path)
    with np.load(outs[0]) as wanted:
        assert wanted["clips"].shape == (2, 8) and np.isfinite(wanted["clips"]).all()
        for out in outs[1:]:
            with np.load(out) as found:
                for key in ("clips", "frames", "video", "clip_seconds"):
                    np.testing.assert_array_equal(found[key], wanted[key], err_msg=f"{out} {key}")
    assert all(check.passed for check in golden.verify(str(folder)))


def fetch_and_embed(hub: Hub, clone: Path, folder: Path) -> list[Path]:
    """Embed the example by three ways at once, each a new process with an empty cache."""
    outs = [folder / f"{way}.npz" for way in ("python", "torch_hub", "command", "installed")]
    # In torch, as the others, so that the numbers are the same to the last bit.
    command = f"--model {NAME} --clips 2 --device cpu --backend torch"
    ways = (
        (PYTHON, (NAME, BALLS, outs[0]), ROOT),
        (TORCH_HUB, (NAME, BALLS, outs[1], clone), folder),
        (EMBED, (BALLS, "--out", outs[2], *command.split()), ROOT),
        (PYTHON, (folder / "model", BALLS, outs[3]), ROOT),  # where it came from
    )
    running = []
    for number, (code, arguments, place) in enumerate(ways):
        settings = environment(hub, folder / f"cache{number}")
        settings.pop("PYTHONPATH", None)
        settings["TORCH_HOME"] = str(folder / "torch")
        settings["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS", "1")
        running.append(start(code, *arguments, cwd=place, settings=settings))
    for process in running:
        finish(process)
    return outs
