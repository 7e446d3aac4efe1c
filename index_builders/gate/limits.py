"""How far a new generation may differ from the one it is to replace: every limit, its default, and why.

The table [gate] of a job's file. Shares are between 0 and 1. Knows nothing about how the figures are measured.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from retrieval.errors import InvalidParams

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found, unused-ignore]

TABLE = "gate"


class GateLimits(BaseModel):
    """The limits of one gate. Construct with `make_limits`, which turns a bad value into one sentence."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    queries: int = Field(
        default=100,
        ge=10,
        le=10_000,
        description="queries replayed of each kind; more for steadier figures, at time's cost",
    )
    min_overlap_at_10: float = Field(
        default=0.80,
        ge=0,
        le=1,
        description="mean share of the parent's 10 best that are among the new 10 best, for each kind of query; ids "
        "that lie against the wrong vectors bring it near 0 while every figure of the new generation alone is good",
    )
    min_overlap_at_100: float = Field(
        default=0.80, ge=0, le=1, description="as min_overlap_at_10, of the 100 best, which rankers see"
    )
    max_score_shift: float = Field(
        default=0.05,
        ge=0,
        le=10,
        description="change of the mean score of the 10 best, as a share of its usual size: thresholds on scores "
        "further down the line would cut elsewhere",
    )
    max_score_drop: float = Field(
        default=0.25,
        ge=0,
        le=10,
        description="as max_score_shift, of the query in 100 that loses most: a region that is gone",
    )
    min_recall_at_10: float = Field(
        default=0.80,
        ge=0,
        le=1,
        description="recall@10 at the default effort against exact search, for each kind of query",
    )
    min_recall_at_100: float = Field(
        default=0.80,
        ge=0,
        le=1,
        description="recall@100 at the default effort against exact search, for each kind of query",
    )
    segment_column: str | None = Field(
        default=None, description="attribute column whose values are judged one by one, such as a country or a category"
    )
    max_segments: int = Field(
        default=50,
        ge=1,
        le=1_000,
        description="most frequent values of segment_column that are judged; the others together",
    )
    min_segment_recall: float = Field(
        default=0.70,
        ge=0,
        le=1,
        description="recall@10 of the queries whose best answer is of one segment; a mean hides what one segment loses",
    )
    min_segment_queries: int = Field(
        default=10, ge=1, le=10_000, description="queries below which the recall of a segment is told and not judged"
    )
    max_segment_lost: float = Field(
        default=0.20,
        ge=0,
        le=1,
        description="share of a segment's rows that may be gone: half a country can hide in 2 % of all",
    )
    min_segment_rows: int = Field(
        default=100, ge=1, description="rows of the parent below which the loss of a segment is told and not judged"
    )
    max_longest_list: float = Field(
        default=20.0,
        ge=1,
        description="longest inverted list, in lists of mean length: the queries that visit it wait that much longer",
    )
    max_list_imbalance: float = Field(
        default=4.0,
        ge=1,
        description="mean rows that a visited list holds, against equal lists: the mean work of a query",
    )
    max_empty_lists: float = Field(
        default=0.30,
        ge=0,
        le=1,
        description="share of inverted lists without a row: the partition was trained on other data",
    )
    max_shard_ratio: float = Field(
        default=1.5,
        ge=1,
        description="largest shard against the mean shard; the slowest shard is the speed of an answer",
    )
    max_rows_lost: float = Field(default=0.05, ge=0, le=1, description="share of rows fewer than the parent has")
    max_rows_gained: float = Field(
        default=0.50,
        ge=0,
        le=1_000,
        description="share of rows more than the parent has: a source read twice, a filter gone",
    )
    max_quarantined: float = Field(default=0.02, ge=0, le=1, description="share of the source rows that were refused")
    max_quarantine_rise: float = Field(
        default=0.005, ge=0, le=1, description="by how much the share of refused rows may exceed the parent's"
    )
    max_lost_ids: float = Field(
        default=0.05, ge=0, le=1, description="share of the parent's ids that are not there any more"
    )
    max_new_ids: float = Field(
        default=0.50, ge=0, le=1, description="share of the new ids that the parent does not have"
    )
    max_norm_shift: float = Field(
        default=0.05,
        ge=0,
        le=10,
        description="change of the mean or median norm of the source's vectors, before they are made unit length, as a "
        "share of it; of the stored ones where a generation does not tell those",
    )
    max_off_unit: float = Field(
        default=0.01, ge=0, le=1, description="under cosine: how far a norm may be from 1; scores would not be cosines"
    )
    max_same_vectors: float = Field(
        default=0.50,
        ge=0,
        le=1,
        description="share of rows whose vector an earlier row has too: an encoder that says one thing",
    )
    max_same_vectors_rise: float = Field(
        default=0.05, ge=0, le=1, description="by how much the share of repeated vectors may exceed the parent's"
    )


def make_limits(**values: Any) -> GateLimits:
    """GateLimits from keywords; InvalidParams names the first bad limit, its value and what is acceptable."""
    try:
        return GateLimits(**values)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"][:1])
        if name not in GateLimits.model_fields:
            known = ", ".join(GateLimits.model_fields)
            raise InvalidParams(f"the gate has no limit {name!r}; the limits are {known}") from None
        raise InvalidParams(
            f"gate limit {name} = {first['input']!r} is not acceptable: {first['msg'].lower()}"
        ) from None


def read_limits(path: Path) -> GateLimits:
    """The limits in table [gate] of a TOML file, the defaults where it has none; InvalidParams for a bad file."""
    try:
        body = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InvalidParams(f"{path} cannot be read as TOML with a table [{TABLE}]: {error}") from None
    table = body.get(TABLE, {})
    if not isinstance(table, dict):
        raise InvalidParams(f"{TABLE} in {path} is {table!r}: make it a table, [{TABLE}]")
    return make_limits(**table)
