"""What a killed writer of a small file leaves is gone after the next write of that file, and nothing else is."""

from pathlib import Path

from retrieval.store.folder import FolderPlace


def test_a_write_removes_what_killed_writers_of_the_same_file_left(tmp_path: Path) -> None:
    place = FolderPlace(tmp_path)
    for name in ("lease.json.123-456.new.tmp", "lease.json.123-456.before.tmp", "CURRENT.123-456.new.tmp", "lease.tmp"):
        (tmp_path / name).write_bytes(b"half")
    held = place.create("lease.json", b"first")
    assert held is not None
    assert sorted(each.name for each in tmp_path.iterdir()) == ["CURRENT.123-456.new.tmp", "lease.json", "lease.tmp"]
    (tmp_path / "lease.json.7-8.new.tmp").write_bytes(b"half")
    assert place.create("lease.json", b"second") is None
    assert (tmp_path / "lease.json.7-8.new.tmp").exists(), "who may not write leaves all as it is"
    assert place.replace("lease.json", b"second", held) is not None
    assert not (tmp_path / "lease.json.7-8.new.tmp").exists()
