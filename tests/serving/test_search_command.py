"""The search command's table: a catalogue's texts are data, not markup."""

import io

import numpy as np
from rich.console import Console

from retrieval.cli.search import _table
from retrieval.client import Ranking


def test_brackets_and_control_characters_are_shown_as_data() -> None:
    title = "Box [new] thing [/x]\x1b[31m"
    ranking = Ranking(
        entity_type="pin",
        entity_types=["pin"],
        ids=["[red]1[/red]"],
        scores=np.array([0.5], np.float32),
        attributes={"title": [title]},
    )
    out = io.StringIO()
    Console(file=out, width=120).print(_table(ranking, ["title"]))
    assert "Box [new] thing [/x] [31m" in out.getvalue()
    assert "[red]1[/red]" in out.getvalue()
    assert "\x1b" not in out.getvalue()
