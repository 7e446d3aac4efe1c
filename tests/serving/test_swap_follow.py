"""A server that follows its store: takes up what is good, keeps away what is not, goes back when canaries drift."""

from __future__ import annotations

import gc
import os
import re
import weakref
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from tiny_store import SPACE, TinyGeneration, make_store, make_vectors

from retrieval.canaries import Canaries, write_canaries
from retrieval.errors import DamagedData, MissingDependency, StoreError
from retrieval.serving.calls import EntityQuery, VectorQuery, Wanted
from retrieval.serving.config import make_settings
from retrieval.serving.engine import Engine
from retrieval.serving.live_recall import LiveRecallMeter, LiveRecallSettings
from retrieval.serving.swap import load
from retrieval.serving.swap.follow import Follower
from retrieval.serving.swap.held import Held
from retrieval.serving.swap.load import load_store
from retrieval.serving.swap.taker import Taker
from retrieval.store import Generation, Store
from retrieval.store.checksums import list_files, sha256_files
from retrieval.store.generation import CANARIES_FILE
from retrieval.store.manifest import MANIFEST_FILE
from retrieval.topk import exact_search, normalise
from retrieval.types import F32, Metric

D = 8
QUERY = VectorQuery(values=np.ones(D, np.float32), space_id=SPACE)


@pytest.fixture(autouse=True)
def no_child(monkeypatch: pytest.MonkeyPatch) -> None:
    """The probing child costs a second, and is tested by itself; what it verifies is verified here."""

    def verify(generation: Generation, *, seconds: float, gently: bool = False) -> None:
        Generation.open(generation.path, only=generation.only)

    monkeypatch.setattr(load, "probe", verify)


class Clock:
    """Time that moves when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Follows:
    """An engine over a store that a follower keeps up; looks and replays when asked."""

    def __init__(self, store: Path, tower: object = None, **follow: float) -> None:
        self.settings = make_settings(store=store, follow={"watch_seconds": 600.0, **follow})
        self.store, self.clock = Store(store), Clock()
        self.engine = Engine(load_store(self.settings), tower)  # type: ignore[arg-type]
        self.held = Held(self.engine.served, keep_s=self.settings.follow.watch_seconds, clock=self.clock)
        self.follower = Follower(self.engine, self.held, self.settings, clock=self.clock)
        self.look, self.replay = self.follower.look, self.follower.replay

    @property
    def state(self):  # type: ignore[no-untyped-def]
        return self.follower.states()[0]

    @property
    def served(self) -> str:
        return self.engine.describe().generations[0].manifest.id


def add(store: Path, seed: int, **more: object) -> TinyGeneration:
    return make_store(store, 40 + seed, D, 2, seed=seed, canaries=True, **more)  # type: ignore[arg-type]


def reseal(generation: TinyGeneration) -> None:
    """Give a changed generation right checksums, as a builder with a fault would."""
    folder = generation.path
    changed = generation.manifest.model_copy(update={"files": sha256_files(folder, list_files(folder))})
    (folder / MANIFEST_FILE).write_bytes(changed.to_bytes())


def test_a_new_generation_is_served_and_the_one_before_kept_for_a_while(tmp_path: Path) -> None:
    old = add(tmp_path, 1)
    it = Follows(tmp_path)
    it.look()
    assert (it.served, it.state.swaps) == (old.manifest.id, 0)
    new = add(tmp_path, 2)
    it.look()
    assert it.served == new.manifest.id
    assert (it.state.generation, it.state.published) == (new.manifest.id, new.manifest.id)
    assert (it.state.previous, it.state.swaps, it.state.canary_recall) == (old.manifest.id, 1, 1.0)
    assert it.engine.search(QUERY, Wanted(k=5)).sources[0].generation == new.manifest.id
    it.clock.now += 601
    it.held.expire()
    assert it.state.previous == ""
    it.store.rollback("pin")
    it.look()
    assert it.served == old.manifest.id


def test_never_are_three_generations_loaded_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[weakref.ref[object]] = []
    at_once = []
    opening = load.open_shards

    def watched(*args: object, **more: object):  # type: ignore[no-untyped-def]
        gc.collect()
        shards = opening(*args, **more)  # type: ignore[arg-type]
        loaded.extend(weakref.ref(shard) for shard in shards)
        at_once.append(sum(each() is not None for each in loaded))
        return shards

    monkeypatch.setattr(load, "open_shards", watched)
    add(tmp_path, 1)
    it = Follows(tmp_path)
    for seed in (2, 3, 4):
        new = add(tmp_path, seed)
        it.look()
        assert it.served == new.manifest.id
    assert max(at_once) == 4, "two shards each of the generation that serves and of the one that is loaded"


@pytest.mark.parametrize("fault", ["flip", "missing", "canaries", "space", "crash"])
def test_a_bad_generation_is_quarantined_and_the_old_one_serves(
    tmp_path: Path, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Tower:
        space_id, d = SPACE, D
        compatible: tuple[str, ...] = ()

    old = add(tmp_path, 1)
    it = Follows(tmp_path, Tower())
    bad = add(tmp_path, 2, space_id="elsewhere" if fault == "space" else SPACE)
    file = bad.path / "shard-00001" / "vectors.npy"
    if fault == "flip":
        data = bytearray(file.read_bytes())
        data[-3] ^= 8
        file.write_bytes(data)
    elif fault == "missing":
        file.unlink()
    elif fault == "canaries":
        with np.load(bad.path / CANARIES_FILE) as stored:
            kept = dict(stored)
        np.savez(bad.path / CANARIES_FILE, **{**kept, "scores": kept["scores"] + 1})
        reseal(bad)
    elif fault == "crash":

        def crash(*arguments: object, **named: object) -> None:
            raise MemoryError("no room")

        monkeypatch.setattr(load, "open_shards", crash)
    sentence = {
        "flip": "shard-00001/vectors.npy does not match its SHA-256",
        "missing": "shard-00001/vectors.npy missing",
        "canaries": "fails its canaries: 0.000 of the stored answers came back, 0.8 are needed",
        "space": "is of space elsewhere, the checkpoint's space is tiny-space: start servers with",
        "crash": "MemoryError: no room",
    }[fault]
    it.look()
    assert it.served == old.manifest.id
    (named,) = it.state.quarantined
    assert named.startswith(bad.manifest.id)
    assert sentence in named
    assert it.engine.describe().generations[0].refused == (named,)
    assert it.state.swaps == 0
    assert len(it.engine.search(QUERY, Wanted(k=5)).rankings[0].ids) == 5
    # not tried again by itself
    tried = []
    monkeypatch.setattr(Taker, "take_up", lambda *a: tried.append(1))
    it.look()
    assert tried == []
    monkeypatch.undo()
    # a good one lifts it
    good = add(tmp_path, 3)
    it.look()
    assert it.served == good.manifest.id
    assert it.state.quarantined == ()
    assert it.engine.describe().generations[0].refused == ()
    it.follower.close()  # the good one was really probed


def test_a_person_who_asks_has_it_tried_again(tmp_path: Path) -> None:
    add(tmp_path, 1)
    it = Follows(tmp_path)
    bad = add(tmp_path, 2)
    file = bad.path / "shard-00000" / "vectors.npy"
    right = file.read_bytes()
    file.write_bytes(right[:-1])
    it.look()
    file.write_bytes(right)
    it.look()
    assert it.served != bad.manifest.id
    it.follower._quarantine.lift_all()  # what the follower's thread does when asked
    it.look()
    assert it.served == bad.manifest.id


def test_what_was_refused_at_the_start_is_not_tried_at_the_first_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = add(tmp_path, 1)
    bad = add(tmp_path, 2)
    (bad.path / "shard-00000" / "vectors.npy").unlink()
    it = Follows(tmp_path)
    monkeypatch.setattr(Taker, "take_up", lambda *a: pytest.fail("tried again"))
    it.look()
    assert it.served == old.manifest.id
    assert it.state.quarantined[0].startswith(bad.manifest.id)


def test_a_store_that_cannot_be_read_is_trouble_and_no_quarantine(tmp_path: Path) -> None:
    add(tmp_path, 1)
    it = Follows(tmp_path)
    new = add(tmp_path, 2)
    pointer = tmp_path / "pin" / "CURRENT"
    right = pointer.read_text()
    pointer.write_text("garbage")
    it.look()
    assert "does not name a generation: 'garbage'" in it.state.trouble
    assert it.state.quarantined == ()
    pointer.write_text(right)
    it.look()
    assert (it.served, it.state.trouble) == (new.manifest.id, "")


@pytest.mark.parametrize("trouble", [StoreError("the probing process was killed"), MissingDependency("no faiss")])
def test_a_probe_without_a_verdict_is_trouble_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: Exception
) -> None:
    old = add(tmp_path, 1)
    it = Follows(tmp_path)
    new = add(tmp_path, 2)

    def fail(*_: object, **__: object) -> None:
        raise trouble

    with monkeypatch.context() as patch:
        patch.setattr(load, "probe", fail)
        it.look()
    assert (it.served, it.state.quarantined, it.state.trouble) == (old.manifest.id, (), str(trouble))
    it.look()
    assert (it.served, it.state.trouble) == (new.manifest.id, "")


def spoil(it: Follows) -> None:
    """From now on the shards of what is served answer with other scores."""
    for shard in it.held.current["pin"].shards:
        search = shard.search

        def wrong(*arguments: object, _search=search, **named: object):  # type: ignore[no-untyped-def]
            hits = _search(*arguments, **named)
            hits.scores[:] -= 0.5
            return hits

        shard.search = wrong  # type: ignore[method-assign]


def test_drift_in_the_first_minutes_goes_back_and_later_only_warns(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    old = add(tmp_path, 1)
    it = Follows(tmp_path)
    new = add(tmp_path, 2)
    it.look()
    it.replay()
    assert (it.state.alarm, it.state.canary_recall) == ("", 1.0)
    spoil(it)
    it.replay()
    assert it.served == old.manifest.id
    assert it.state.rollbacks == 1
    (named,) = it.state.quarantined
    assert named.startswith(f"{new.manifest.id}: 0.0")
    assert "of the stored answers came back, 1.000 did before the swap" in named
    assert f"back to generation {old.manifest.id} from {new.manifest.id}, which is quarantined" in caplog.text
    assert it.store.current("pin") == new.manifest.id  # a server does not publish
    it.look()
    assert it.served == old.manifest.id
    it.replay()
    assert it.state.alarm == ""
    spoil(it)
    it.replay()
    assert "of the stored answers came back, 0.8 are needed" in it.state.alarm
    assert (it.served, it.state.rollbacks) == (old.manifest.id, 1)


def test_where_fresh_entities_cannot_be_laid_over_nothing_changes_and_it_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refusing(served: object) -> None:
        raise DamagedData("the log is damaged at byte 7")

    old = add(tmp_path, 1)
    it = Follows(tmp_path)
    new = add(tmp_path, 2)
    other = add(tmp_path, 3, entity_type="shop")
    with monkeypatch.context() as patched:
        patched.setattr(it.engine, "put", refusing)
        it.look()
    assert (it.served, it.state.generation) == (old.manifest.id, old.manifest.id)
    assert (it.state.trouble, it.state.quarantined) == ("the log is damaged at byte 7", ())
    assert it.follower.states()[1].published == other.manifest.id  # the next type was looked at, too
    it.look()
    assert (it.served, it.state.trouble) == (new.manifest.id, "")
    spoil(it)
    with monkeypatch.context() as patched:
        patched.setattr(it.engine, "put", refusing)
        it.replay()
    assert (it.served, it.state.generation, it.state.rollbacks) == (new.manifest.id, new.manifest.id, 0)
    assert f"pin cannot go back from {new.manifest.id}: the log is damaged at byte 7" in caplog.text
    it.replay()
    assert (it.served, it.state.generation, it.state.rollbacks) == (old.manifest.id, old.manifest.id, 1)


def test_what_a_bad_generation_took_the_room_of_is_loaded_again_to_go_back_to(tmp_path: Path) -> None:
    old = add(tmp_path, 1)
    it = Follows(tmp_path)
    new = add(tmp_path, 2)
    it.look()
    bad = add(tmp_path, 3)
    (bad.path / "shard-00001" / "vectors.npy").unlink()
    it.look()
    assert (it.served, it.state.previous) == (new.manifest.id, "")
    spoil(it)
    it.replay()
    assert (it.served, it.state.generation, it.state.rollbacks) == (old.manifest.id, old.manifest.id, 1)
    assert [named.partition(":")[0] for named in it.state.quarantined] == [new.manifest.id, bad.manifest.id]
    it.look()
    assert it.served == old.manifest.id


def test_a_tower_that_drifts_is_an_alarm(tmp_path: Path) -> None:
    class Tower:
        space_id, d = SPACE, D
        compatible: tuple[str, ...] = ()
        turned = 0.0

        def encode(self, texts: Sequence[str]) -> F32:
            x = np.stack([np.random.default_rng(len(text)).standard_normal(D) for text in texts]).astype(np.float32)
            return normalise(x + self.turned)

    tower, texts = Tower(), tuple("x" * (1 + number) for number in range(20))
    old = add(tmp_path, 1)
    queries = tower.encode(texts)
    best = exact_search(queries, old.vectors, 3, Metric.COSINE)[1]
    write_canaries(old.path / CANARIES_FILE, Canaries(queries=queries, scores=best, texts=texts, space_id=SPACE))
    reseal(old)
    it = Follows(tmp_path, tower)
    it.replay()
    assert (it.state.alarm, it.state.canary_recall) == ("", 1.0)
    tower.turned = 0.5
    it.replay()
    assert re.match(r"\d+ of 16 texts get another vector than the build's", it.state.alarm)
    tower.turned = 0.0
    it.replay()
    assert it.state.alarm == ""


def test_live_recall_begins_anew_with_a_generation(tmp_path: Path) -> None:
    add(tmp_path, 1)
    it = Follows(tmp_path)
    it.engine.live = LiveRecallMeter(LiveRecallSettings(share=1.0), start=False)
    it.engine.search(QUERY, Wanted(k=5))
    assert it.engine.live.work()
    it.engine.search(QUERY, Wanted(k=5))
    add(tmp_path, 2)
    it.look()
    assert it.engine.live.measured() == ()
    assert not it.engine.live.work()


def test_one_that_moved_on_meanwhile_is_not_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = add(tmp_path, 1)
    it = Follows(tmp_path)
    add(tmp_path, 2)
    take_up = Taker.take_up

    def slow(taker: Taker, *arguments: object):  # type: ignore[no-untyped-def]
        it.store.publish("pin", old.manifest.id)
        return take_up(taker, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Taker, "take_up", slow)
    it.look()
    assert (it.served, it.state.swaps) == (old.manifest.id, 0)


def test_a_new_entity_type_is_taken_up(tmp_path: Path) -> None:
    add(tmp_path, 1)
    it = Follows(tmp_path)
    add(tmp_path, 2, entity_type="product")
    told = []
    it.follower.changed = told.append
    it.look()
    assert told == ["product"]
    assert [each.entity_type for each in it.engine.search(QUERY, Wanted(k=5)).sources] == ["pin", "product"]


def maps(folder: Path) -> list[str]:
    return [line for line in Path("/proc/self/maps").read_text().splitlines() if f"{folder}{os.sep}" in line]


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="the kernel does not tell what is mapped")
def test_files_of_the_old_generation_are_closed_when_the_last_call_ends(tmp_path: Path) -> None:
    old = make_store(tmp_path, 300, D, 2, "string", "hnsw", seed=1, canaries=True)
    it = Follows(tmp_path, watch_seconds=0.0)
    assert maps(old.path)
    in_flight = dict(it.engine.served)  # what a call took at its start
    make_store(tmp_path, 301, D, 2, "string", "hnsw", seed=2, canaries=True)
    gc.disable()  # nothing may depend on the collector
    try:
        it.look()
        it.held.expire()
        assert maps(old.path)
        in_flight.clear()
        assert maps(old.path) == []
    finally:
        gc.enable()


def test_a_call_takes_what_it_answers_from_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = np.arange(60, dtype=np.int64)
    x = make_vectors(60, D, seed=3)
    make_store(tmp_path, 60, D, 2, vectors=x, ids=ids, seed=1)
    it = Follows(tmp_path)
    old = it.served
    make_store(tmp_path, 60, D, 2, vectors=x[::-1].copy(), ids=ids, seed=2, space_id="another")
    from retrieval.serving import asked

    checked = asked.check_search

    def swapping(*arguments: object) -> None:  # in the midst of a call
        checked(*arguments)  # type: ignore[arg-type]
        it.look()

    monkeypatch.setattr(asked, "check_search", swapping)
    entity = EntityQuery(entity_type="pin", id=7)
    answer = it.engine.search(entity, Wanted(k=1, attributes=("title",)))
    assert it.served != old
    assert answer.sources[0].generation == old
    assert (answer.rankings[0].ids.tolist(), answer.query_space_id) == ([7], SPACE)
    Store(tmp_path).rollback("pin")
    told = it.engine.explain(entity, entity, Wanted(k=3))
    assert told.source.generation != old
