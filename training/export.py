"""Turn a checkpoint into a model folder: ``python -m training.export CHECKPOINT --out FOLDER``.

The folder holds ``model.safetensors``, ``config.json``, ``preprocessor_config.json``,
``training_provenance.json``, ``golden.safetensors`` and a model card ``README.md``;
``CCLModel.from_pretrained(folder)`` loads it, ``ccl-hub publish`` publishes it. Exit
codes: 0 written; 2 the checkpoint cannot be used; 1 the folder cannot be written.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ccl_hub.errors import CCLError, OutputError

from .run.checkpoints import read_checkpoint
from .run.model_folder import DTYPES, export
from .run.trained import find_checkpoint

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; errors become one line on stderr."""
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
        help="the averaged weights (default: where the run kept them), or the last ones",
    )
    parser.add_argument(
        "--licence", default="", help="of the weights, such as apache-2.0; needed to publish them"
    )
    options = parser.parse_args(arguments)
    try:
        checkpoint = read_checkpoint(find_checkpoint(options.checkpoint))
        export(
            checkpoint,
            options.out,
            dtype=options.dtype,
            name=options.name,
            trained_on=options.trained_on,
            ema=options.ema,
            licence=options.licence,
        )
    except OutputError as error:
        return _fail(error, 1)
    except CCLError as error:
        return _fail(error, 2)
    return 0


def _fail(error: CCLError, code: int) -> int:
    sys.stderr.write(f"error: {error}\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
