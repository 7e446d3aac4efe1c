"""The gate's report as a page for a person: the verdict first, why, then every figure in tables.

Knows nothing about files or limits beyond their names.
"""

from __future__ import annotations

from collections.abc import Sequence

from index_builders.gate.report import GateReport, Norms


def markdown(report: GateReport, plots: Sequence[str] = (), missing: str = "") -> str:
    """The page; plots: file names beside it; missing: why there are none. Only its last line differs between runs."""
    blocks = [_verdict(report)]
    if report.skipped:
        blocks.append("## Not judged\n\n" + "\n".join(f"- {each}" for each in report.skipped))
    blocks += [section for section in (_answers(report), _recall(report), _rows(report), _ids(report)) if section]
    blocks += [section for section in (_segments(report), _lists(report), _norms(report), _canaries(report)) if section]
    if plots:
        blocks.append("## Plots\n\n" + "\n".join(f"![{name}]({name})" for name in plots))
    elif missing:
        blocks.append(missing)
    limits = [[name, "" if value is None else f"{value}"] for name, value in report.limits.items()]
    blocks.append("## Limits\n\n" + _table(["limit", "value"], limits))
    blocks.append("Took " + ", ".join(f"{name} {seconds:.2f} s" for name, seconds in report.seconds.items()) + ".")
    return "\n\n".join(blocks) + "\n"


def _verdict(report: GateReport) -> str:
    against = f"against {report.old}" if report.old else "as a first generation"
    title = f"# Gate: {report.entity_type} {report.new} {against}: {'passed' if report.passed else 'FAILED'}"
    if report.passed:
        return f"{title}\n\nEvery limit that could be judged holds."
    lines = []
    for number, (worst, *others) in enumerate(report.by_limit(), 1):
        held = f"(`{worst.limit}`: {worst.figure:g}, limit {worst.allowed:g})"
        lines.append(f"{number}. **{worst.sentence}** {held}. Look at {worst.look_at}.")
        lines += [f"   - {each.sentence}" for each in others]
    return title + "\n\n" + "\n".join(lines)


def _answers(report: GateReport) -> str:
    if not report.comparisons:
        return ""
    rows = [
        [
            each.group,
            str(each.queries),
            f"{each.overlap_at_10:.4f}",
            f"{each.overlap_at_100:.4f}",
            f"{each.shift_mean:+.4f}",
            f"{each.shift_p01:+.4f}",
            f"{each.shift_p99:+.4f}",
        ]
        for each in report.comparisons
    ]
    head = ["queries", "count", "overlap@10", "overlap@100", "score shift", "its 1 %", "its 99 %"]
    return "## Answers against the parent's\n\n" + _table(head, rows)


def _recall(report: GateReport) -> str:
    rows = [
        [each.group, str(each.queries), f"{each.recall_at_10:.4f}", f"{each.recall_at_100:.4f}"]
        for each in report.recall
    ]
    return "## Recall of the new generation, at its default effort, against exact search\n\n" + _table(
        ["queries", "count", "recall@10", "recall@100"], rows
    )


def _rows(report: GateReport) -> str:
    rows = []
    for name, each in report.counts.items():
        reasons = ", ".join(f"{count} {reason}" for reason, count in each.reasons.items()) or "none"
        span = f"{min(each.shards)} to {max(each.shards)}"
        rows.append([name, str(each.rows_in), reasons, str(each.rows), str(len(each.shards)), span])
    return "## Rows\n\n" + _table(["generation", "read", "refused", "built", "shards", "rows per shard"], rows)


def _ids(report: GateReport) -> str:
    if report.ids is None:
        return ""
    ids = report.ids
    rows = [
        ["kept", str(ids.kept), ""],
        ["lost", str(ids.lost), ", ".join(ids.lost_examples)],
        ["new", str(ids.new), ", ".join(ids.new_examples)],
    ]
    return "## Ids\n\n" + _table(["ids", "count", "first"], rows)


def _segments(report: GateReport) -> str:
    if not report.segments:
        return ""
    rows = [[each.segment, "" if each.old is None else str(each.old), str(each.new)] for each in report.segments]
    return f"## Rows by {report.limits['segment_column']}\n\n" + _table(["segment", "parent", "new"], rows)


def _lists(report: GateReport) -> str:
    if not report.lists:
        return ""
    rows = [
        [each.shard, str(each.lists), f"{each.longest_over_mean:.2f}", f"{each.imbalance:.3f}", str(each.empty)]
        for each in report.lists
    ]
    return "## Inverted lists\n\n" + _table(["shard", "lists", "longest / mean", "imbalance", "empty"], rows)


def _norms(report: GateReport) -> str:
    rows = [[name, *_figures(each)] for name, each in report.norms.items()]
    head = ["generation", "mean", "smallest", "1 %", "median", "99 %", "largest", "repeated vectors"]
    return "## Norms of the stored vectors\n\n" + _table(head, rows)


def _figures(norms: Norms) -> list[str]:
    measured = (norms.mean, norms.smallest, norms.p01, norms.p50, norms.p99, norms.largest)
    return [*(f"{figure:.4f}" for figure in measured), f"{norms.same_vectors:.2%}"]


def _canaries(report: GateReport) -> str:
    if report.canaries is None:
        return ""
    found = report.canaries
    worst = f"; {found.worst} lost most" if found.worst else ""
    return f"## Canaries\n\n{found.recall:.4f} of the stored answers of {found.canaries} canaries came back{worst}."


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    cells = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    lines = [" | ".join(head), " | ".join("---" if not place else "---:" for place in range(len(head)))]
    return "\n".join(f"| {line} |" for line in [*lines, *(" | ".join(row) for row in cells)])
