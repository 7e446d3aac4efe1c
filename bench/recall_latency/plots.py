"""Plots of recall against time, PNG and SVG, one for each panel. Knows nothing about how rows were made."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from bench.recall_latency.figures import Panel, Point, frontier
from bench.recall_latency.tables import short
from retrieval.errors import MissingDependency

ENDINGS = ("png", "svg")
_METADATA = {"png": {"Software": None}, "svg": {"Date": None}}
_LEAST_MISS = 1e-4  # perfect recall is drawn here, since its logarithm has no place
_TICKS = (0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.999)
_MARKERS = "os^vDP*Xhd<>p"


def draw(panel: Panel, points: Sequence[Point]) -> dict[str, bytes]:
    """The plot of one panel, as bytes by file ending; equal points give equal bytes.

    Lines join what no other effort of the same engine beats; ours are thick. MissingDependency without matplotlib.
    """
    try:
        import matplotlib
    except ImportError:
        raise MissingDependency(
            "plots need matplotlib, which is not installed: pip install 'retrieval[plots]'"
        ) from None
    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "retrieval"
    from matplotlib.figure import Figure as Canvas

    canvas: Any = Canvas(figsize=(10.5, 5.5), layout="constrained")
    axes = canvas.subplots()
    names = sorted({point.name for point in points})
    several = {engine for engine, _ in names if sum(name[0] == engine for name in names) > 1}
    for number, name in enumerate(names):
        of_name = frontier([point for point in points if point.name == name])
        ours = of_name[0].kind == "ours"
        axes.plot(
            [max(_LEAST_MISS, 1 - point.recall) for point in of_name],
            [point.us for point in of_name],
            marker=_MARKERS[number % len(_MARKERS)],
            linewidth=2.6 if ours else 1.0,
            markersize=6 if ours else 4,
            color=f"C{number % 10}",
            linestyle="-" if number < 10 else "--",
            label=f"{name[0]}, {short(name[1])}" if name[0] in several else name[0],
            zorder=3 if ours else 2,
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.invert_xaxis()
    ticks = [1 - tick for tick in _TICKS]
    axes.set_xticks(ticks, labels=[f"{tick:g}" for tick in _TICKS])
    axes.minorticks_off()
    axes.set_xlim(1, _LEAST_MISS * 0.8)
    axes.set_xlabel(f"recall@{panel.k}, tie-aware")
    axes.set_ylabel("microseconds per query")
    axes.set_title(panel.title)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))
    drawn = {}
    for ending in ENDINGS:
        held = io.BytesIO()
        canvas.savefig(held, format=ending, dpi=130, metadata=_METADATA[ending])
        drawn[ending] = held.getvalue()
    return drawn
