"""What a run reports: JSON lines, TensorBoard, a live line on stderr, and curves as PNG.

Rank 0 alone writes. ``log.jsonl`` holds one object per logged step and one per validation. A
resumed run first drops the lines after its checkpoint, so the file has every step once.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import math
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, TextIO

from ccl_hub._util.files import make_folder, write_atomically
from ccl_hub.errors import ConfigError, OutputError

logger = logging.getLogger(__name__)

LOG_NAME = "log.jsonl"
CURVES_NAME = "curves.png"
SHOWN = ("total", "forward", "backward", "penalty", "cycle_rate", "loss", "accuracy")


def read_log(path: Path) -> list[dict[str, Any]]:
    """Read a ``log.jsonl``.

    A last line that a kill cut off is left out. Where a crash of the machine has damaged a line,
    that line and all after it are left out with a warning: a run goes on from its checkpoints,
    whatever its log says.

    Args:
        path: The file; if it is missing, there are no lines.

    Returns:
        One dict per whole line.
    """
    if not path.is_file():
        return []
    lines = []
    texts = path.read_text(encoding="utf-8", errors="replace").split("\n")
    for number, text in enumerate(texts[:-1], start=1):
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            logger.warning("%s: damaged from line %d on; the rest is left out", path, number)
            break
    return lines


class RunLog(AbstractContextManager["RunLog"]):
    """Writes ``log.jsonl`` and TensorBoard files; use it as a context manager.

    Args:
        folder: The run's folder.
        start_step: Training lines of later steps are dropped first; 0 for a fresh run.
        validated_step: The same for validation lines; -1 drops all.
        tensorboard: Write TensorBoard event files too, under ``folder/tensorboard``.
        active: False on ranks other than 0, which write nothing.

    Raises:
        ConfigError: TensorBoard is asked for but not installed.
    """

    def __init__(
        self,
        folder: Path,
        start_step: int,
        validated_step: int,
        tensorboard: bool,
        active: bool = True,
    ) -> None:
        self._file: TextIO | None = None
        self._board: Any = None
        if not active:
            return
        path = make_folder(folder) / LOG_NAME
        last = {"train": start_step, "validation": validated_step}
        kept = [line for line in read_log(path) if line["step"] <= last[line["kind"]]]
        write_atomically(path, "".join(json.dumps(line) + "\n" for line in kept))
        if tensorboard:
            self._board = _summary_writer(folder / "tensorboard", start_step)
        self._file = path.open("a", encoding="utf-8")

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()
        if self._board is not None:
            self._board.close()

    def write(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Append one line.

        Args:
            kind: ``"train"`` or ``"validation"``.
            step: Optimizer steps done.
            values: JSON values; numbers also go to TensorBoard as ``kind/name``.

        Raises:
            OutputError: The disk is full or gone.
        """
        if self._file is None:
            return
        try:
            self._file.write(json.dumps({"kind": kind, "step": step, **values}) + "\n")
            self._file.flush()
        except OSError as error:
            raise OutputError(
                f"{self._file.name}: cannot be written ({error.strerror or error}); "
                "free some space, and go on with --resume auto."
            ) from error
        if self._board is not None:
            for name, value in _numbers(values).items():
                self._board.add_scalar(f"{kind}/{name}", value, step)


def _numbers(values: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Flatten nested mappings into ``a/b/c -> number``, leaving other values out."""
    flat: dict[str, float] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _numbers(value, f"{prefix}{name}/")
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            flat[f"{prefix}{name}"] = value
    return flat


def _summary_writer(folder: Path, start_step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ConfigError(
            f"log.tensorboard is true, but TensorBoard cannot be imported ({error}); "
            "pip install 'ccl-hub[training]', or --set log.tensorboard=false."
        ) from error
    return SummaryWriter(str(folder), purge_step=start_step + 1 if start_step else None)


class ProgressLine:
    """Progress on stderr: one line that is rewritten on a terminal, and elsewhere line by line.

    Args:
        total_steps: Steps of the whole run.
        line_seconds: Time between lines where stderr is a file or a pipe.
        active: False on ranks other than 0.
        stream: Where to write; stderr by default.
    """

    def __init__(
        self,
        total_steps: int,
        line_seconds: float,
        active: bool = True,
        stream: TextIO | None = None,
    ) -> None:
        self._total = total_steps
        self._active = active
        self._stream = stream or sys.stderr
        self._live = self._stream.isatty()
        self._every = 0.2 if self._live else line_seconds
        self._last = -math.inf
        self._width = 0

    def show(self, step: int, values: Mapping[str, float], remaining_seconds: float) -> None:
        """Show a step.

        Args:
            step: Optimizer steps done.
            values: Loss terms, ``clips_per_second``, ``data_wait_share``, ``lr``.
            remaining_seconds: Estimated time to the end.
        """
        now = time.monotonic()
        if not self._active or (now - self._last < self._every and step < self._total):
            return
        self._last = now
        terms = " ".join(f"{n} {values[n]:.3f}" for n in SHOWN if n in values)
        text = (
            f"step {step}/{self._total}  {terms}  lr {values['lr']:.2e}  "
            f"{values['clips_per_second']:.1f} clips/s  "
            f"data wait {values['data_wait_share']:.0%}  ETA {_duration(remaining_seconds)}"
        )
        if self._live:
            self._stream.write("\r" + text.ljust(self._width))
            self._width = len(text)
        else:
            self._stream.write(text + "\n")
        self._stream.flush()

    def end(self) -> None:
        """End the live line, so that it stays on the terminal."""
        if self._active and self._live and self._width:
            self._stream.write("\n")
            self._stream.flush()


def _duration(seconds: float) -> str:
    if not math.isfinite(seconds):
        return "?"
    minutes, rest = divmod(round(max(seconds, 0)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"


def require_drawing() -> None:
    """Raise ConfigError unless curves can be drawn: asked before a long run, not after it."""
    if importlib.util.find_spec("matplotlib") is None:
        raise ConfigError(
            "log.curves is true, but matplotlib is not installed; "
            "pip install 'ccl-hub[training]', or --set log.curves=false."
        )


def draw_curves(lines: Sequence[Mapping[str, Any]], path: Path, title: str) -> None:
    """Draw loss terms, cycle rate or accuracy, learning rate and measurements into a PNG.

    Args:
        lines: As :func:`read_log` returns them.
        path: The PNG; replaced atomically.
        title: Stands above the curves.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    require_drawing()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 7), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    figure.suptitle(title)
    panels = figure.subplots(2, 2)
    train = [line for line in lines if line["kind"] == "train"]
    _plot(panels[0, 0], train, ("total", "forward", "backward", "penalty", "loss"), "loss")
    if any("accuracy" in line for line in train):
        _plot(panels[0, 1], train, ("accuracy",), "accuracy on the training batch")
    else:
        _plot(panels[0, 1], train, ("cycle_rate",), "share of cycles that come home")
    _plot(panels[1, 0], train, ("lr",), "learning rate")
    checks = [line for line in lines if line["kind"] == "validation"]
    if any("test" in line for line in checks):
        flat = [{"step": line["step"], **line.get("test", {})} for line in checks]
        names = sorted({name for line in flat for name in line if name != "step"})
        _plot(panels[1, 1], flat, names, "test")
    else:
        flat = [{"step": line["step"], **_numbers(line.get("retrieval", {}))} for line in checks]
        names = sorted({name for line in flat for name in line if name.endswith("/1")})
        _plot(panels[1, 1], flat, names, "retrieval, top-1")
    write_atomically(path, canvas.print_png)


def _plot(
    panel: Any, lines: Sequence[Mapping[str, Any]], names: Sequence[str], label: str
) -> None:
    """Draw each named value over steps."""
    for name in names:
        points = [(line["step"], line[name]) for line in lines if name in line]
        if points:
            panel.plot(
                *zip(*points, strict=True), label=name, marker="." if len(points) < 50 else ""
            )
    panel.set_xlabel("step")
    panel.set_ylabel(label)
    panel.grid(alpha=0.3)
    if panel.lines:
        panel.legend(fontsize=7)
