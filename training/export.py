"""Turn a checkpoint into a model folder: ``python -m training.export CHECKPOINT --out FOLDER``.

The folder holds ``model.safetensors``, ``config.json``, ``preprocessor_config.json``,
``training_provenance.json``, ``golden.safetensors`` and a model card ``README.md``;
``CCLModel.from_pretrained(folder)`` loads it, ``ccl-hub publish`` publishes it. Exit
codes: 0 written; 2 the checkpoint cannot be used; 1 the folder cannot be written.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .cli import options_of, run
from .run.checkpoints import read_checkpoint
from .run.model_folder import DTYPES, export
from .run.trained import find_checkpoint


@dataclass(frozen=True)
class Options:
    """What the command line says; see ``--help``."""

    checkpoint: Path
    out: Path
    dtype: str
    name: str
    trained_on: str
    ema: bool | None
    licence: str


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; errors become one line on stderr."""
    options = dataclasses.asdict(read_options(arguments))
    checkpoint, out = options.pop("checkpoint"), options.pop("out")
    return run(
        lambda: export(read_checkpoint(find_checkpoint(checkpoint)), out, **options),
        level=logging.WARNING,
    )


def read_options(arguments: Sequence[str] | None) -> Options:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m training.export",
        description="Turn a training checkpoint into a folder that from_pretrained() loads.",
    )
    parser.add_argument(
        "checkpoint", type=Path, help="a step-*.safetensors file, or a run's folder for its newest"
    )
    parser.add_argument("--out", type=Path, required=True, help="the folder to write")
    parser.add_argument("--dtype", choices=sorted(DTYPES), default="fp16")
    parser.add_argument("--name", default="", help="name of the model (default: the recipe's)")
    parser.add_argument("--trained-on", default="", help="the training data, in one line")
    parser.add_argument(
        "--ema",
        action=argparse.BooleanOptionalAction,
        help="the averaged weights (default: if the run kept them), or the last weights",
    )
    parser.add_argument(
        "--licence", default="", help="of the weights, such as apache-2.0; needed to publish them"
    )
    return options_of(Options, parser, arguments)


if __name__ == "__main__":
    sys.exit(main())
