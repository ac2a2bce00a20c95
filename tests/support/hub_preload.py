"""Imported once by the process that :mod:`tests.hub_client` forks others from.

What huggingface_hub needs stays imported; it does not itself, as it reads its settings on import.
"""

from __future__ import annotations

import sys

import huggingface_hub.hf_api  # noqa: F401 - for what it imports
import tests.hub_client  # noqa: F401

for name in [name for name in sys.modules if name.partition(".")[0] == "huggingface_hub"]:
    del sys.modules[name]
