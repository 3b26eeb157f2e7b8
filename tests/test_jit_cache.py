"""Are compiled kernels kept where they may be written, found again, and never stale?"""

import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from winnow.filters import jit

SCAN = """
import numpy as np
from winnow.filters import characters, jit
utf8 = np.frombuffer("a…b".encode(), np.uint8)
assert characters.decode(utf8, 1) == (ord("…"), 3) and characters.count_chars(utf8, 0, 5) == 3
print(jit.CACHE_DIR, sum(characters.decode.stats.cache_hits.values()))
"""


# What would tell a process where to keep kernels; each test says it anew.
ELSEWHERE = {"NUMBA_CACHE_DIR", "XDG_CACHE_HOME", "HOME", "TMPDIR"}


def start(code, **places):
    """A process that has of `ELSEWHERE` only what `places` gives it."""
    environment = {name: value for name, value in os.environ.items() if name not in ELSEWHERE}
    environment |= {name: str(place) for name, place in places.items()}
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", code],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def answer(process):
    """What the process printed, as words; its error output when it fails."""
    printed, complaint = process.communicate(timeout=120)
    assert process.returncode == 0, complaint
    return printed.split()


def answer_of(code, **environment):
    return answer(start(code, **environment))


SHOW = "from winnow.filters import jit; print(jit.CACHE_DIR)"


@pytest.fixture
def blocked(tmp_path):
    """A path below a regular file: nobody can make a directory there, root neither."""
    (tmp_path / "file").write_text("in the way")
    return tmp_path / "file" / "below"


def test_the_name_changes_with_any_source_that_a_kernel_depends_on(tmp_path):
    folder = tmp_path / "filters"
    shutil.copytree(jit.FOLDER, folder, ignore=shutil.ignore_patterns("__pycache__"))
    names = [jit.cache_name(folder)]
    assert names == [jit.cache_name()]

    def changed(name, text):
        with open(folder / name, "a") as source:
            source.write(text)
        return jit.cache_name(folder)

    names.append(changed("signals.py", "# changed\n"))
    names.append(changed("jit.py", "# changed\n"))
    names.append(
        changed("kernel.py", "from winnow.filters.jit import njit\nfrom winnow.filters import numbers\n")
    )
    names.append(changed("numbers.py", "from winnow.filters.more_numbers import N\n"))
    names.append(changed("more_numbers.py", "N = 1\n"))
    names.append(changed("more_numbers.py", "N = 2\n"))
    assert len(set(names)) == 7
    assert all(name.endswith(f"-numba-{version('numba')}") for name in names)
    assert changed("length.py", "# settings are no kernel\n") == names[-1]
    assert changed("unrelated.py", "N = 2\n") == names[-1]


def test_the_name_changes_with_the_processor(monkeypatch):
    here = jit.cache_name()
    monkeypatch.setattr(jit, "_processor", lambda: "another")
    assert jit.cache_name() != here


@pytest.mark.slow
def test_two_processes_that_race_both_work_and_a_third_finds_their_kernels(tmp_path):
    racers = [start(SCAN, XDG_CACHE_HOME=tmp_path, TMPDIR=tmp_path) for _ in range(2)]
    where = {answer(racer)[0] for racer in racers}
    assert where == {str(tmp_path / "winnow" / jit.cache_name())}
    assert answer_of(SCAN, XDG_CACHE_HOME=tmp_path, TMPDIR=tmp_path) == [where.pop(), "1"]


def test_a_home_that_cannot_be_written_leaves_the_temporary_directory(tmp_path, blocked):
    mine = tmp_path / f"winnow-{os.getuid()}"
    expected = str(mine / jit.cache_name())
    places = {"HOME": blocked, "XDG_CACHE_HOME": blocked, "NUMBA_CACHE_DIR": blocked, "TMPDIR": tmp_path}
    assert answer_of(SCAN, **places)[0] == expected
    assert answer_of(SHOW, HOME=blocked, TMPDIR=tmp_path) == [expected]
    assert mine.stat().st_mode & 0o777 == 0o700, "others could plant kernels"


def test_a_temporary_directory_that_is_not_ours_is_not_trusted(tmp_path, blocked):
    (tmp_path / f"winnow-{os.getuid()}").write_text("not a directory")
    [where] = answer_of(SHOW, HOME=blocked, TMPDIR=tmp_path)
    assert Path(where).parent.parent == tmp_path
    assert Path(where).parent.name != f"winnow-{os.getuid()}"


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a directory to somebody else")
def test_a_temporary_directory_of_another_user_is_not_trusted(tmp_path, blocked):
    planted = tmp_path / f"winnow-{os.getuid()}"
    planted.mkdir()
    os.chown(planted, 12345, 12345)
    [where] = answer_of(SHOW, HOME=blocked, TMPDIR=tmp_path)
    assert Path(where).parent != planted


def test_a_cache_directory_of_the_users_choice_is_kept_and_inherited_once(tmp_path):
    chosen = str(tmp_path / "chosen" / jit.cache_name())
    assert answer_of(SHOW, NUMBA_CACHE_DIR=tmp_path / "chosen", TMPDIR=tmp_path) == [chosen]
    child_too = (
        f"import subprocess, sys; {SHOW}; subprocess.run([sys.executable, '-c', {SHOW!r}], check=True)"
    )
    assert answer_of(child_too, NUMBA_CACHE_DIR=tmp_path / "chosen", TMPDIR=tmp_path) == [chosen, chosen]


def test_numba_imported_before_us_uses_the_cache_too(tmp_path):
    [where, _] = answer_of("import numba\n" + SCAN, XDG_CACHE_HOME=tmp_path, TMPDIR=tmp_path)
    assert list(Path(where).rglob("*.nbc"))
