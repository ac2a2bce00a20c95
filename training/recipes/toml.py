"""Recipes of any kind are read: a TOML file, and ``--set section.key=value`` on top of it.

A value is read as TOML, and as plain text where it is not TOML.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ccl_hub.errors import ConfigError

RECIPES_FOLDER = Path(__file__).parent


def read_values(
    name_or_path: str | Path, changes: Sequence[str], folder: Path
) -> tuple[dict[str, Any], str]:
    """Read the plain values of a recipe of any kind.

    Args:
        name_or_path: A TOML file, or the name of one in ``folder``.
        changes: ``section.key=value`` texts, applied in order.
        folder: Where the recipes of that kind are.

    Returns:
        Sections and keys, with a name; and the file, to be named in errors.

    Raises:
        ConfigError: The recipe is missing or not TOML, or a change names no key.
    """
    path = Path(name_or_path)
    if not path.is_file():
        known = {p.stem: p for p in sorted(folder.glob("*.toml"))}
        if str(name_or_path) not in known:
            raise ConfigError(
                f"{name_or_path}: no such recipe; give a TOML file or one of {', '.join(known)}."
            )
        path = known[str(name_or_path)]
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: is not TOML ({error}); correct the file.") from error
    apply_changes(values, changes)
    return {"name": path.stem, **values}, str(path)


def apply_changes(values: dict[str, Any], changes: Sequence[str]) -> None:
    """Apply ``section.key=value`` texts in order, in place.

    Raises:
        ConfigError: One has no ``=``, or what it names as a section is a value.
    """
    for change in changes:
        name, equals, text = change.partition("=")
        if not equals or not name:
            raise ConfigError(
                f"--set {change}: names no value; give section.key=value, such as optim.lr=0.03."
            )
        try:
            value: Any = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            value = text
        *sections, key = name.strip().split(".")
        table = values
        for section in sections:
            table = table.setdefault(section, {})
            if not isinstance(table, dict):
                raise ConfigError(f"--set {change}: {section} is a value; give section.key=value.")
        table[key] = value
