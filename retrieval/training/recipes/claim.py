"""Whose work a folder holds: a recipe's name and settings, written before anything else and checked by every later run.

Knows nothing about stages.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from retrieval.errors import DamagedData, InvalidArgument, StoreError
from retrieval.training.recipes.named import Recipe

FILE, FORMAT, VERSION = "recipe.json", "retrieval-recipe", 1


def claim(out: Path, recipe: Recipe, overrides: Mapping[str, Any]) -> None:
    """Make `out` this recipe's folder, or find that it is already.

    InvalidArgument when it holds something else, another recipe's work or this one's with other settings; DamagedData
    when its record cannot be read; StoreError when it cannot be written.
    """
    stated = {
        "format": FORMAT,
        "version": VERSION,
        "recipe": recipe.name,
        "settings_sha256": hashlib.sha256(recipe.settings_file.read_bytes()).hexdigest(),
        "overrides": dict(overrides),
    }
    path = out / FILE
    if path.exists():
        _compare(out, _read(path), stated)
        return
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InvalidArgument(f"{out} holds files that are no recipe's work: choose another folder with --out")
    write_record(path, stated)


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Write JSON at once or not at all; StoreError when it cannot be written."""
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        os.replace(partial, path)
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror or error}") from error


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["format"] != FORMAT or found["version"] != VERSION:
            raise ValueError(f"it is of {found['format']} version {found['version']}, not {VERSION}")
        return dict(found)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedData(f"{path} is not the record of a recipe ({error}): choose another folder with --out") from None


def _compare(out: Path, found: Mapping[str, Any], stated: Mapping[str, Any]) -> None:
    if found.get("recipe") != stated["recipe"]:
        raise InvalidArgument(
            f"{out} holds the work of recipe {found.get('recipe')!r}, not of {stated['recipe']!r}: choose another "
            "folder with --out"
        )
    if found.get("overrides") != stated["overrides"]:
        raise InvalidArgument(
            f"{out} was made with --set {_shown(found.get('overrides'))}, now it is {_shown(stated['overrides'])}: set "
            "the same, or choose another folder with --out"
        )
    if found.get("settings_sha256") != stated["settings_sha256"]:
        raise InvalidArgument(
            f"{out} was made with another version of recipe {stated['recipe']!r}: choose another folder with --out"
        )


def _shown(overrides: Any) -> str:
    return " ".join(f"{name}={json.dumps(value)}" for name, value in sorted((overrides or {}).items())) or "nothing"
