"""What the file of a lease says: who holds it, with which fence, and how to see that a holder on this machine died."""

from __future__ import annotations

import os
import socket
import uuid
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from retrieval.store.place import Held

LEASE_FILE = "lease.json"


class LeaseRecord(BaseModel):
    """One state of a lease. token: of one taking; beat: renewals; fence: takings so far; held_s: by its own clock."""

    model_config = ConfigDict(frozen=True)  # what a later version adds is passed over

    token: str
    fence: int = Field(ge=0)
    beat: int = Field(default=0, ge=0)
    held: bool = True
    held_s: float = 0.0
    lease_s: float | None = Field(default=None, gt=0, le=3600)
    owner: str = "an unknown job"
    host: str = "an unknown host"
    process: int = 0
    machine: str = ""  # boot and process namespace, so that a process number means something
    started: str = ""  # start of the process, since numbers come back

    def to_bytes(self) -> bytes:
        """JSON with a last newline."""
        return (self.model_dump_json(indent=1) + "\n").encode()


def own_record(owner: str, lease_s: float, *, fence: int) -> LeaseRecord:
    """The record of a taking by this process."""
    return LeaseRecord(
        token=uuid.uuid4().hex,
        fence=fence,
        lease_s=lease_s,
        owner=owner,
        host=socket.gethostname(),
        process=os.getpid(),
        machine=_machine(),
        started=_started(os.getpid()) or "",
    )


def read_record(held: Held | None) -> LeaseRecord | None:
    """What a lease file says; one that cannot be read counts as held by somebody unknown. None when there is none."""
    if held is None:
        return None
    try:
        return LeaseRecord.model_validate_json(held.data)
    except ValidationError:
        return LeaseRecord(token="", fence=0)


def is_gone(record: LeaseRecord) -> bool:
    """Whether the holder is a process of this very machine that has ended; False where that cannot be known."""
    if not record.machine or record.machine != _machine():
        return False
    return _started(record.process) != record.started


def _machine() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return ""


def _started(process: int) -> str | None:
    """When a process began, in ticks since boot; None when there is none or it is a zombie."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
    except (OSError, IndexError):
        return None
    return None if fields[0] in {"Z", "X"} else fields[19]
