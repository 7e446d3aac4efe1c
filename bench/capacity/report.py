"""The capacity report: its row as JSON, tables and sentences as Markdown, and one plot where matplotlib is there.

Knows nothing about how anything was measured or simulated.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from bench.capacity.costs import Costs
from bench.capacity.plan import Fleet, Plan, Target, as_row
from bench.capacity.validate import Checked

PLOT = "capacity.png"


def write_report(
    out: Path,
    *,
    target: Target,
    costs: Costs,
    assumed: dict[str, Any],
    plan: Plan,
    curve: Sequence[tuple[float, float, float]],
    checked: Sequence[Checked],
    facts: dict[str, Any],
) -> list[Path]:
    """Write rows.jsonl (one object), costs.json, report.md and the plot into the folder `out`; the files written.

    assumed: what was not measured; curve: (share of the planned rate, p50 ms, p99 ms); facts: commit, seconds,
    note (of a person, how the costs came about; may be absent).
    """
    out.mkdir(parents=True, exist_ok=True)
    row = {
        "facts": facts,
        "costs": costs.model_dump(mode="json"),
        "assumed": assumed,
        "plan": as_row(plan, target),
        "curve": [list(point) for point in curve],
        "validation": [{**asdict(each), "kept_time": each.kept_time} for each in checked],
    }
    written = [out / "rows.jsonl", out / "report.md", out / "costs.json"]
    _put(written[0], json.dumps(row) + "\n")
    costs.write(written[2])
    drawn = _plot(out / PLOT, plan, curve, target)
    _put(written[1], _markdown(target, costs, assumed, plan, checked, facts, PLOT if drawn else None))
    return [*written, *([out / PLOT] if drawn else [])]


def _put(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def _markdown(
    target: Target,
    costs: Costs,
    assumed: dict[str, Any],
    plan: Plan,
    checked: Sequence[Checked],
    facts: dict[str, Any],
    plot: str | None,
) -> str:
    beyond = target.rows_per_shard / costs.largest_measured
    lines = [
        "# Capacity",
        "",
        f"`retrieval bench capacity`, commit {facts['commit']}, seed {target.seed}. {target.rate:,.0f} requests/s over "
        f"{target.pins:,} pins and {target.products:,} products at p99 <= {target.p99_ms:g} ms. One cell is simulated "
        f"({target.requests:,} requests a point); a fleet of n cells serves n times its rate at its latency.",
        "",
        *([facts["note"], ""] if facts.get("note") else []),
        "## Answer",
        "",
        *_answer(plan, target),
        "",
        f"Read with care: the largest shard measured has {costs.largest_measured:,} rows, those planned have "
        f"{target.rows_per_shard:,}, {beyond:,.0f} times as many; their search time is a straight line in ln(rows) "
        f"({costs.search_s(target.rows_per_shard) * 1e6:.0f} us), which leaves out that a graph of that size misses "
        "the processor's caches more often. Prices, the network's round trip and the cache's hit rate are assumptions.",
        "",
        "## Ways to cut the rows into calls",
        "",
        "| shards in a call | leaf calls | requests/s of a cell | cells | leaf cores | broker cores | tower cores "
        "| hosts | p50 ms | p99 ms | $ per million |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
        *(_fleet_line(cut, fleet) for cut, fleet in plan.fleets),
        "",
        "On an idle fleet, without any waiting, the parts of a request that needs the tower take (ms):",
        "",
        "| shards in a call | tower | broker | leaf | hops and network |",
        "|---|---|---|---|---|",
        *(f"| {cut} | {' | '.join(f'{ms:.2f}' for ms in each.values())} |" for cut, each in plan.idle_ms.items()),
        "",
    ]
    if plan.best is not None:
        lines += [
            "## What breaks first",
            "",
            f"What breaks first: {plan.breaks_first}. Busy at the planned rate: {_shares(plan.best.utilisation)}. "
            "Under stress:",
            "",
            "| | p50 ms | p99 ms | keeps the bound | hedges | busy |",
            "|---|---|---|---|---|---|",
            *(
                f"| {row['what']} | {row['p50_ms']} | {row['p99_ms']} | {'yes' if row['keeps'] else 'no'} | "
                f"{100 * row['extra']:.2f} % | "
                f"{_shares({n.removesuffix('_busy'): v for n, v in row.items() if n.endswith('_busy')})} |"
                for row in plan.stress
            ),
            "",
        ]
    if plot:
        lines += [f"![latency against load, and where the cores go]({plot})", ""]
    lines += [
        "## Costs measured",
        "",
        f"On {costs.machine.get('cpu', 'a machine')}, {costs.machine.get('cores', '?')} cores, load average "
        f"{costs.machine.get('load_average', '?')} while measuring; CPU time, microseconds.",
        "",
        "| | us |",
        "|---|---|",
        *(f"| search in {rows:,} rows | {us:,.0f} |" for rows, us in costs.search_points),
        f"| leaf, per call | {costs.leaf_call_us:,.0f} |",
        f"| broker, per request | {costs.broker_call_us:,.0f} |",
        f"| broker, per leaf call | {costs.broker_leaf_us:,.0f} |",
        f"| hop: wall time of a call that nobody works | {costs.hop_us:,.0f} |",
        f"| text in the cache | {costs.cache_hit_us:,.0f} |",
        f"| tower, per batch + per text | {costs.encode_call_us:,.0f} + {costs.encode_text_us:,.0f} |",
        "",
        f"Least recall@100 of those searches {costs.recall_at_100}; coefficient of variation of a search "
        f"{costs.cv:g}; {costs.bytes_per_row:,.0f} bytes a row. Assumed: "
        + ", ".join(f"{name} {value}" for name, value in assumed.items())
        + ".",
        "",
    ]
    return "\n".join([*lines, *_validation(checked)])


def _answer(plan: Plan, target: Target) -> list[str]:
    best = plan.best
    if best is None:
        return [
            "No cut that was tried keeps the bound at any rate with these costs. What takes longest, cut best, is the "
            f"{plan.breaks_first}."
        ]
    return [
        f"**{best.cores:,} cores on {best.hosts:,} hosts** of {target.host_cores} cores and {target.host_gib:g} GiB "
        f"({best.leaf_hosts:,} for leaves, {best.broker_hosts:,} for brokers and towers), "
        f"**${best.dollars_per_million:,.2f} per million requests** at ${target.core_price:g} a core and "
        f"${target.gib_price:g} a GiB an hour. {best.shards_per_call} shards in a call, {best.calls} leaf calls a "
        f"request, {best.cells:,} cells of {best.cell_rate:,.0f} requests/s; p50 {best.p50_ms} ms, p99 {best.p99_ms} "
        f"ms, hedges {100 * best.extra:.2f} %.",
    ]


def _fleet_line(cut: int, fleet: Fleet | None) -> str:
    if fleet is None:
        return f"| {cut} | no rate keeps the bound | | | | | | | | | |"
    return (
        f"| {cut} | {fleet.calls} | {fleet.cell_rate:,.0f} | {fleet.cells:,} | {fleet.leaf_cores:,} | "
        f"{fleet.broker_cores:,} | {fleet.tower_cores:,} | {fleet.hosts:,} | {fleet.p50_ms} | {fleet.p99_ms} | "
        f"{fleet.dollars_per_million:,.2f} |"
    )


def _shares(values: dict[str, float]) -> str:
    return ", ".join(f"{name} {100 * value:.0f} %" for name, value in values.items())


def _validation(checked: Sequence[Checked]) -> list[str]:
    if not checked:
        return ["## Validation", "", "Not run: `--validate` compares the model with real servers on this machine.", ""]
    lines = [
        "## Validation",
        "",
        "The model against real servers on the same machine: four leaves, a broker and the load generator share its "
        "cores. They go before all other work where that is allowed; what other programs took all the same is the "
        "background, of which the model knows nothing.",
        "",
        "| requests/s | background | sender late, p99 ms | p50 ms | model | p99 ms | model | cores | model |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for each in checked:
        late = "" if each.kept_time else " (late)"
        lines.append(
            f"| {each.rate:g}{late} | {100 * each.background:.0f} % | {each.lag_p99_ms:.2f} | {each.p50_ms} | "
            f"{each.model_p50_ms} | {each.p99_ms} | {each.model_p99_ms} | {each.cores} | {each.model_cores} |"
        )
    kept = [each for each in checked if not each.failed]
    lines.append("")
    if kept:
        errors = {
            name: [abs(getattr(each, f"model_{name}") / getattr(each, name) - 1) for each in kept]
            for name in ("p50_ms", "p99_ms", "cores")
        }
        told = ", ".join(f"{name} {100 * float(np.median(values)):.0f} %" for name, values in errors.items())
        worst = ", ".join(f"{name} {100 * max(values):.0f} %" for name, values in errors.items())
        lines.append(
            f"Error of the model, median over the rates: {told}; worst: {worst}. Where calls left more than 1 ms late "
            "(p99), measured latencies hold the sender's delays too."
        )
    else:
        lines.append("Calls failed at every rate, so nothing is compared.")
    return [*lines, ""]


def _plot(path: Path, plan: Plan, curve: Sequence[tuple[float, float, float]], target: Target) -> bool:
    try:
        import matplotlib
    except ImportError:
        return False
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4))
    if curve:
        shares, p50, p99 = zip(*curve, strict=True)
        left.plot(shares, p99, "o-", label="p99")
        left.plot(shares, p50, "o-", label="p50")
    left.axhline(target.p99_ms, color="grey", linestyle=":", label="bound")
    left.set(xlabel="load, share of the planned rate", ylabel="latency, ms", ylim=(0, None))
    left.legend()
    cuts = [(str(cut), fleet) for cut, fleet in plan.fleets if fleet is not None]
    bottom = np.zeros(len(cuts))
    for name in ("leaf_cores", "broker_cores", "tower_cores"):
        values = np.array([getattr(fleet, name) for _, fleet in cuts], float)
        right.bar([cut for cut, _ in cuts], values, bottom=bottom, label=name.removesuffix("_cores"))
        bottom += values
    right.set(xlabel="shards in a leaf call", ylabel="cores")
    right.legend()
    figure.tight_layout()
    temporary = path.with_name(f".{path.stem}.part.png")
    figure.savefig(temporary, dpi=110)
    plt.close(figure)
    temporary.replace(path)
    return True
