"""Files in parts: what is joined is what was split, by this package and by cat."""

from __future__ import annotations

import hashlib
import re
import subprocess

import numpy as np
import pytest

from ccl_hub.errors import TrainingError
from tools.campaign.file_parts import join_parts, split_file


@pytest.fixture
def whole(tmp_path):
    path = tmp_path / "weights.bin"
    path.write_bytes(np.random.default_rng(0).bytes(2500))
    return path


def test_parts_are_joined_to_the_same_bytes(whole, tmp_path):
    parts = split_file(whole, tmp_path / "parts", 1000)
    assert [part.name for part in parts] == [f"weights.bin.part-0{i}" for i in range(3)]
    assert [part.stat().st_size for part in parts] == [1000, 1000, 500]
    joined = join_parts(tmp_path / "parts", tmp_path / "there")
    assert joined == tmp_path / "there" / "weights.bin"
    assert joined.read_bytes() == whole.read_bytes()


def test_the_command_in_the_list_joins_and_checks_too(whole, tmp_path):
    split_file(whole, tmp_path / "parts", 200)  # thirteen: the order of names is that of numbers
    sums = (tmp_path / "parts" / "SHA256SUMS").read_text()
    command = re.match(r"# (.+)\n", sums)[1]
    done = subprocess.run(
        ["sh", "-c", command],
        cwd=tmp_path / "parts",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "weights.bin: OK" in done.stdout
    assert (tmp_path / "parts" / "weights.bin").read_bytes() == whole.read_bytes()
    assert hashlib.sha256(whole.read_bytes()).hexdigest() in sums


@pytest.mark.parametrize("size", [0, 1, 999, 1000, 1001])
def test_sizes_about_that_of_a_part(tmp_path, size):
    whole = tmp_path / "x"
    whole.write_bytes(b"a" * size)
    parts = split_file(whole, tmp_path / "parts", 1000)
    assert len(parts) == (2 if size > 1000 else 1)
    assert join_parts(tmp_path / "parts", tmp_path / "y").stat().st_size == size


def test_parts_of_an_earlier_file_do_not_stay(whole, tmp_path):
    split_file(whole, tmp_path / "parts", 100)
    whole.write_bytes(b"short")
    split_file(whole, tmp_path / "parts", 100)
    assert len(list((tmp_path / "parts").iterdir())) == 2
    assert join_parts(tmp_path / "parts", tmp_path / "there").read_bytes() == b"short"


def test_damaged_missing_and_foreign_parts_are_named(whole, tmp_path):
    folder = tmp_path / "parts"
    first, second, _ = split_file(whole, folder, 1000)
    second.write_bytes(second.read_bytes()[:-1] + b"?")
    with pytest.raises(TrainingError, match=r"part-01: is missing or damaged.*bring this part"):
        join_parts(folder, tmp_path / "there")
    first.unlink()
    with pytest.raises(TrainingError, match=r"part-00: is missing or damaged"):
        join_parts(folder, tmp_path / "there")
    assert list((tmp_path / "there").iterdir()) == []
    sums = folder / "SHA256SUMS"
    sums.write_text("00  a\n00  ../b\n")
    with pytest.raises(TrainingError, match="does not list the parts of one file"):
        join_parts(folder, tmp_path / "there")
    sums.unlink()
    with pytest.raises(TrainingError, match="SHA256SUMS: is missing"):
        join_parts(folder, tmp_path / "there")
