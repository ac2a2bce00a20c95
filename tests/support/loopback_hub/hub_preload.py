"""Imported once by the process that :mod:`hub_client` forks others from.

What huggingface_hub needs stays imported; it does not itself, as it reads its settings on import.
"""

from __future__ import annotations

import sys

import hub_client  # noqa: F401
import huggingface_hub.hf_api  # noqa: F401 - for what it imports

for name in [name for name in sys.modules if name.partition(".")[0] == "huggingface_hub"]:
    del sys.modules[name]
