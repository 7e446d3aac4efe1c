"""Settings of the server from a TOML file and from `name=value` pairs, and back to TOML for a person to read.

The file holds the names of `ServingSettings`; what a command line says wins over it. Relative paths are taken from the
working directory. Opens no store and no certificate.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from retrieval.errors import InvalidParams
from retrieval.serving.config import ServingSettings, make_settings

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found, unused-ignore]


def read_settings(
    path: Path | None = None, pairs: Sequence[str] = (), options: Mapping[str, Any] | None = None
) -> ServingSettings:
    """Settings of the file, overridden by `name=value` pairs (a dot enters a group), overridden by options not None.

    Raises InvalidParams: no such file, not TOML, a pair without a name, an unknown or unacceptable setting.
    """
    values = {} if path is None else read_toml(path)
    for pair in pairs:
        _put(values, pair)
    values.update({name: value for name, value in (options or {}).items() if value is not None})
    try:
        return make_settings(**values)
    except InvalidParams as error:
        if path is None:
            raise
        raise InvalidParams(f"{path}: {error}") from None


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file; InvalidParams when it cannot be read or is not TOML."""
    try:
        values: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
        return values
    except OSError as error:
        raise InvalidParams(f"cannot read {path}: {(error.strerror or str(error)).lower()}") from None
    except UnicodeDecodeError:
        raise InvalidParams(f"{path} is not TOML: it is not UTF-8 text") from None
    except tomllib.TOMLDecodeError as error:
        raise InvalidParams(f"{path} is not TOML: {error}") from None


def write_settings(settings: ServingSettings) -> str:
    """All settings in force as TOML; those that are not set are comments."""
    return "\n".join(_lines(settings, ())) + "\n"


def _lines(model: BaseModel, place: tuple[str, ...]) -> Iterator[str]:
    groups = []
    for name in type(model).model_fields:
        value = getattr(model, name)
        if isinstance(value, BaseModel):
            groups.append((name, value))
        elif value is None:
            yield f"# {name} is not set"
        else:
            # a JSON string, number, boolean or list is the same in TOML
            yield f"{name} = {json.dumps(value, default=str, ensure_ascii=False)}"
    for name, group in groups:
        yield ""
        yield f"[{'.'.join((*place, name))}]"
        yield from _lines(group, (*place, name))


def _put(values: dict[str, Any], pair: str) -> None:
    name, equals, text = pair.partition("=")
    if not equals or not name.strip():
        raise InvalidParams(f"--set {pair!r} is not name=value: write for example --set max_batch=500")
    *groups, last = name.strip().split(".")
    for group in groups:
        inner = values.setdefault(group, {})
        if not isinstance(inner, dict):
            raise InvalidParams(f"--set {pair!r}: {group} is a value and has nothing inside it")
        values = inner
    try:
        values[last] = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        values[last] = text  # a word or a path without quotes
