"""Histograms of the gate as PNG, by matplotlib where it is installed. Knows nothing about what they mean."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from index_builders.gate.report import Histogram

NO_MATPLOTLIB = "No plots: matplotlib is not installed (pip install 'retrieval[plots]')."


def write_plots(histograms: Sequence[Histogram], folder: Path) -> tuple[list[Path], str]:
    """One PNG per histogram into `folder`; with a sentence instead when there is no matplotlib."""
    if not histograms:  # loading matplotlib takes longer than judging a small change
        return [], ""
    try:
        import matplotlib
    except ImportError:
        return [], NO_MATPLOTLIB
    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    paths = []
    for histogram in histograms:
        canvas: Any = Figure(figsize=(6, 3.5), layout="constrained")
        axes = canvas.subplots()
        edges = np.array(histogram.edges)
        for name, counts in histogram.counts.items():
            shares = np.array(counts) / max(1, sum(counts))
            axes.stairs(shares, edges, label=f"{name} ({sum(counts)})", fill=False, linewidth=1.5)
        axes.set_title(histogram.title)
        axes.set_xlabel(histogram.unit)
        axes.set_ylabel("share of the counted")
        axes.legend(fontsize="small")
        path = folder / (re.sub(r"[^a-z0-9]+", "-", histogram.title.lower()) + ".png")
        partial = path.with_name(f".{path.stem}.partial.png")
        canvas.savefig(partial, dpi=110, metadata={"Software": None})
        os.replace(partial, path)
        paths.append(path)
    return paths, ""
