"""Providers of metrics: what is served, memory, the certificate, and the figures that parts keep about themselves.

Each is a function made from the part's own `stats` or `describe`; the parts know nothing about metrics.
"""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from retrieval.serving.calls import Description
from retrieval.serving.operate.metrics import Provider, Reading

_KIB = 1024
_STATUS_FILE = Path("/proc/self/status")
_ROLLUP_FILE = Path("/proc/self/smaps_rollup")


def served(describe: Callable[[], Description]) -> Provider:
    """Generations, spaces and rows that are served, and how many newer generations were refused."""

    def read() -> Iterator[Reading]:
        found = describe()
        yield Reading(
            name="retrieval_info",
            help="1; the version and the space of query texts, empty without a tower",
            value=1,
            labels={"version": found.version, "query_space": found.query_space_id or ""},
        )
        for each in found.generations:
            manifest = each.manifest
            yield Reading(
                name="retrieval_generation_info",
                help="1; the generation that is served and its space",
                value=1,
                labels={"entity_type": manifest.entity_type, "generation": manifest.id, "space": manifest.space_id},
            )
            labels = {"entity_type": manifest.entity_type}
            yield Reading(name="retrieval_rows", help="Rows that are served", value=manifest.rows, labels=labels)
            yield Reading(
                name="retrieval_refused_generations",
                help="Newer generations that could not be served",
                value=len(each.refused),
                labels=labels,
            )
        for leaf in getattr(found, "leaves", ()):
            yield Reading(
                name="retrieval_leaf_serving",
                help="1 for a leaf that is asked, 0 for one that is ejected",
                value=float(leaf.state == "serving"),
                labels={"leaf": leaf.target},
            )

    return read


def memory() -> Iterator[Reading]:
    """Memory of this process as the kernel counts it; nothing where /proc does not tell."""
    try:
        resident = _bytes_of("VmRSS", _STATUS_FILE)
        proportional = _bytes_of("Pss", _ROLLUP_FILE)
    except OSError:
        return
    if resident is not None:
        yield Reading(name="retrieval_resident_bytes", help="Resident memory, shared pages in full", value=resident)
    if proportional is not None:
        yield Reading(
            name="retrieval_proportional_bytes",
            help="Resident memory, a page shared by n processes counted as 1/n; workers add up to the truth",
            value=proportional,
        )


def certificate(expires: Callable[[], float]) -> Provider:
    """Seconds until the server's certificate expires."""

    def read() -> Iterator[Reading]:
        yield Reading(
            name="retrieval_certificate_seconds",
            help="Seconds until the certificate in use expires",
            value=expires() - time.time(),
        )

    return read


def stats(prefix: str, read_stats: Callable[[], Any]) -> Provider:
    """Every number of a frozen dataclass of figures, nested ones with their field's name in front, as gauges."""

    def read() -> Iterator[Reading]:
        yield from _numbers(f"retrieval_{prefix}", read_stats())

    return read


def _numbers(prefix: str, value: Any) -> Iterator[Reading]:
    for each in dataclasses.fields(value):
        name, inner = f"{prefix}_{each.name}", getattr(value, each.name)
        if dataclasses.is_dataclass(inner):
            yield from _numbers(name, inner)
        elif isinstance(inner, int | float):
            yield Reading(name=name, help=each.name.replace("_", " "), value=float(inner))


def _bytes_of(name: str, file: Path) -> int | None:
    found = re.search(rf"^{name}:\s+(\d+) kB", file.read_text(), re.MULTILINE)
    return None if found is None else int(found[1]) * _KIB
