"""Of two jobs one holds the lease, a dead one's runs out, who lost it publishes nothing; on every kind of place."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

import pytest
from object_storage import Storage

from retrieval.errors import FailedPrecondition, InvalidArgument, StoreError
from retrieval.store import Lease
from retrieval.store.bucket import BucketPlace
from retrieval.store.folder import FolderPlace
from retrieval.store.lease_record import LEASE_FILE, own_record, read_record
from retrieval.store.place import Held, Place, RemoteSettings, open_place


@pytest.fixture(params=["folder", "memory", "s3"])
def home(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "folder":
        return FolderPlace(tmp_path / "store" / "pin")
    if request.param == "memory":
        return open_place(f"memory://{uuid.uuid4().hex}/pin")
    storage: Storage = request.getfixturevalue("storage")
    return open_place(storage.new_url() + "/pin", storage.settings())


def foreign(home: Place, lease_s: float, *, owner: str = "rebuild", beat: int = 0) -> None:
    """Write the lease of a job on another machine."""
    record = own_record(owner, lease_s, fence=7).model_copy(
        update={"machine": "elsewhere", "host": "far", "process": 12, "held_s": 45.0, "beat": beat}
    )
    held = home.read(LEASE_FILE)
    written = (
        home.create(LEASE_FILE, record.to_bytes())
        if held is None
        else home.replace(LEASE_FILE, record.to_bytes(), held)
    )
    assert written is not None


def test_taken_checked_and_given_back(home):
    with Lease(home, owner="one") as first:
        first.check()
        assert first.fence == 1
        assert read_record(home.read(LEASE_FILE)).held
    assert not read_record(home.read(LEASE_FILE)).held
    began = time.monotonic()
    with Lease(home, owner="two") as second:
        assert second.fence == 2
    assert time.monotonic() - began < 5  # nothing to wait out


def test_a_living_job_is_named(home):
    wanted = r"rebuild is at work on .*\(process \d+ on .+, for \d s\): wait"
    with Lease(home, owner="rebuild", lease_s=1.5), pytest.raises(FailedPrecondition, match=wanted):
        Lease(home, owner="other", lease_s=1.5).acquire()


def test_a_dead_job_is_waited_out_by_the_observers_clock(home):
    foreign(home, 0.5)
    began = time.monotonic()
    with Lease(home, owner="next", lease_s=5.0) as lease:
        assert time.monotonic() - began >= 0.5
        assert lease.fence == 8
        lease.check()


def test_a_job_that_lost_its_lease_publishes_nothing(home):
    with Lease(home, owner="slow", lease_s=30.0) as lease:
        foreign(home, 30.0, owner="quick")
        with pytest.raises(FailedPrecondition, match=r"slow has lost its lease of .* \(quick, process 12 on far, has"):
            lease.check()
        with pytest.raises(FailedPrecondition, match="slow has lost its lease"):
            lease.check()
    assert read_record(home.read(LEASE_FILE)).owner == "quick"  # what is another's is not given back


def test_a_job_that_slept_knows_it_without_asking(tmp_path):
    now = [100.0]
    lease = Lease(tmp_path, owner="sleeper", lease_s=3600.0, clock=lambda: now[0]).acquire()
    lease.check()
    now[0] += 3300.0
    with pytest.raises(FailedPrecondition, match=r"could not be renewed for 3240\.0 s\), so it publishes nothing"):
        lease.check()
    lease.release()


def test_renewals_outlast_the_lease_time(home):
    with Lease(home, owner="long", lease_s=1.5) as lease:
        time.sleep(1.8)
        lease.check()
        assert read_record(home.read(LEASE_FILE)).beat >= 2


def test_a_killed_job_of_this_machine_is_found_out_at_once(tmp_path):
    code = (
        "import os, sys; from pathlib import Path; from retrieval.store import Lease\n"
        "Lease(Path(sys.argv[1]), owner='killed', lease_s=30.0).acquire(); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert done.returncode == -9
    began = time.monotonic()
    with Lease(tmp_path, owner="next", lease_s=30.0) as lease:
        assert lease.fence == 2
    assert time.monotonic() - began < 5


def test_of_many_at_once_one_holds_it_at_a_time(tmp_path):
    inside, most, fences = [0], [0], []
    guard = threading.Lock()

    def job(number: int) -> None:
        with Lease(tmp_path, owner=f"job {number}", lease_s=3.0, wait_s=60.0) as lease:
            with guard:
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                fences.append(lease.fence)
            lease.check()
            time.sleep(0.01)
            with guard:
                inside[0] -= 1

    threads = [threading.Thread(target=job, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]
    assert fences == sorted(fences) == list(range(1, 7))


def test_a_damaged_lease_is_somebodys_until_it_has_not_changed_for_the_lease_time(home):
    home.create(LEASE_FILE, b"\xff not a lease")
    began = time.monotonic()
    with Lease(home, owner="next", lease_s=0.4) as lease:
        assert time.monotonic() - began >= 0.4
        lease.check()


def test_storage_that_ignores_conditions_is_refused(storage, monkeypatch):
    home = BucketPlace(storage.new_url() + "/pin", storage.settings())
    written = Held(data=b"", version="x")
    monkeypatch.setattr(home, "create", lambda name, data: written)
    with pytest.raises(FailedPrecondition, match="ignores conditional writes, so two jobs could publish at once"):
        Lease(home, owner="job").acquire()


def test_a_backend_without_conditions_is_refused(monkeypatch):
    home = open_place(f"memory://{uuid.uuid4().hex}")
    monkeypatch.setattr(home, "_protocol", "sftp")
    with pytest.raises(FailedPrecondition, match=r"sftp has no conditional writes here; use s3:// or a folder"):
        Lease(home, owner="job").acquire()


def test_what_is_no_lease(tmp_path):
    with pytest.raises(InvalidArgument, match=r"lease_s = 0\.01 is not acceptable: 0\.2 to 3600\.0 seconds"):
        Lease(tmp_path, owner="job", lease_s=0.01)
    with pytest.raises(FailedPrecondition, match="is not held, so nothing may be published"):
        Lease(tmp_path, owner="job").check()
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match=r"cannot write .*file/pin/lease\.json"):
        Lease(tmp_path / "file" / "pin", owner="job").acquire()
    with pytest.raises(StoreError, match=r"zz://x cannot be opened: .*; use a folder or an s3:// URL"):
        Lease("zz://x", owner="job", settings=RemoteSettings())


@pytest.mark.parametrize("kind", ["folder", "memory", "s3"])
def test_conditional_writes(kind, tmp_path, request):
    place = {
        "folder": lambda: FolderPlace(tmp_path),
        "memory": lambda: open_place(f"memory://{uuid.uuid4().hex}"),
        "s3": lambda: open_place(
            request.getfixturevalue("storage").new_url(), request.getfixturevalue("storage").settings()
        ),
    }[kind]()
    assert place.read("a/b") is None
    first = place.create("a/b", b"1")
    assert first == place.read("a/b")
    assert place.create("a/b", b"2") is None
    second = place.replace("a/b", b"2", first)
    assert second == place.read("a/b")
    assert second.version != first.version
    assert place.replace("a/b", b"3", first) is None
    assert place.replace("a/none", b"3", first) is None
    assert place.read("a/b").data == b"2"
    assert place.sizes("a") == {"b": 1}
    assert place.sizes("none") == {}
    assert place.children("none") == []
    assert place.children("") == ["a"]
    assert place.read_range("a/b", 0, 9) == b"2"
    assert place.read_range("a/b", 1, 9) == b""
    with pytest.raises(FileNotFoundError):
        place.read_range("a/none", 0, 1)
    place.delete(["a/b", "a/none"])
    assert place.children("") == []
