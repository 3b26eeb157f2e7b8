"""Is an output there whole or not at all, on a disk and in an object store alike?"""

import errno
import os
import tempfile
import uuid

import fsspec
import pytest
from winnow.shards import storage


@pytest.fixture(params=["local", "memory"])
def place(request, tmp_path):
    """A directory of each kind, empty."""
    if request.param == "local":
        yield str(tmp_path / "run")
    else:
        location = f"memory://{uuid.uuid4().hex}"
        yield location
        storage.remove(location)


def everything(directory):
    """Every name below a local directory, unfinished attempts too."""
    return sorted(os.path.join(at, n) for at, _, names in os.walk(directory) for n in names)


def test_round_trip(place):
    storage.put_bytes(storage.join(place, "a", "b.bin"), b"0123456789")
    storage.put_bytes(storage.join(place, "c.bin"), b"")
    storage.copy(storage.join(place, "a/b.bin"), storage.join(place, "d.bin"))
    assert storage.list_files(place) == {"a/b.bin": 10, "c.bin": 0, "d.bin": 10}
    assert storage.read_bytes(storage.join(place, "d.bin")) == b"0123456789"
    assert storage.read_range(storage.join(place, "a/b.bin"), 3, 4) == b"3456"
    assert storage.read_range(storage.join(place, "a/b.bin"), 10, 0) == b""
    with storage.open_input(storage.join(place, "d.bin")) as file:
        file.seek(8)
        assert file.read() == b"89"
    storage.remove(storage.join(place, "a"))
    storage.remove(storage.join(place, "c.bin"))
    storage.remove(storage.join(place, "never-there"))
    assert storage.list_files(place) == {"d.bin": 10}
    assert storage.exists(storage.join(place, "d.bin"))
    assert not storage.exists(storage.join(place, "c.bin"))


def test_a_directory_that_is_not_there_lists_as_empty(place):
    assert storage.list_files(storage.join(place, "nowhere")) == {}


@pytest.mark.parametrize(("start", "length"), [(0, 11), (8, 3), (10, 1), (20, 5)])
def test_range_beyond_the_end_is_an_error(place, start, length):
    location = storage.join(place, "a.bin")
    storage.put_bytes(location, b"0123456789")
    with pytest.raises(
        OSError, match=rf"a\.bin: {length} bytes wanted at {start}, {max(10 - start, 0)} there$"
    ):
        storage.read_range(location, start, length)


class Stop(BaseException):
    """Neither Exception nor anything that a library would catch: what a signal raises."""


def stop_half_way(location, look=None):
    """Commit a file, and fail after its first bytes, having called `look` with its temporary path."""
    with storage.commit(location) as path:
        with open(path, "wb") as file:
            file.write(b"half")
        if look:
            look(path)
        raise Stop


def test_exception_inside_commit_publishes_nothing(place):
    location = storage.join(place, "a.bin")
    with pytest.raises(Stop):
        stop_half_way(location)
    assert not storage.exists(location)
    assert storage.list_files(place) == {}


def test_exception_inside_commit_keeps_the_old_file(place):
    location = storage.join(place, "a.bin")
    storage.put_bytes(location, b"old")
    with pytest.raises(Stop):
        stop_half_way(location)
    assert storage.read_bytes(location) == b"old"


def test_no_reader_sees_a_file_before_its_commit(place):
    location = storage.join(place, "a.bin")
    with storage.commit(location) as path:
        with open(path, "wb") as file:
            file.write(b"whole")
        assert not storage.exists(location)
        assert storage.list_files(place) == {}
    assert storage.read_bytes(location) == b"whole"


def test_failed_attempts_leave_no_file(tmp_path):
    held = []
    with pytest.raises(Stop):
        stop_half_way(str(tmp_path / "a.bin"), lambda path: held.append((path, everything(tmp_path))))
    ((path, files),) = held
    assert files == [path], "the attempt lies elsewhere: renaming may cross file systems"
    assert everything(tmp_path) == []


def test_failed_attempts_leave_no_scratch(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    seen = []
    with pytest.raises(Stop):
        stop_half_way("memory://no-scratch/a.bin", seen.append)
    assert seen[0].startswith(str(tmp_path)), "the attempt lies in the temporary directory"
    assert list(tmp_path.iterdir()) == []


def test_commit_without_a_file_is_an_error(place):
    with pytest.raises(FileNotFoundError), storage.commit(storage.join(place, "a.bin")):
        pass
    assert storage.list_files(place) == {}


def test_full_disk_leaves_nothing(tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    location = str(tmp_path / "a.bin")
    storage.put_bytes(location, b"old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as caught:
        storage.put_bytes(location, b"new")
    assert caught.value.errno == errno.ENOSPC
    assert everything(tmp_path) == [location]
    assert storage.read_bytes(location) == b"old"


def test_refused_put_leaves_nothing(tmp_path, monkeypatch):
    def refused(*_, **__):
        raise PermissionError(errno.EACCES, "no")

    location = f"memory://{uuid.uuid4().hex}/a.bin"
    monkeypatch.setattr(fsspec.get_filesystem_class("memory"), "put_file", refused)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(PermissionError):
        storage.put_bytes(location, b"x")
    assert everything(tmp_path) == []
    assert not storage.exists(location)


def test_content_is_synced_before_it_gets_its_name_and_the_directory_after(tmp_path, monkeypatch):
    seen, fsync, replace = [], os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda h: (seen.append(os.readlink(f"/proc/self/fd/{h}")), fsync(h)))
    monkeypatch.setattr(os, "replace", lambda a, b: (seen.append("replace"), replace(a, b)))
    storage.put_bytes(str(tmp_path / "a.bin"), b"x")
    content, renamed, directory = seen
    assert os.path.basename(content).startswith(".a.bin.")
    assert (renamed, directory) == ("replace", str(tmp_path))


def test_listing_leaves_out_names_with_a_dot(place):
    for name in ("a", ".a", ".d/a", "d/.a", "d/b.c"):
        storage.put_bytes(storage.join(place, name), b"x")
    assert storage.list_files(place) == {"a": 1, "d/b.c": 1}


def test_two_attempts_at_once_do_not_share_a_file(tmp_path):
    location = str(tmp_path / "a.bin")
    with storage.commit(location) as first, storage.commit(location) as second:
        assert first != second
        for path, data in ((first, b"first"), (second, b"second")):
            with open(path, "wb") as file:
                file.write(data)
    assert storage.read_bytes(location) == b"first"  # its block ended last
    assert everything(tmp_path) == [location]


@pytest.mark.parametrize("name", ["..", "../a", "a/../b", "a/..", "/etc"])
def test_join_stays_below(name):
    with pytest.raises(ValueError, match=r"leaves the directory it is joined to"):
        storage.join("/run", name)


@pytest.mark.parametrize(
    ("parts", "joined"),
    [
        (("/run/", "a", "b/c"), "/run/a/b/c"),
        (("s3://bucket/run", "a"), "s3://bucket/run/a"),
        (("/run", "..a", "a..b"), "/run/..a/a..b"),
    ],
)
def test_join(parts, joined):
    assert storage.join(*parts) == joined


def test_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert storage.absolute("a/../b") == str(tmp_path / "b")
    assert storage.absolute("file:///x/") == "/x"
    assert storage.absolute("s3://bucket/x/") == "s3://bucket/x"


def test_remove_of_a_link_leaves_what_it_points_to(tmp_path):
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "a").write_bytes(b"x")
    (tmp_path / "link").symlink_to(tmp_path / "kept")
    storage.remove(str(tmp_path / "link"))
    assert everything(tmp_path) == [str(tmp_path / "kept" / "a")]
