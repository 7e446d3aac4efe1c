"""What the entity tower reads of an entity: texts as token ids, vectors as they are, and which of them are there.

Any feature may be missing for any entity: a null, an empty text or list, an absent column. The table goes in as Arrow,
out comes one ragged array of token ids per way of cutting, with a row for each (entity, text feature). The same code
prepares training and serving. Knows nothing about weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, model_validator

from retrieval.errors import InvalidData
from retrieval.towers.tokenise import ITEM_SEPARATOR, Ragged, Tokenisation, tokenise
from retrieval.towers.vocabulary import Vocabulary
from retrieval.types import F32, AnyArray, Bool

MAX_FEATURES = 64


class FeatureSettings(BaseModel):
    """Which columns of an entity table are features, and of what kind."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    texts: tuple[str, ...] = Field(
        min_length=1, max_length=MAX_FEATURES, description="string or list-of-string columns"
    )
    vectors: dict[str, int] = Field(default_factory=dict, description="vector columns and their dimensions")
    max_characters: int = Field(default=400, ge=8, le=9_999, description="of each text that are read")

    @model_validator(mode="after")
    def _distinct(self) -> FeatureSettings:
        names = [*self.texts, *self.vectors]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise ValueError(f"feature {repeated[0]!r} is named twice: give each column once")
        bad = [f"{name} = {d}" for name, d in self.vectors.items() if not 1 <= d <= 16_384]
        if bad:
            raise ValueError(f"vector feature {bad[0]} is not acceptable: dimensions are 1 to 16,384")
        return self


class EncodedText(BaseModel):
    """A vector feature that the checkpoint can make by itself: the pooled states of its own text encoder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    feature: str = Field(default="text_embedding", min_length=1, description="name of the vector feature")
    columns: tuple[str, ...] = Field(min_length=1, description="text columns that are joined, in order")
    max_tokens: int = Field(default=64, ge=4, le=8_192)


@dataclass(frozen=True, kw_only=True)
class Features:
    """Features of n entities.

    tokens: for each way of cutting, int32 ids with n * t rows, row i * t + j being text feature j of entity i;
    vectors: float [n, dim] by name, unit length, zero where absent; present: bool [n, t + v], texts then vectors.
    """

    tokens: dict[Tokenisation, Ragged]
    vectors: dict[str, AnyArray]
    present: Bool

    def __len__(self) -> int:
        return len(self.present)

    def take(self, rows: AnyArray) -> Features:
        """The entities with these row numbers, in that order, repetition allowed."""
        texts = self.present.shape[1] - len(self.vectors)
        ragged_rows = (rows[:, None] * texts + np.arange(texts)).ravel()
        return Features(
            tokens={cut: ragged.take(ragged_rows) for cut, ragged in self.tokens.items()},
            vectors={name: values[rows] for name, values in self.vectors.items()},
            present=self.present[rows],
        )

    @classmethod
    def concatenate(cls, parts: Sequence[Features]) -> Features:
        """The entities of all parts (at least one) in order."""
        return cls(
            tokens={cut: Ragged.concatenate([part.tokens[cut] for part in parts]) for cut in parts[0].tokens},
            vectors={name: np.concatenate([part.vectors[name] for part in parts]) for name in parts[0].vectors},
            present=np.concatenate([part.present for part in parts]),
        )


def text_values(table: pa.Table, name: str) -> list[str]:
    """Texts of a column, one per row: items of a list joined by ITEM_SEPARATOR, empty where there is nothing.

    InvalidData when the column is neither string nor list of string. A column that the table lacks is empty throughout.
    """
    if name not in table.column_names:
        return [""] * table.num_rows
    column = table.column(name)
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    kind = column.type
    if pa.types.is_null(kind):
        return [""] * table.num_rows
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return [value or "" for value in column.to_pylist()]
    if _is_list(kind) and (pa.types.is_string(kind.value_type) or pa.types.is_large_string(kind.value_type)):
        return [ITEM_SEPARATOR.join([item for item in value or () if item]) for value in column.to_pylist()]
    raise InvalidData(
        f"feature {name!r} is of type {kind}, a text feature is string or list of string: cast the column"
    )


def vector_values(table: pa.Table, name: str, dim: int) -> tuple[F32, Bool]:
    """A vector column as unit rows float32 [n, dim], zero where absent, and bool [n] telling which are there.

    InvalidData for another type or dimension, or for a row that is there but not finite or of zero length.
    """
    n = table.num_rows
    if name not in table.column_names or pa.types.is_null(table.column(name).type):
        return np.zeros((n, dim), dtype=np.float32), np.zeros(n, dtype=bool)
    column = table.column(name).combine_chunks()
    kind = column.type
    if not (_is_list(kind) or pa.types.is_fixed_size_list(kind)) or not pa.types.is_floating(kind.value_type):
        raise InvalidData(
            f"feature {name!r} is of type {kind}, a vector feature is a list of {dim} floats: cast the column"
        )
    present = np.asarray(column.is_valid())
    kept = column.drop_null()
    lengths = np.asarray(kept.value_lengths()) if _is_list(kind) else np.full(len(kept), kind.list_size)
    if (lengths != dim).any():
        found = int(lengths[lengths != dim][0])
        raise InvalidData(
            f"feature {name!r} has a vector of {found} dimensions, the model takes {dim}: leave such rows null"
        )
    values = np.asarray(kept.flatten()).astype(np.float32).reshape(-1, dim)
    with np.errstate(over="ignore", invalid="ignore"):
        norms = np.sqrt(np.einsum("nd,nd->n", values, values, dtype=np.float64))
    if not (np.isfinite(norms) & (norms > 0)).all():
        row = int(np.flatnonzero(present)[np.flatnonzero(~(np.isfinite(norms) & (norms > 0)))[0]])
        raise InvalidData(
            f"feature {name!r} of row {row} is zero or not finite: make such rows null, they count as absent"
        )
    out = np.zeros((n, dim), dtype=np.float32)
    out[present] = values / norms[:, None]
    return out, present


def vector_column(vectors: F32, *, present: Bool) -> pa.Array:
    """Vectors float32 [n, d] as an Arrow column of fixed-size lists, null where not present."""
    values = pa.array(np.ascontiguousarray(vectors).ravel(), type=pa.float32())
    return pa.FixedSizeListArray.from_arrays(values, vectors.shape[1], mask=pa.array(~present))


def read_features(
    table: pa.Table, settings: FeatureSettings, vocabularies: Mapping[Tokenisation, Vocabulary]
) -> Features:
    """Features of the rows of `table`; InvalidData as `text_values` and `vector_values` tell."""
    hashed = hash_texts(table, settings)
    tokens = {cut: Ragged(known.ids(hashed[cut].values), hashed[cut].offsets) for cut, known in vocabularies.items()}
    n, texts = table.num_rows, len(settings.texts)
    present = np.zeros((n, texts + len(settings.vectors)), dtype=bool)
    present[:, :texts] = (np.diff(hashed[Tokenisation.WORDS].offsets) > 0).reshape(n, texts)
    vectors: dict[str, AnyArray] = {}
    for place, (name, dim) in enumerate(settings.vectors.items()):
        vectors[name], present[:, texts + place] = vector_values(table, name, dim)
    return Features(tokens=tokens, vectors=vectors, present=present)


def hash_texts(table: pa.Table, settings: FeatureSettings) -> dict[Tokenisation, Ragged]:
    """Token hashes of the text features, row i * t + j being feature j of entity i."""
    columns = [text_values(table, name) for name in settings.texts]
    return tokenise(_interleave(columns), max_characters=settings.max_characters)


def _interleave(columns: Sequence[list[str]]) -> list[str]:
    out = [""] * (len(columns) * len(columns[0]))
    for place, column in enumerate(columns):
        out[place :: len(columns)] = column
    return out


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))
