"""Make the golden values of every bundled checkpoint; run after a checkpoint or pixels change.

    python tests/golden/make_golden.py

Writes ``golden.safetensors`` beside each bundled ``model.safetensors``, with the versions of
torch and of the decoder that made it. ``ccl-hub verify`` and the tests compare with these.
"""

from __future__ import annotations

import logging

from ccl_hub.model import CCLModel
from ccl_hub.network import model_files
from ccl_hub.publish import golden
from ccl_hub.registry import REGISTRY

if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    for entry in REGISTRY.values():
        if entry.bundled:
            folder = model_files.bundled_folder(entry.name)
            golden.write(CCLModel.from_pretrained(entry.name), folder)
            logging.info("wrote %s", folder / golden.GOLDEN_NAME)
