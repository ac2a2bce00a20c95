"""Steps of a long job: commands run once each, side by side, and stopped together.

A step that has succeeded leaves a mark, so that the same job goes on where it was stopped. A log
beside the mark holds its output.
"""

from __future__ import annotations

import json
import logging
import shlex
import signal
import subprocess
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from ccl_hub._util.files import make_folder, write_atomically
from ccl_hub.errors import TrainingError

from .folder import EXIT_SAVED

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.2
KILL_SECONDS = 5.0


class StepFailedError(TrainingError):
    """A step ended with an error, or was done by another command before."""


class StoppedError(TrainingError):
    """The job was told to stop before its end."""


@dataclass(frozen=True)
class Step:
    """One command.

    Args:
        name: Of its mark and log; unique in the job.
        command: Program and arguments. Exit code 75 means that it has saved and is to run again.
        further: Arguments that may change from one time to the next.
    """

    name: str
    command: tuple[str, ...]
    further: tuple[str, ...] = ()

    @property
    def mark(self) -> list[str]:
        """What its mark says: the command, without the folder of the program."""
        return [Path(self.command[0]).name, *self.command[1:]]


def missing_steps(chains: Sequence[Sequence[Step]], folder: Path) -> list[Step]:
    """Return the steps that have not succeeded yet.

    Args:
        chains: As :func:`run_steps` takes them.
        folder: Of the marks.

    Raises:
        StepFailedError: A step was done by another command.
    """
    return [step for chain in chains for step in chain if not _is_done(step, folder)]


def run_steps(
    chains: Sequence[Sequence[Step]], folder: Path, at_once: int, stop: Callable[[], bool]
) -> None:
    """Run every step that has not succeeded before.

    Args:
        chains: Steps of one chain run one after the other, chains side by side.
        folder: For marks and logs; made if missing.
        at_once: Chains at the same time.
        stop: Asked again and again. Once it is true, the running commands get SIGTERM, on which a
            training saves, and no other is started. A KeyboardInterrupt after that kills them.

    Raises:
        StepFailedError: A step failed; the steps beside it were finished first.
        StoppedError: ``stop`` was true before the end.
        OutputError: The folder cannot be written.
    """
    runner = _Runner(make_folder(folder), stop)
    with ThreadPoolExecutor(at_once) as pool:
        futures = [pool.submit(runner.run_chain, chain) for chain in chains]
        try:
            # In turns: a signal that another thread received does not end a wait without a limit.
            while wait(futures, POLL_SECONDS).not_done:
                pass
        except BaseException:
            runner.killing.set()
            raise
    errors = [error for future in futures if (error := future.exception())]
    if errors:
        failures = [error for error in errors if not isinstance(error, StoppedError)]
        raise (failures or errors)[0]


class _Runner:
    """What the chains share."""

    def __init__(self, folder: Path, stop: Callable[[], bool]) -> None:
        self.folder = folder
        self.stop = stop
        self.failed = threading.Event()
        self.killing = threading.Event()

    def run_chain(self, chain: Sequence[Step]) -> None:
        """Run steps one after the other, until one of any chain fails."""
        try:
            for step in chain:
                if self.failed.is_set():
                    return
                self.run_step(step)
        except Exception:
            self.failed.set()
            raise

    def run_step(self, step: Step) -> None:
        """Run a step unless it has succeeded before."""
        if _is_done(step, self.folder):
            return
        logger.info("%s", step.name)
        log = self.folder / f"{step.name}.log"
        code = EXIT_SAVED
        while code == EXIT_SAVED:
            if self.stopping:
                raise StoppedError(f"stopped at {step.name}; the same command goes on from there.")
            code = self._run_once(step, log)
        if code != 0 and self.stopping:
            raise StoppedError(f"stopped in {step.name}; the same command goes on from there.")
        if code != 0:
            lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-3:]
            last = f": {' / '.join(lines)}" if lines else ""
            raise StepFailedError(f"{step.name} ended with exit code {code}{last} (see {log})")
        write_atomically(self.folder / f"{step.name}.json", json.dumps(step.mark))

    @property
    def stopping(self) -> bool:
        """Whether running commands are to end, and no other is to start."""
        return self.killing.is_set() or self.stop()

    def _run_once(self, step: Step, log: Path) -> int:
        """Run a command to its end, passing a stop on to it; return its exit code."""
        with log.open("wb") as output:
            try:
                # In a new session signals of the terminal reach it once, through this process.
                process = subprocess.Popen(
                    (*step.command, *step.further),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            except OSError as error:
                raise StepFailedError(
                    f"{step.name}: {step.command[0]} cannot be started ({error.strerror}); "
                    "give a program that exists."
                ) from error
            terminated = False
            while True:
                try:
                    return process.wait(POLL_SECONDS)
                except subprocess.TimeoutExpired:
                    if self.killing.is_set():
                        _kill(process)
                    elif not terminated and self.stopping:
                        process.terminate()
                        terminated = True


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End a command that SIGTERM did not end; SIGINT makes it kill the steps that it runs."""
    process.send_signal(signal.SIGINT)
    try:
        process.wait(KILL_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()


def _is_done(step: Step, folder: Path) -> bool:
    """Whether a step has succeeded before, by the same command."""
    mark = folder / f"{step.name}.json"
    if not mark.is_file():
        return False
    try:
        before = [str(word) for word in json.loads(mark.read_text(encoding="utf-8"))]
    except (UnicodeDecodeError, json.JSONDecodeError, TypeError) as error:
        raise StepFailedError(
            f"{mark}: is damaged ({error}); remove it, and the step is done again."
        ) from error
    if before != step.mark:
        raise StepFailedError(
            f"{mark}: this step was done by `{shlex.join(before)}`, and now it would be "
            f"`{shlex.join(step.mark)}`; give the same arguments, or another --out."
        )
    return True
