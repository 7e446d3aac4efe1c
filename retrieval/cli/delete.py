"""`retrieval delete`: entities out of the answers of a running server at once, by id."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from retrieval.cli import server_options as options
from retrieval.errors import InvalidArgument, InvalidQuery

_AT_ONCE = 500


def delete(
    ids: Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="the entities")] = None,
    entity_type: Annotated[str, typer.Option(help="their type, such as pin or product")] = "",
    ids_file: Annotated[Path | None, typer.Option("--ids", help="file with one id a line, instead")] = None,
    target: options.Target = "127.0.0.1:8980",
    timeout: options.Timeout = 10.0,
    ca: options.Ca = None,
    certificate: options.Certificate = None,
    key: options.Key = None,
    token_file: options.TokenFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object last")] = False,
) -> None:
    """Take entities away; ids that nothing has are taken away as well, so that a delete may come before its upsert."""
    wanted = [*(ids or []), *_read(ids_file)]
    if not wanted:
        raise InvalidArgument("no id is given: name ids, or a file of them with --ids")
    position = 0
    with options.connect(target, timeout, ca, certificate, key, token_file) as client:
        served = {each.entity_type: each.id_type for each in client.describe().generations}
        if entity_type not in served:
            raise InvalidQuery(
                f"entity type {entity_type!r} is not served: choose one with --entity-type: {', '.join(served)}"
            )
        plain = [_number(each, entity_type) for each in wanted] if served[entity_type] == "int64" else wanted
        for first in range(0, len(plain), _AT_ONCE):
            position = client.delete(entity_type, plain[first : first + _AT_ONCE])
    if as_json:
        print(json.dumps({"entities": len(plain), "position": position}))
    else:
        print(f"{len(plain):,} entities of {entity_type} are deleted at {target}, the last as write {position:,}")


def _read(path: Path | None) -> list[str]:
    if path is None:
        return []
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidArgument(f"ids of {path} cannot be read ({error}): give a UTF-8 file with one id a line") from None


def _number(text: str, entity_type: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise InvalidQuery(f"{text!r} is not a number, and ids of {entity_type} are: give its number") from None
