"""Leaves by DNS name: found at the start, followed as the addresses change, kept while the name cannot be resolved."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_fleet import LeafProcess
from tiny_store import SPACE, make_store, make_vectors

from retrieval.errors import InvalidParams
from retrieval.serving.calls import VectorQuery, Wanted
from retrieval.serving.config import make_settings
from retrieval.serving.engine import Engine
from retrieval.serving.fleet.broker import Broker
from retrieval.serving.fleet.targets import Target, Targets
from retrieval.serving.swap.load import load_store

D = 8


class Names:
    """A name server of one name; an exception stands for its failure."""

    def __init__(self, *addresses: str) -> None:
        self.addresses: list[str] = list(addresses)
        self.failing = False
        self.asked = 0

    def __call__(self, name: str, port: int) -> list[str]:
        self.asked += 1
        if self.failing:
            raise OSError("server failure")
        return list(self.addresses)


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_addresses_come_and_go(caplog: pytest.LogCaptureFixture) -> None:
    names = Names("10.0.0.1", "10.0.0.2")
    targets = Targets("dns:leaf:80, fixed:81; 10.0.0.1:80", names)
    first, second = Target("10.0.0.1:80", "leaf"), Target("10.0.0.2:80", "leaf")
    assert targets.known() == [first, second, Target("fixed:81")]
    names.addresses = ["10.0.0.2", "fd00::3"]
    assert targets.look() == [second, Target("[fd00::3]:80", "leaf"), Target("fixed:81"), Target("10.0.0.1:80")]
    names.failing = True
    with caplog.at_level(logging.WARNING):
        assert targets.look() == targets.look() == targets.known()
    assert [each.message for each in caplog.records] == [
        "the name leaf cannot be resolved (server failure): its last addresses stay"
    ]
    names.failing, names.addresses = False, []
    assert len(targets.look()) == 4  # a name without any address is a name server's fault more often than the truth
    assert not Targets("fixed:81").has_names


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("dns:leaf:80", r"the name 'leaf' cannot be resolved \(server failure\): check shards = 'dns:leaf:80'"),
        ("dns:leaf", "leaf 'dns:leaf' has no host and port: write host:port, or dns:name:port"),
        ("leaf:70000", "leaf 'leaf:70000' has no host and port"),
        (" ; ,", "a broker has no leaves: name them with --shards"),
    ],
)
def test_a_start_needs_good_names(text: str, sentence: str) -> None:
    names = Names()
    names.failing = True
    with pytest.raises(InvalidParams, match=sentence):
        Targets(text, names)


def test_a_broker_follows_a_name(tmp_path: Path) -> None:
    make_store(tmp_path, 60, D, 2)
    served = load_store(make_settings(store=tmp_path))
    port = (here := LeafProcess(served)).port
    there = LeafProcess(served, port, host="127.0.0.2")
    names = Names("127.0.0.1")
    settings = make_settings(
        role="broker", shards=f"dns:leaves:{port}", probe_interval_seconds=0.05, resolve_interval_seconds=0.05
    )
    broker = Broker(settings, resolve=names)
    engine = Engine(broker.load())
    engine.follow(broker)
    query = VectorQuery(values=make_vectors(1, D)[0], space_id=SPACE)

    def targets() -> list[str]:
        return [leaf.target for leaf in engine.describe().leaves]

    try:
        assert targets() == [f"127.0.0.1:{port}"]
        names.addresses = ["127.0.0.1", "127.0.0.2"]
        wait_until(lambda: len(targets()) == 2 and all(leaf.parts for leaf in broker.leaves))
        names.addresses = ["127.0.0.2"]
        wait_until(lambda: targets() == [f"127.0.0.2:{port}"])
        time.sleep(0.1)
        here.stop()
        for _ in range(5):
            assert engine.search(query, Wanted(k=3)).sources[0].coverage == 1
        names.failing, asked = True, names.asked
        wait_until(lambda: names.asked > asked + 2)
        assert targets() == [f"127.0.0.2:{port}"]
    finally:
        engine.close()
        here.stop()
        there.stop()
