"""`retrieval upsert`: fresh entities from a table to a running server, durable before it says so.

They come with embeddings, or with the texts that a checkpoint embeds here first.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from index_builders.source import open_source
from index_builders.tables import list_tables, read_schema
from retrieval.cli import server_options as options
from retrieval.cli.progress import ProgressCallback, progress_printer
from retrieval.errors import InvalidArgument, InvalidData

_AT_ONCE = 500


def upsert(
    source: Annotated[
        Path, typer.Argument(help="Parquet or Arrow file, or a folder of them: ids, embeddings or texts, attributes")
    ],
    entity_type: Annotated[str, typer.Option(help="their type, such as pin or product")],
    target: options.Target = "127.0.0.1:8980",
    space_id: Annotated[
        str | None, typer.Option(help="space of the embeddings; left out where the file's metadata says it")
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="checkpoint folder whose entity tower embeds the rows, where they have texts only"),
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
    done = position = 0
    with contextlib.ExitStack() as stack:
        # a server that is not there shall not be found out after an hour of embedding
        client = stack.enter_context(options.connect(target, timeout, ca, certificate, key, token_file))
        told = stack.enter_context(progress_printer("upsert"))
        given = source
        if checkpoint is not None:
            client.describe()
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="retrieval-upsert-")))
            source, embedding_column = _embedded(source, checkpoint, space_id, folder / "embedded", id_column, told)
        elif embedding_column not in read_schema(list_tables(source)[0]).names:
            raise InvalidData(
                f"{source} has no column {embedding_column!r}: name it with --embedding-column, or have its texts "
                "embedded with --checkpoint"
            )
        rows = open_source(source, None, id_column=id_column, embedding_column=embedding_column)
        space = space_id or rows.space_id
        if space is None:
            raise InvalidArgument(f"{given} does not say of which space its embeddings are: name it with --space-id")
        for batch in rows.batches():
            if batch.reasons.any():
                first = int(batch.reasons.argmax())
                raise InvalidData(
                    f"row {done + first} of {given} has no usable id or embedding; {done:,} rows before it are written"
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


def _embedded(
    source: Path, checkpoint: Path, space_id: str | None, folder: Path, id_column: str, progress: ProgressCallback
) -> tuple[Path, str]:
    """A folder of the same rows with embeddings, and the column they are in; rows without any text are left out."""
    # torch takes seconds to import: only when it is asked for
    from index_builders.embed import EMBEDDING_COLUMN, embed, plan_embedding
    from retrieval.towers.entity import EntityTower

    tower = EntityTower.load(checkpoint)
    if space_id not in (None, tower.space_id):
        raise InvalidArgument(f"--space-id {space_id} is not that of {checkpoint}, {tower.space_id}: leave it out")
    report = embed(plan_embedding(tower, source, folder, id_column=id_column), tower, progress=progress)
    if report.without_text:
        print(f"{report.without_text:,} rows have no text and are left out, for example {', '.join(report.examples)}")
    return folder, EMBEDDING_COLUMN
