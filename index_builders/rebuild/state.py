"""What a job remembers from its last run: the digest of its inputs, the columns it saw, the generation they made.

One small file, replaced atomically after publishing. Where it is lost or damaged the next run does everything again and
comes to the same result. Knows nothing about what the inputs are.
"""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from index_builders.staging import write_atomically, writing
from retrieval.errors import InvalidData

STATE_FILE = "state.json"


class State(BaseModel):
    """inputs: digest of everything the result depends on; columns: type of every column of the source, in words."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    inputs: str = ""
    generation: str = ""
    rows: int = 0
    columns: dict[str, str] = Field(default_factory=dict)


def read_state(work: Path) -> State:
    """The state in folder `work`; an empty one when there is none that can be read."""
    try:
        return State.model_validate_json((work / STATE_FILE).read_bytes())
    except (OSError, ValidationError):
        return State()


def write_state(work: Path, state: State) -> None:
    """Replace the state; StoreError when the disk refuses."""
    with writing(work / STATE_FILE):
        write_atomically(work / STATE_FILE, state.model_dump_json(indent=1).encode())


def dimension(kind: str) -> int | None:
    """The dimension that a column's type, in words, declares; None for one that declares none."""
    found = re.fullmatch(r"fixed_size_list<.*>\[(\d+)\]", kind)
    return int(found[1]) if found else None


def check_columns(was: dict[str, str], now: dict[str, str], source: str, embedding: str) -> None:
    """InvalidData when a column that the last run saw is gone or of another type; a new column is fine.

    Another dimension of the column `embedding` is no matter of columns: whoever knows the spaces judges it.
    """
    for name, kind in was.items():
        if name not in now:
            raise InvalidData(
                f"column {name!r} ({kind}) of {source} is gone since the last run, which leaves: {', '.join(now)}; "
                "bring it back, or accept the new columns with --new-columns"
            )
        dimensions = dimension(kind), dimension(now[name])
        if name == embedding and None not in dimensions and dimensions[0] != dimensions[1]:
            continue
        if now[name] != kind:
            raise InvalidData(
                f"column {name!r} of {source} was {kind} in the last run and is {now[name]} now: mend the source, or "
                "accept the new columns with --new-columns"
            )
