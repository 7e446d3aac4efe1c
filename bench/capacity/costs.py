"""What one piece of work costs in CPU time, measured on one machine: all that the capacity plan takes from reality.

Written by `calibrate`, read from a JSON file, and any of them overridden by name. How search grows with the rows of a
shard is a straight line in ln(rows) through the sizes measured, which is how graph search grows; beyond the largest of
them it is an extrapolation, and a report says by how much. Knows nothing about queues.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from retrieval.errors import InvalidParams

_US = 1e-6


class Costs(BaseModel):
    """Microseconds of CPU time unless a name says otherwise.

    cv: standard deviation over mean of a search's time. hop_us: wall time of a call beyond the CPU time of both ends
    (wake-ups, the kernel), which delays answers and occupies nobody.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    search_points: tuple[tuple[int, float], ...] = Field(min_length=1, description="(rows of a shard, microseconds)")
    recall_at_100: float | None = Field(None, ge=0, le=1, description="least recall of the searches above")
    cv: float = Field(ge=0, le=10)
    leaf_call_us: float = Field(ge=0, description="of a leaf, per call, without the searches")
    broker_call_us: float = Field(ge=0, description="of a broker, per request, without its leaves")
    broker_leaf_us: float = Field(ge=0, description="of a broker, per call to a leaf")
    sender_call_us: float = Field(0.0, ge=0, description="of the load generator, per request: of validations only")
    hop_us: float = Field(ge=0)
    cache_hit_us: float = Field(ge=0, description="a text that is in the query cache")
    encode_call_us: float = Field(ge=0, description="of a batch of texts through the tower, whatever its size")
    encode_text_us: float = Field(ge=0, description="of each text of a batch")
    bytes_per_row: float = Field(gt=0, description="of a shard's files, as the leaf maps them")
    machine: dict[str, Any] = Field(default_factory=dict)

    def search_s(self, rows: float) -> float:
        """Mean seconds of one search in a shard of `rows`; below the smallest measured in proportion to the rows."""
        points = sorted(self.search_points)
        slope, base = self._line()
        smallest, least = points[0]
        if rows <= smallest:
            return least * max(rows, 1) / smallest * _US
        return max(least, base + slope * math.log(rows)) * _US

    def _line(self) -> tuple[float, float]:
        points = sorted(self.search_points)
        if len(points) == 1:
            rows, us = points[0]
            return us / math.log(max(rows, 3)), 0.0  # in proportion to ln(rows), for want of a second size
        x, y = np.log([rows for rows, _ in points]), np.array([us for _, us in points])
        slope, base = np.polyfit(x, y, 1).tolist()
        return max(0.0, slope), base if slope > 0 else float(y.mean())

    @property
    def largest_measured(self) -> int:
        """Rows beyond which `search_s` is an extrapolation."""
        return max(rows for rows, _ in self.search_points)

    def write(self, path: Path) -> None:
        """As JSON, moved into place."""
        temporary = path.with_name(f".{path.name}.part")
        temporary.write_text(self.model_dump_json(indent=1) + "\n", encoding="utf-8")
        temporary.replace(path)


def read_costs(path: Path, overrides: Sequence[str] = ()) -> Costs:
    """The costs of a file, some replaced by `name=number`; InvalidParams names the file or the pair at fault."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidParams(f"cannot read {path}: {(error.strerror or str(error)).lower()}") from None
    except ValueError as error:
        raise InvalidParams(f"{path} is not JSON ({error}): give a file that --calibrate wrote") from None
    for pair in overrides:
        name, sign, number = pair.partition("=")
        try:
            values[name] = float(number) if sign else None
        except ValueError:
            values[name] = None
        if values[name] is None:
            raise InvalidParams(f"--cost {pair!r} is not name=number: write for example --cost hop_us=80")
    try:
        return Costs.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise InvalidParams(f"{path}: cost {place} is not acceptable: {first['msg'].lower()}") from None
