"""kill -9 of a server that fetches from object storage and swaps: the next one serves what is live there, whole."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from object_storage import Storage, serving
from server_lives import WAIT_S, Servers

from retrieval import client as rc
from retrieval.errors import RetrievalError
from retrieval.store import Mirror, RemoteStore, Store


@pytest.fixture(scope="module")
def storage() -> Iterator[Storage]:
    pytest.importorskip("s3fs", reason="of the extra `s3`")
    pytest.importorskip("moto", reason="of the extra `dev`")
    with serving() as found:
        yield found


class UrlServers(Servers):
    """Servers over one store in a bucket, with one local folder; they take no writes, so callers only search."""

    def __init__(self, folder: Path, storage: Storage) -> None:
        self.cache = folder / "cache"
        options = {"AWS_ENDPOINT_URL": storage.endpoint, "AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s"}
        super().__init__(folder, environment=options)
        self.where = storage.new_url()
        self.remote = RemoteStore(self.where, settings=storage.settings())
        self.mirror = Mirror(self.where, self.store, settings=storage.settings())
        for each in self.made:
            self.mirror.push("pin", each.manifest.id)
        self.remote.move_pointer("pin", self.made[0].manifest.id)
        self.line = f"{self.where} {self.stages} {self.cache}"

    def live(self) -> str:
        return self.remote.current("pin")

    def publish_other(self) -> None:
        (other,) = {each.manifest.id for each in self.made} - {self.live()}
        shutil.rmtree(self.cache / "pin" / "generations" / other, ignore_errors=True)  # so that it has to be fetched
        self.remote.move_pointer("pin", other)

    def load(self, client: rc.RetrievalClient) -> None:
        query = rc.Vector(values=self.made[0].vectors[0], space_id=self.made[0].manifest.space_id)
        while True:
            try:
                client.search(query, k=5)
                self.searches += 1
            except RetrievalError:
                return


@pytest.mark.parametrize("kills", [6, pytest.param(60, marks=pytest.mark.long)])
def test_a_killed_server_of_a_url_fetches_again_and_serves_what_is_live(
    tmp_path: Path, storage: Storage, kills: int
) -> None:
    servers = UrlServers(tmp_path, storage)
    try:
        servers.swap_s()  # the first one imports what speaks to the storage
        whole_s = servers.swap_s()
        stages: Counter[str] = Counter()
        for _ in range(kills):
            stages[servers.kill(float(servers.rng.uniform(0, 0.9 * whole_s)), swap=True)] += 1
            local = Store(servers.cache)
            for name in local.generations("pin"):  # whatever lies there under its name is whole
                local.open("pin", name)
        child, address = servers.start()
        with rc.RetrievalClient(address) as client:
            servers.check(client)
            assert servers.stage() == "before"
            began = time.monotonic()
            servers.publish_other()
            while client.describe().generations[0].generation != servers.live():
                assert time.monotonic() < began + WAIT_S
                time.sleep(0.01)
            servers.check(client)
        os.kill(child, signal.SIGKILL)
    finally:
        servers.close()
    assert servers.searches > kills
    assert not list((servers.cache / "pin").rglob("*.tmp"))
    print(f"{kills} kills within {whole_s:.2f} s: {dict(stages)}; {servers.searches} searches answered")
