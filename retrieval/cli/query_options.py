"""The query of a command that asks a server: a text, a vector out of a file or written out, or a stored entity.

Knows nothing about what is asked about the query, and leaves it to the server to judge a vector's space and length.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, TypeAlias

import numpy as np
import typer

from retrieval.client import Entity, RetrievalClient, Vector
from retrieval.errors import InvalidQuery
from retrieval.types import F32

VectorWords: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--vector",
        metavar="FILE.npy|NUMBERS",
        help="instead of a text: a .npy file of one vector, or its numbers separated by commas; needs --space-id",
    ),
]
SpaceId: TypeAlias = Annotated[
    str | None,
    typer.Option(help="space of --vector; never guessed, because a vector of another space finds nonsense silently"),
]
Like: TypeAlias = Annotated[
    str | None,
    typer.Option(
        metavar="[TYPE:]ID",
        help='instead of a text: a stored entity, such as pin:4711, for "more like this"; it is among its own answers',
    ),
]


def read_query(
    client: RetrievalClient, text: str | None, vector: str | None, space_id: str | None, like: str | None
) -> str | Vector | Entity:
    """The one query that text, `--vector` or `--like` gives; InvalidQuery for none, several or an unusable one.

    The server is asked how ids of its entity types are written, and for its spaces where none is named.
    """
    given = [name for name, value in (("TEXT", text), ("--vector", vector), ("--like", like)) if value is not None]
    if len(given) != 1:
        named = " and ".join(given) if given else "nothing"
        raise InvalidQuery(f"{named} is given to search with: give one of TEXT, --vector and --like")
    if vector is None and space_id is not None:
        raise InvalidQuery(f"--space-id {space_id} is the space of a vector, and none is given: leave it out")
    if vector is not None:
        if space_id is None:
            known = ", ".join(sorted({each.space_id for each in client.describe().generations}))
            raise InvalidQuery(f"--vector is of no named space: name it with --space-id; the server's are: {known}")
        return Vector(values=_read_vector(vector), space_id=space_id)
    if like is not None:
        return _read_like(like, {each.entity_type: each.id_type for each in client.describe().generations})
    assert text is not None
    return text


def make_entity(entity_type: str, entity_id: str, id_type: str) -> Entity:
    """The entity of an id as typed; InvalidQuery when its type's ids are numbers and this is none."""
    if id_type != "int64":
        return Entity(entity_type=entity_type, id=entity_id)
    try:
        return Entity(entity_type=entity_type, id=int(entity_id))
    except ValueError:
        raise InvalidQuery(f"{entity_id!r} is not a number, and ids of {entity_type} are: give its number") from None


def plain_query(query: str | Vector | Entity) -> str | dict[str, Any]:
    """The query as `--json` shows it."""
    if isinstance(query, str):
        return query
    if isinstance(query, Entity):
        return {"entity_type": query.entity_type, "id": query.id}
    return {"vector": np.asarray(query.values).tolist(), "space_id": query.space_id}


def _read_like(words: str, id_types: dict[str, str]) -> Entity:
    entity_type, colon, entity_id = words.partition(":")
    if colon and entity_type in id_types:
        return make_entity(entity_type, entity_id, id_types[entity_type])
    if len(id_types) == 1:
        ((entity_type, id_type),) = id_types.items()
        return make_entity(entity_type, words, id_type)
    raise InvalidQuery(f"--like {words} does not say of which type: write TYPE:ID; types are: {', '.join(id_types)}")


def _read_vector(words: str) -> F32:
    """float32 [d]."""
    if words.endswith(".npy"):
        return _read_file(Path(words))
    try:
        return np.array([float(each) for each in words.split(",")], np.float32)
    except ValueError:
        raise InvalidQuery(
            f"--vector {words[:60]} is neither a .npy file nor numbers: write for example --vector 0.1,-0.2,0.3"
        ) from None


def _read_file(path: Path) -> F32:
    try:
        found = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        reason = getattr(error, "strerror", None) or "it is not a whole .npy file of numbers"
        raise InvalidQuery(f"cannot read a vector from {path}: {reason}") from None
    if not isinstance(found, np.ndarray) or found.dtype.kind not in "fiu":
        raise InvalidQuery(f"{path} does not hold an array of real numbers: save one vector with numpy.save")
    rows = found.reshape(-1, found.shape[-1]) if found.ndim else found.reshape(1, 1)
    if len(rows) != 1:
        raise InvalidQuery(f"{path} holds {len(rows):,} vectors, and one is searched with: save the one that is meant")
    return np.asarray(rows[0], np.float32)
