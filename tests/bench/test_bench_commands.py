"""The measurements run by name and end with one JSON line."""

import importlib
import json

import pytest

from bench.cli import MEASUREMENTS
from bench.data import clustered, clustered_queries


@pytest.mark.parametrize("name", MEASUREMENTS)
def test_a_measurement_takes_the_arguments_that_all_gives_it(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    module, _, arguments = MEASUREMENTS[name]
    with pytest.raises(SystemExit) as ended:
        importlib.import_module(module).main([*arguments, "--help"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("usage: ")


def test_a_small_measurement_ends_with_its_figures(capsys: pytest.CaptureFixture[str]) -> None:
    importlib.import_module("bench.build_hnsw").main(["--rows", "2000", "--d", "16", "--shards", "2", "--workers", "2"])
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert figures["rows"] == 2000
    assert figures["ratio"] > 0
    assert figures["sample_recall"] > 0.9


def test_generated_data_is_seeded_unit_and_held_out() -> None:
    x, again, q = clustered(500, 24, seed=3), clustered(500, 24, seed=3), clustered_queries(50, 24, seed=3)
    assert x.tobytes() == again.tobytes()
    assert x.tobytes() != clustered(500, 24, seed=4).tobytes()
    assert abs((x**2).sum(axis=1) - 1).max() < 1e-5
    assert (q @ x.T).max() < 1 - 1e-6  # no query is a row
