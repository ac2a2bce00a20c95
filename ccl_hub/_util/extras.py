"""Packages that only some uses need: the extras of pyproject.toml."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

from ..errors import CCLError, ExportError


def require_packages(
    what: str,
    packages: Sequence[str],
    extra: str,
    instead: str,
    error: type[CCLError] = ExportError,
) -> None:
    """Refuse, before any work is done, what needs a package that is not installed.

    Args:
        what: What needs the packages, in words.
        packages: Their names, as they are imported.
        extra: The extra of this package that installs them.
        instead: What can be done without them, in words.
        error: Class of the error.

    Raises:
        CCLError: An ``error``: a package is not installed.
    """
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise error(
            f"{what} needs {', '.join(packages)}, of which {missing[0]} is not installed; "
            f"install with pip install 'ccl-hub[{extra}]', or {instead}."
        )
