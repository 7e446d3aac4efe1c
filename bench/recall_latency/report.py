"""`retrieval bench report DIR`: rows of DIR/rows as report.md, plots and one HTML file that needs no other.

The same rows give the same bytes. Knows nothing about how rows were made.
"""

from __future__ import annotations

import base64
import html
import json
import os
from collections.abc import Sequence
from pathlib import Path

from bench.arguments import parser_of
from bench.recall_latency.figures import Panel, Point, panels_of, points_of
from bench.recall_latency.plots import draw
from bench.recall_latency.rows import Row, of_one_setting, read_all
from bench.recall_latency.tables import (
    Table,
    build_table,
    facts,
    fault_table,
    panel_points,
    panel_table,
    point_table,
    verdict,
)
from retrieval.errors import StoreError

_TITLE = "Recall against latency"
_NOTES = (
    "Recall is computed by the harness from the returned ids: exact inner products against the true k-th score, so "
    "that ties count; an id returned twice counts once, an unknown one not at all. All data are compared by cosine, "
    "whatever metric their publisher names.",
    "us: microseconds per query, the mean over queries (single) or the median of three calls (batch); the median over "
    "repeats [least, greatest]. Engines take turns repeat by repeat, each run in a process of its own, pinned to one "
    "core where it says one thread. Each cell is the fastest measured effort that reaches the recall; ÷ ours: its time "
    "over that of our fastest kind, above 1 is slower than ours. An engine too slow for all queries in the time of a "
    "setting was asked fewer, and its recall is of those.",
)
_BUILD_NOTE = (
    "Built with all cores. Peak: memory of the building process and those that it started, above what it held before "
    "(libraries and the vectors). Open and first query: in a fresh process, files dropped from the page cache where "
    "the file system allows. Resident: after all searches."
)
_STYLE = (
    "body{font:15px/1.5 sans-serif;max-width:1200px;margin:2em auto;padding:0 1em}"
    "table{border-collapse:collapse;margin:1em 0;font-size:13px}"
    "th,td{border:1px solid #ccc;padding:2px 7px;text-align:left}td.n,th.n{text-align:right}"
    "img{max-width:100%}summary{cursor:pointer}"
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the report of the rows in a folder."""
    parser = parser_of("report", __doc__)
    parser.add_argument("folder", type=Path, help="what `retrieval bench recall-latency --out` wrote")
    args = parser.parse_args(arguments)
    found = read_all(args.folder)
    rows = of_one_setting(found)
    if len(rows) < len(found):
        print(f"{len(found) - len(rows)} rows of earlier settings are left out: they do not belong to the same repeats")
    written = write_report(args.folder, rows)
    print((args.folder / "report.md").read_text(encoding="utf-8"))
    print(json.dumps({"rows": len(rows), "written": [str(path) for path in written]}))


def write_report(folder: Path, rows: Sequence[Row]) -> list[Path]:
    """Write report.md, report.html and plots/ of these rows; MissingDependency without matplotlib.

    Raises StoreError when a file cannot be written.
    """
    points = points_of(rows)
    panels = panels_of(points)
    plots = {panel: draw(panel, panel_points(points, panel)) for panel in panels}
    files = {folder / "report.md": _markdown(rows, points, panels).encode()}
    for panel in panels:
        for ending, drawn in plots[panel].items():
            files[folder / "plots" / f"{panel.file}.{ending}"] = drawn
    images = {panel: drawn["png"] for panel, drawn in plots.items()}
    files[folder / "report.html"] = _page(rows, points, images).encode()
    for path, data in files.items():
        partial = path.with_name(f".{path.name}.partial")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            partial.write_bytes(data)
            os.replace(partial, path)
        except OSError as error:
            raise StoreError(f"cannot write {path}: {error.strerror}") from error
    return list(files)


def _markdown(rows: Sequence[Row], points: Sequence[Point], panels: Sequence[Panel]) -> str:
    parts = [f"# {_TITLE}", "\n".join(f"- {line}" for line in facts(rows)), *_NOTES]
    for panel in panels:
        chosen = panel_points(points, panel)
        parts += [
            f"## {panel.title}",
            "\n".join(f"- {line}" for line in verdict(chosen)),
            panel_table(chosen).markdown(),
            f"![{panel.title}](plots/{panel.file}.svg)",
        ]
    parts += ["## Building and opening", _BUILD_NOTE, build_table(rows).markdown()]
    faults = fault_table(rows, points)
    parts += ["## What was not as it should be", faults.markdown() if faults.lines else "Nothing."]
    return "\n\n".join(parts) + "\n"


def _page(rows: Sequence[Row], points: Sequence[Point], images: dict[Panel, bytes]) -> str:
    parts = [f"<h1>{_TITLE}</h1>", _list(facts(rows)), *(f"<p>{html.escape(note)}</p>" for note in _NOTES)]
    for panel, image in images.items():
        chosen = panel_points(points, panel)
        title = html.escape(panel.title)
        data = base64.b64encode(image).decode()
        parts += [
            f"<h2>{title}</h2>",
            _list(verdict(chosen)),
            f'<img alt="{title}" src="data:image/png;base64,{data}">',
            _table(panel_table(chosen)),
            f"<details><summary>All {len(chosen)} points</summary>{_table(point_table(chosen))}</details>",
        ]
    parts += ["<h2>Building and opening</h2>", f"<p>{html.escape(_BUILD_NOTE)}</p>", _table(build_table(rows))]
    faults = fault_table(rows, points)
    parts += ["<h2>What was not as it should be</h2>", _table(faults) if faults.lines else "<p>Nothing.</p>"]
    head = f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{_TITLE}</title><style>{_STYLE}</style>'
    return head + "</head><body>\n" + "\n".join(parts) + "\n</body></html>\n"


def _table(table: Table) -> str:
    def cells(tag: str, line: Sequence[str]) -> str:
        marks = ["" if place < table.left else ' class="n"' for place in range(len(line))]
        return "".join(f"<{tag}{mark}>{html.escape(text)}</{tag}>" for mark, text in zip(marks, line, strict=True))

    body = "\n".join(f"<tr>{cells('td', line)}</tr>" for line in table.lines)
    return f"<table><tr>{cells('th', table.head)}</tr>\n{body}</table>"


def _list(lines: Sequence[str]) -> str:
    return "<ul>" + "".join(f"<li>{html.escape(line)}</li>" for line in lines) + "</ul>"


if __name__ == "__main__":
    main()
