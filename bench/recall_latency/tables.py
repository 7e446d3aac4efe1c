"""The tables of a report, as heads and lines of text; how they are written is for others.

For each panel the fastest point of every engine at recall 0.90, 0.95 and 0.99, and its time over that of our best:
above 1 it is slower than ours. Then what it costs to build and open, and everything that was not as it should be.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from bench.recall_latency.figures import TARGETS, Panel, Point, best_at
from bench.recall_latency.rows import Row

_OURS = "ours"
_MIB = 2**20
_LEAST_SHARE = 0.9  # of a core
_IDS = {"missing": "missing ids", "duplicates": "ids returned twice", "unknown": "unknown ids"}


@dataclass(frozen=True, kw_only=True)
class Table:
    """left: how many columns hold text; the others hold numbers."""

    head: tuple[str, ...]
    lines: list[tuple[str, ...]]
    left: int = 1

    def markdown(self) -> str:
        """As Markdown."""
        rule = ["---" if place < self.left else "---:" for place in range(len(self.head))]
        return "\n".join("| " + " | ".join(cells) + " |" for cells in (self.head, rule, *self.lines))


def panel_table(points: Sequence[Point]) -> Table:
    """Every engine of one panel at the targets; ordered by time at 0.95, then 0.90, then name."""
    best = {target: best_at(points, target) for target in TARGETS}
    ours = {target: _ours(best[target]) for target in TARGETS}
    most = max((point.queries for point in points), default=0)
    names = sorted(
        {point.name for point in points},
        key=lambda name: tuple(best[t][name].us if name in best[t] else float("inf") for t in (0.95, 0.90)) + name,
    )
    lines = []
    for name in names:
        cells = [name[0], short(name[1])]
        for target in TARGETS:
            found, reference = best[target].get(name), ours[target]
            if found is None:
                cells += [f"not reached ({max(p.recall for p in points if p.name == name):.3f})", "", ""]
                continue
            cells += [
                f"{found.us:.0f} [{found.low:.0f}, {found.high:.0f}]",
                f"{found.recall:.3f}" + (f" of {found.queries} queries" if found.queries < most else ""),
                f"{found.us / reference.us:.2f}" if reference else "",
            ]
        lines.append(tuple(cells))
    head = ["engine", "build"]
    for target in TARGETS:
        head += [f"us at ≥ {target:.2f}", "recall", "÷ ours"]
    return Table(head=tuple(head), lines=lines, left=2)


def verdict(points: Sequence[Point]) -> list[str]:
    """Who is ahead at each target, and by what ratio: a sentence each."""
    said = []
    for target in TARGETS:
        best = best_at(points, target)
        ours = _ours(best)
        theirs = sorted((p for p in best.values() if p.kind != _OURS), key=lambda p: p.us)
        if ours is None or not theirs:
            who = "no kind of ours" if ours is None else "no peer"
            said.append(f"Recall ≥ {target:.2f}: {who} reaches it in these rows.")
            continue
        ahead = [f"{p.engine} ({ours.us / p.us:.2f} times as fast)" for p in theirs if p.us < ours.us]
        first = theirs[0]
        overlap = ", within the spread of repeats" if ours.low <= first.high and first.low <= ours.high else ""
        said.append(
            f"Recall ≥ {target:.2f}: our best is {ours.engine} with {ours.us:.0f} us; "
            + (
                f"ahead of it: {', '.join(ahead)}{overlap}."
                if ahead
                else f"ahead of all {len(theirs)}, the next is {first.engine} with {first.us:.0f} us "
                f"({first.us / ours.us:.2f} times as long{overlap})."
            )
        )
    return said


def build_table(rows: Sequence[Row]) -> Table:
    """What building, keeping and opening costs: medians over repeats."""
    lines = []
    for key, group in _by(rows, ("data", "engine", "build")).items():
        built = next((row for row in group if row["build_s"] is not None), None)
        opened = [row for row in group if row["open_s"] is not None and row["first_query_ns"] is not None]
        if built is None or not opened:
            continue
        lines.append(
            (
                key[0],
                key[1],
                short(key[2]),
                _versions(built["versions"]),
                f"{built['build_s']:.1f}",
                f"{built['build_cpu_s']:.1f}",
                f"{(built['build_peak_bytes'] - built['build_base_bytes']) / _MIB:.0f}",
                f"{built['disk_bytes'] / built['n']:.0f}",
                f"{median(row['open_s'] for row in opened) * 1e3:.0f}",
                f"{median(row['first_query_ns'] for row in opened) / 1e6:.1f}",
                f"{median(row['resident_bytes'] for row in opened) / _MIB:.0f}",
            )
        )
    head = (
        "data", "engine", "build", "versions", "build s", "build CPU s", "peak MiB", "bytes per row", "open ms",
        "first query ms", "resident MiB",
    )  # fmt: skip
    return Table(head=head, lines=sorted(lines), left=4)


def fault_table(rows: Sequence[Row], points: Sequence[Point]) -> Table:
    """Whatever was not as it should be: runs that failed, with their reasons, and answers that were no good."""
    lines: set[tuple[str, ...]] = {
        (row["data"], row["engine"], short(row["build"]), row["reason"]) for row in rows if row["reason"]
    }
    groups: dict[tuple[str, str, str, int, str], list[Point]] = {}
    for point in points:  # the modes of one effort together
        groups.setdefault((point.panel.data, point.engine, point.build, point.panel.k, point.effort), []).append(point)
    for (data, engine, build, k, effort), group in groups.items():
        counts = {name: sum(getattr(point, name) for point in group) for name in ("missing", "duplicates", "unknown")}
        bad = ", ".join(f"{count:,} {_IDS[name]}" for name, count in counts.items() if count)
        if bad:
            asked = sum(point.queries * point.repeats for point in group)
            lines.add((data, engine, short(build), f"k = {k}, {short(effort)}: {bad} in {asked:,} answers"))
    lines |= _starved(points)
    return Table(head=("data", "engine", "build", "what"), lines=sorted(lines), left=4)


def _starved(points: Sequence[Point]) -> set[tuple[str, ...]]:
    """Engines that did not have their core while one thread was measured, so that their times are too long."""
    groups: dict[tuple[str, str, str], list[Point]] = {}
    for point in points:
        if point.panel.threads == 1:
            groups.setdefault((point.panel.data, point.engine, point.build), []).append(point)
    lines: set[tuple[str, ...]] = set()
    for (data, engine, build), group in groups.items():
        few = [point for point in group if point.cpu_share < _LEAST_SHARE]
        if few:
            least = min(point.cpu_share for point in few)
            what = (
                f"{len(few)} of {len(group)} settings on one thread had less than {_LEAST_SHARE:.0%} of their core in "
            )
            lines.add((data, engine, short(build), what + f"a repeat, the least {least:.0%}: others ran, or it waited"))
    return lines


def point_table(points: Sequence[Point]) -> Table:
    """Every point of one panel."""
    head = ("engine", "build", "effort", "recall", "us", "least", "greatest", "p50", "p99", "CPU", "queries", "repeats")
    lines = [
        (
            p.engine,
            short(p.build),
            short(p.effort),
            f"{p.recall:.4f}",
            *(f"{us:.1f}" for us in (p.us, p.low, p.high, p.p50, p.p99)),
            f"{p.cpu_share:.2f}",
            str(p.queries),
            str(p.repeats),
        )
        for p in points
    ]
    return Table(head=head, lines=lines, left=3)


def facts(rows: Sequence[Row]) -> list[str]:
    """What was measured, where and with which code; more than one machine or commit is said aloud."""
    said = []
    for (name, digest), group in _by(rows, ("data", "data_digest")).items():
        first = group[0]
        asked = max((row["queries"] or 0 for row in group), default=0)
        said.append(f"Data {name}: {first['n']:,} x {first['d']}, {asked} queries, SHA-256 {digest[:16]}.")
    machines = sorted({row["machine"] for row in rows})
    for text in machines:
        found = json.loads(text)
        said.append(
            f"Machine: {found['cpu']}, {found['cores']} cores, {found['memory_bytes'] / 2**30:.0f} GiB, "
            f"{found['system']}, Python {found['python']}."
        )
    commits = sorted({row["commit"] for row in rows})
    said.append(f"Commit{'s' if len(commits) > 1 else ''}: {', '.join(commits)} (+: with changes).")
    if len(machines) > 1:
        said.append("Rows come from more than one machine: times of different machines do not compare.")
    pinned = [row for row in rows if not row["reason"] and row["threads"] == 1]
    starved = sum(row["cpu_share"] < _LEAST_SHARE for row in pinned)
    if starved:
        said.append(
            f"In {starved} of {len(pinned)} measurements on one thread the process had less than {_LEAST_SHARE:.0%} of "
            "its core: where that is the machine being busy, these times are too long, by different amounts."
        )
    return said


def short(text: str) -> str:
    """JSON parameters in few letters."""
    return ", ".join(f"{name} {value}" for name, value in json.loads(text).items()) or "defaults"


def panel_points(points: Sequence[Point], panel: Panel) -> list[Point]:
    """The points of one panel."""
    return [point for point in points if point.panel == panel]


def _ours(best: dict[tuple[str, str], Point]) -> Point | None:
    return min((point for point in best.values() if point.kind == _OURS), key=lambda p: p.us, default=None)


def _versions(text: str) -> str:
    return ", ".join(f"{name} {number}" for name, number in json.loads(text).items() if name != "numpy")


def _by(rows: Sequence[Row], names: Sequence[str]) -> dict[tuple[str, ...], list[Row]]:
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in names), []).append(row)
    return dict(sorted(groups.items()))
