"""`retrieval upsert`: fresh entities from a table to a running server, durable before it says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from index_builders.source import open_source
from retrieval.cli import server_options as options
from retrieval.cli.progress import progress_printer
from retrieval.errors import InvalidArgument, InvalidData

_AT_ONCE = 500


def upsert(
    source: Annotated[
        Path, typer.Argument(help="Parquet or Arrow file, or a folder of them: ids, embeddings, attributes")
    ],
    entity_type: Annotated[str, typer.Option(help="their type, such as pin or product")],
    target: options.Target = "127.0.0.1:8980",
    space_id: Annotated[
        str | None, typer.Option(help="space of the embeddings; left out where the file's metadata says it")
    ] = None,
    id_column: Annotated[str, typer.Option(help="column of the ids")] = "id",
    embedding_column: Annotated[str, typer.Option(help="column of the embeddings")] = "embedding",
    timeout: options.Timeout = 10.0,
    ca: options.Ca = None,
    certificate: options.Certificate = None,
    key: options.Key = None,
    token_file: options.TokenFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object last")] = False,
) -> None:
    """Put entities in place of what the live generation has under their ids; a rebuild folds them in."""
    rows = open_source(source, None, id_column=id_column, embedding_column=embedding_column)
    space = space_id or rows.space_id
    if space is None:
        raise InvalidArgument(f"{source} does not say of which space its embeddings are: name it with --space-id")
    done = position = 0
    connection = options.connect(target, timeout, ca, certificate, key, token_file)
    with connection as client, progress_printer("upsert") as told:
        for batch in rows.batches():
            if batch.reasons.any():
                first = int(batch.reasons.argmax())
                raise InvalidData(
                    f"row {done + first} of {source} has no usable id or embedding; {done:,} rows before it are written"
                )
            attributes = batch.attributes.to_pylist()
            ids = batch.ids.to_pylist()
            for first in range(0, len(ids), _AT_ONCE):
                part = slice(first, first + _AT_ONCE)
                position = client.upsert(
                    entity_type,
                    ids[part],
                    batch.vectors[part],
                    space_id=space,
                    attributes=[
                        {name: value for name, value in row.items() if value is not None} for row in attributes[part]
                    ],
                )
                done += len(ids[part])
                told("upsert", done, rows.rows)
    if as_json:
        print(json.dumps({"entities": done, "position": position}))
    else:
        print(f"{done:,} entities of {entity_type} are durable at {target}, the last as write {position:,}")
