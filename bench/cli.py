"""`retrieval bench`: the measurements by name, and all of them in one go.

Each measurement is a module with `main(arguments)` that prints tables and ends with one JSON line.
"""

from __future__ import annotations

import importlib

import typer

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help="Measure recall and latency.")

# name -> (module, one line, arguments that keep `all` under 15 minutes on 2 cores)
MEASUREMENTS: dict[str, tuple[str, str, list[str]]] = {
    "kernel": ("bench.kernel_vs_hnswlib", "Graph search beside hnswlib on the same graph.", ["--rows", "200000"]),
    "ivfpq": ("bench.ivfpq_vs_faiss", "IVF-PQ search beside faiss with its own refine.", ["--rows", "200000"]),
    "rebuild": ("bench.rebuild", "A rebuild with 1 % changed rows beside the full build.", ["--rows", "50000"]),
    "build": ("bench.build_hnsw", "Building HNSW shards beside bare hnswlib.", ["--rows", "100000"]),
    "towers": ("bench.towers", "What one query, a batch of queries and entities cost to encode.", []),
    "encode": ("bench.encode_path", "Query texts through cache and batches, beside the tower alone.", []),
    "filters": ("bench.filters", "Filtered search beside unfiltered, both kinds.", ["--rows", "100000"]),
    "grouped": ("bench.grouped", "Concurrent searches one by one and grouped.", ["--rows", "50000"]),
    "fleet": ("bench.fleet", "A broker over leaves with one in trouble, and hedging.", []),
    "hot": ("bench.hot.main", "Hot paths beside a reference of the same run, held to a stored baseline.", []),
    "delta": (
        "bench.delta",
        "Durable upserts a second, and searches beside them.",
        ["--rows", "30000", "--seconds", "3"],
    ),
    "grpc": ("bench.grpc_overhead", "What a gRPC call costs beyond the index search.", ["--rows", "50000"]),
}


def _add(name: str, module: str, line: str) -> None:
    # each measurement parses its own arguments, --help included
    @app.command(
        name=name,
        help=line,
        add_help_option=False,
        context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    )
    def _(context: typer.Context) -> None:
        importlib.import_module(module).main(context.args)


for _name, (_module, _line, _) in MEASUREMENTS.items():
    _add(_name, _module, _line)

# as long as one lets it; its rows and their report are two commands
_add("recall-latency", "bench.recall_latency.main", "Indexes and vector databases over the same data: raw rows.")
_add("report", "bench.recall_latency.report", "Tables, plots and one HTML file from the rows of recall-latency.")
# a hundred swaps take minutes, and want a machine to themselves
_add("swaps", "bench.swaps", "Hot swaps under load: failed and mixed answers, p99 beside steady, memory.")
# trains for most of an hour on data that is not shipped, so it is no part of `all`
_add("unified", "bench.unified.main", "Train and measure every study of the unified model, and write the report.")
# a plan from the costs that its report keeps; measuring those anew wants an idle machine
_add("capacity", "bench.capacity.main", "Cores, hosts and money for a rate over so many rows, from measured costs.")
# builds 500,000 rows and searches for a rate: ten minutes by itself
_add("load", "bench.load", "Open-loop load on a server: saturation, latency, overload.")


@app.command(name="all", help="Every measurement at a size that takes minutes.")
def run_all() -> None:
    """Run every measurement, one after another."""
    for name, (module, _, arguments) in MEASUREMENTS.items():
        print(f"\n== {name} {' '.join(arguments)}", flush=True)
        importlib.import_module(module).main(arguments)
