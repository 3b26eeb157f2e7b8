"""Is what a run says of itself right, and does it never stop the run?"""

from __future__ import annotations

import io
import os
from itertools import pairwise
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from winnow.pipelines import progress
from winnow.pipelines.jobs import Job, Retried, Task
from winnow.pipelines.progress import Part, Progress, show_seconds
from winnow.pipelines.records import Record


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A clock that is set by hand."""
    monkeypatch.setenv("TERM", "xterm")
    made = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: made.now))
    return made


def record(seconds: float = 1.0, **counts: object) -> Record:
    return Record(0, counts, {}, seconds)


def failed(request: int = 0) -> Retried:
    return Retried(Job(request, "stages/x", Task(0, print, None)), "node lost", "it is\n gone\x1b[2J")


def lines(stream: io.StringIO) -> list[str]:
    return stream.getvalue().splitlines()


def test_a_log_has_a_first_line_one_every_few_seconds_and_a_last(clock: SimpleNamespace) -> None:
    out = io.StringIO()
    shown = Progress(out)
    shown.begin("tokens.s", [Part("tokens.s", 40, 8)])
    assert lines(out) == ["tokens.s: 8 of 40 tasks (8 recorded before), 0 s"]
    for _ in range(31):
        clock.now += 1
        shown.advance(record(documents=100, text_bytes=2_000_000, tokens=500_000), 0)
    assert len(lines(out)) == 7, "every five seconds"
    assert lines(out)[2] == (
        "tokens.s: 18 of 40 tasks (8 recorded before), 1.00K documents, 20.0 MB, 2.0 MB/s, "
        "5.00M tokens, 500.00K/s, 10 s, about 22 s left"
    )
    said = len(lines(out))
    shown.retried(failed())
    shown.retried(failed())
    assert lines(out)[said:] == ["tokens.s, task 0 is made again: node lost (it is gone\\x1b[2J)"], (
        "once for each reason"
    )
    clock.now += 1
    shown.advance(record(), 0)
    assert lines(out)[-1] == (
        "tokens.s: 40 of 40 tasks (8 recorded before), 3.10K documents, 62.0 MB, 1.9 MB/s, "
        "15.50M tokens, 484.38K/s, 2 tried again, 32 s"
    )


def test_lines_of_a_long_stage_come_less_often_but_every_minute(clock: SimpleNamespace) -> None:
    out = io.StringIO()
    shown = Progress(out)
    shown.begin("documents.s", [Part("documents.s", 10, 0)])
    came = []
    for _ in range(20 * 3600):
        clock.now += 1
        before = len(out.getvalue())
        shown.tick()
        if len(out.getvalue()) > before:
            came.append(clock.now)
    gaps = [b - a for a, b in pairwise(came)]
    assert gaps[:20] == [5.0] * 20
    assert gaps == sorted(gaps)
    assert gaps[-1] == 60


def test_what_was_recorded_before_is_one_line(clock: SimpleNamespace) -> None:
    out = io.StringIO()
    Progress(out).begin("tokens of 2 sources", [Part("tokens.a", 4, 4), Part("tokens.b", 3, 3)])
    assert lines(out) == ["tokens of 2 sources: 7 of 7 tasks, all recorded before"]


def test_what_is_dropped_is_counted_by_the_kind_of_stage(clock: SimpleNamespace) -> None:
    out = io.StringIO()
    shown = Progress(out)
    shown.begin("documents, filters of 2 sources", [Part("documents.a", 1, 0), Part("filters.b", 1, 0)])
    shown.advance(record(documents=7, lost={"json": 2, "gopher-quality.min_words": 3}), 0)
    shown.advance(record(kept=5, dropped={"c4.words": 1000}), 1)
    assert "7 documents, 1.00K dropped" in lines(out)[-1]
    shown.retried(failed())
    shown.begin("exact.a+b", [Part("exact.a+b", 1, 0)])
    shown.retried(failed())
    assert out.getvalue().count("is made again: node lost") == 2, "and stage"
    shown.advance(record(dropped={"a": 4, "b": 0}), 0)
    assert lines(out)[-1] == "exact.a+b: 1 of 1 tasks, 4 dropped, 1 tried again, 0 s", (
        "counts begin anew with a stage"
    )


def test_a_terminal_has_one_line_that_is_redrawn(clock: SimpleNamespace) -> None:
    out = Terminal()
    shown = Progress(out)
    shown.begin("tokens.s", [Part("tokens.s", 3, 0)])
    shown.advance(record(), 0)
    assert out.getvalue() == "\r\x1b[2Ktokens.s: 0 of 3 tasks, 0 s", "too soon to draw it again"
    clock.now += 1
    shown.advance(record(), 0)
    shown.say("by the way")
    shown.tick(force=True)
    clock.now += 1
    shown.advance(record(), 0)
    assert out.getvalue().split("\r\x1b[2K")[2:] == [
        "tokens.s: 2 of 3 tasks, 1 s",
        "by the way\n",
        "tokens.s: 2 of 3 tasks, 1 s",
        "tokens.s: 3 of 3 tasks, 2 s\n",
    ]
    shown.finish()
    assert out.getvalue().endswith("2 s\n"), "the line is closed already"


def test_a_run_that_stops_in_a_stage_leaves_a_line_of_its_own_for_the_error(clock: SimpleNamespace) -> None:
    out = Terminal()
    shown = Progress(out)
    shown.begin("tokens.s", [Part("tokens.s", 3, 0)])
    shown.finish()
    shown.finish()
    assert out.getvalue().endswith("0 s\n")
    assert not out.getvalue().endswith("\n\n")


def test_a_line_that_a_terminal_would_wrap_is_cut_but_the_last_is_whole(clock: SimpleNamespace) -> None:
    out = Terminal()
    shown = Progress(out)
    label = "minhash." + "+".join(["source"] * 20)
    shown.begin(label, [Part(label, 1, 0)])
    assert len(lines(out)[-1].replace("\x1b[2K", "")) == 79
    shown.advance(record(), 0)
    assert out.getvalue().endswith(f"{label}: 1 of 1 tasks, 0 s\n")


def test_a_dumb_terminal_is_a_log(clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    out = Terminal()
    Progress(out).begin("tokens.s", [Part("tokens.s", 3, 0)])
    assert out.getvalue() == "tokens.s: 0 of 3 tasks, 0 s\n"


def through_everything(shown: Progress) -> None:
    shown.begin("tokens.été", [Part("tokens.été", 2, 0)])
    shown.say("an ñ and 数字")
    shown.advance(record(), 0)
    shown.retried(failed())
    shown.advance(record(), 0)
    shown.finish()
    assert (shown.finished, shown.retries) == (2, 1)


def test_a_reader_who_is_gone_does_not_stop_a_run() -> None:
    closed = io.StringIO()
    closed.close()
    through_everything(Progress(closed))
    through_everything(Progress(None))
    read, write = os.pipe()
    os.close(read)
    pipe = io.TextIOWrapper(io.FileIO(write, "w"), write_through=True)
    through_everything(Progress(pipe))
    pipe.close()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs Linux's /dev/full")
def test_a_full_disk_under_the_log_does_not_stop_a_run() -> None:
    with io.TextIOWrapper(io.FileIO("/dev/full", "w"), write_through=True) as full:
        through_everything(Progress(full))


def test_what_a_terminal_cannot_spell_is_escaped() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, "ascii")
    through_everything(Progress(stream))
    assert rb"an \xf1 and \u6570\u5b57" in raw.getvalue()
    assert rb"tokens.\xe9t\xe9: 2 of 2 tasks" in raw.getvalue()


def begun(clock: SimpleNamespace, *parts: Part) -> Progress:
    shown = Progress(None)
    shown.begin("label", parts)
    return shown


def test_the_time_left_is_told_when_it_can_be_known(clock: SimpleNamespace) -> None:
    shown = begun(clock, Part("tokens.s", 100, 60))
    assert shown.seconds_left is None
    for _ in range(8):  # two at a time
        clock.now += 2
        shown.advance(record(4.0), 0)
    assert shown.seconds_left == pytest.approx(32 * 2), "of those that run now; the 60 are no measure"

    shown.stream = io.StringIO()
    shown.tick(force=True)
    assert lines(shown.stream) == ["label: 68 of 100 tasks (60 recorded before), 16 s, about 1 min 4 s left"]


def test_nothing_is_told_before_tasks_have_followed_on_one_another(clock: SimpleNamespace) -> None:
    shown = begun(clock, Part("tokens.s", 100, 0))
    clock.now += 60
    for _ in range(30):
        shown.advance(record(60.0), 0)
    assert shown.seconds_left is None, "the first wave of thirty workers"
    clock.now += 120
    for _ in range(60):
        shown.advance(record(60.0), 0)
    assert shown.seconds_left == pytest.approx(20.0)


def test_a_kind_of_stage_of_which_nothing_finished_is_not_guessed(clock: SimpleNamespace) -> None:
    shown = begun(clock, Part("documents.a", 40, 0), Part("documents.b", 2, 1), Part("filters.a", 40, 0))
    for _ in range(20):
        clock.now += 1
        shown.advance(record(1.0), 0)
    assert shown.seconds_left is None
    shown.advance(record(0.5), 2)
    assert shown.seconds_left == pytest.approx((21 * 1.0 + 39 * 0.5) * 20 / 20.5)


@given(
    tasks=st.integers(1, 300),
    workers=st.integers(1, 40),
    took=st.floats(0.01, 1000),
    at=st.floats(0, 1),
)
def test_an_estimate_is_never_far_off_where_tasks_are_alike(
    tasks: int, workers: int, took: float, at: float
) -> None:
    """Simulated: `workers` begin together and take the next task as they finish one."""
    ends = [took * (i // workers + 1) for i in range(tasks)]
    now = at * ends[-1]
    shown = Progress(None)
    clock = SimpleNamespace(now=0.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: clock.now))
        shown.begin("label", [Part("tokens.s", tasks, 0)])
        for end in ends:
            if end <= now:
                clock.now = end
                shown.advance(record(took), 0)
        clock.now = now
        told, truth = shown.seconds_left, ends[-1] - now
    if told is not None:
        # What is under way counts as not begun: at most a task's time, of the three or more that passed.
        assert told <= truth * 4 / 3 + 2 * took
        assert told >= truth - took - 1e-6 * ends[-1]


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min"), (61, "1 min 1 s"), (3600, "1 h"), (3660, "1 h 1 min"),
        (86399, "23 h 59 min"), (86400, "1 d"), (200_000, "2 d 7 h"),
    ],
)  # fmt: skip
def test_times_are_for_people(seconds: float, said: str) -> None:
    assert show_seconds(seconds) == said
