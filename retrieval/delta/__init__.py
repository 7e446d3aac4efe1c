"""The delta: entities written since the live generation was built, durable in a log, searched beside its shards.

A write goes to the write-ahead log of its entity type (`log`), is read back by every process that serves the type
(`reader`) and applied to a small index in memory (`live`). The next rebuild folds the log into its shards (`fold`) and
says in its manifest up to which write. Knows nothing about gRPC, shards of generations or query texts.
"""

from retrieval.delta.fold import Folded, fold
from retrieval.delta.live import LiveDelta, Snapshot
from retrieval.delta.log import DeltaLog, FsyncPolicy, trim
from retrieval.delta.reader import LogReader
from retrieval.delta.records import Deletes, Entry, Header, Upserts, Write

__all__ = [
    "Deletes",
    "DeltaLog",
    "Entry",
    "Folded",
    "FsyncPolicy",
    "Header",
    "LiveDelta",
    "LogReader",
    "Snapshot",
    "Upserts",
    "Write",
    "fold",
    "trim",
]
