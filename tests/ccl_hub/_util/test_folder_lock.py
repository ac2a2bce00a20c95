"""Any number of readers, or one that keeps them out."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from ccl_hub._util.folder_lock import no_reader, reader

pytestmark = pytest.mark.skipif(os.name == "nt", reason="there are no such locks")

READ = """
import sys
from pathlib import Path
from ccl_hub._util.folder_lock import reader
with reader(Path(sys.argv[1]), ".readers"):
    print("reading", flush=True)
    sys.stdin.read()
"""


def test_readers_do_not_keep_each_other_out_but_are_seen(tmp_path: Path) -> None:
    with no_reader(tmp_path, ".readers") as alone:
        assert alone
    with reader(tmp_path, ".readers"), reader(tmp_path, ".readers"):
        with no_reader(tmp_path, ".readers") as alone:
            assert not alone
    with no_reader(tmp_path, ".readers") as alone:
        assert alone


def test_a_reader_in_another_process_is_seen_until_it_ends_however_that_is(tmp_path: Path) -> None:
    other = subprocess.Popen(
        [sys.executable, "-c", READ, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert other.stdout is not None and other.stdout.readline() == "reading\n"
    with no_reader(tmp_path, ".readers") as alone:
        assert not alone
    other.send_signal(signal.SIGKILL)
    other.communicate(timeout=60)
    with no_reader(tmp_path, ".readers") as alone:
        assert alone


def test_a_reader_waits_while_readers_are_kept_out(tmp_path: Path) -> None:
    order: list[str] = []

    def read() -> None:
        with reader(tmp_path, ".readers"):
            order.append("reader")

    thread = threading.Thread(target=read)
    with no_reader(tmp_path, ".readers") as alone:
        assert alone
        thread.start()
        thread.join(timeout=0.5)
        order.append("writer")
    thread.join(timeout=60)
    assert order == ["writer", "reader"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write")
def test_a_folder_that_cannot_be_written_can_be_read(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with reader(tmp_path, ".readers"), no_reader(tmp_path, ".readers") as alone:
            assert not alone
    finally:
        tmp_path.chmod(0o700)


def test_a_folder_that_is_gone_can_be_read_without_a_lock(tmp_path: Path) -> None:
    with reader(tmp_path / "gone", ".readers"):
        assert not (tmp_path / "gone").exists()
    with no_reader(tmp_path / "gone", ".readers") as alone:
        assert not alone
