"""Embedding spaces: what makes two vectors comparable, as a content hash, and who may meet whom.

A space id is `sp1-` and 32 hex digits of SHA-256 over the metric, the dimension, the text normalisation and the content
of every file that shapes a vector (tower weights, tokenizer, model configuration). Two checkpoints with equal bytes are
one space wherever they lie; one changed weight is another space. Knows nothing about towers or stores.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Mapping

from retrieval.errors import InvalidArgument, SpaceMismatch
from retrieval.types import Metric

_SPACE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")


def space_id(*, metric: Metric, d: int, text_normalisation: str, content: Mapping[str, str]) -> str:
    """Space id of a tower.

    text_normalisation: name and version of the normalisation; content: for each part that shapes a vector (weights,
    tokenizer, configuration) its name and the SHA-256 of its bytes.
    """
    identity = {"metric": str(metric), "d": d, "text_normalisation": text_normalisation, "content": dict(content)}
    canonical = json.dumps(identity, sort_keys=True, separators=(",", ":")).encode()
    return "sp1-" + hashlib.sha256(canonical).hexdigest()[:32]


def check_space_id(value: str) -> str:
    """Return `value` if it can name a space (embeddings made elsewhere bring their own name), else InvalidArgument."""
    if not _SPACE_ID.fullmatch(value):
        raise InvalidArgument(
            f"space id {value!r} is not acceptable: it takes 1 to 128 letters, digits and . _ : -, "
            "and starts with a letter or digit"
        )
    return value


def check_compatible(query_space: str, index_space: str, compatible: Collection[str] = ()) -> None:
    """SpaceMismatch unless a query of `query_space` may meet an index of `index_space`.

    compatible: the foreign spaces that the query tower's checkpoint was trained against and lists.
    """
    if query_space != index_space and index_space not in compatible:
        raise SpaceMismatch(
            f"a query of space {query_space} cannot search an index of space {index_space}: "
            "encode with the tower of that space, or rebuild the index"
        )
