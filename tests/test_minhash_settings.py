"""Do the settings come to the split, threshold and manner that their definition, source or peer says?"""

import itertools
import math
import subprocess
import sys

import pytest
from datasketch.lsh import _optimal_param
from pydantic import ValidationError
from winnow.filters.lower_words import MOST_NGRAM
from winnow.filters.minhash_settings import PRESETS, MinHash
from winnow.filters.minhash_split import (
    MAX_SLOTS,
    MOST_AT_HALF,
    cheapest,
    collision,
    datasketch,
    implied_threshold,
)

THRESHOLDS = [0.05, 0.1, 0.3, 0.5, 0.55, 0.7, 0.72, 0.8, 0.9, 0.95, 0.99]


def test_collision_is_its_formula():
    for s, b, r in itertools.product([0, 0.1, 0.5, 0.8, 0.99, 1], [1, 14, 450], [1, 8, 20]):
        assert collision(s, b, r) == pytest.approx(1 - (1 - s**r) ** b, abs=1e-13)
    # To the last digits where the formula as written has none left.
    assert collision(1e-3, 14, 8) == pytest.approx(14e-24, rel=1e-12)
    assert collision(0.8, 14, 8) == pytest.approx(0.924, abs=5e-4)  # FineWeb's table, arXiv:2406.17557
    assert collision(implied_threshold(14, 8), 14, 8) == pytest.approx(1 - (1 - 1 / 14) ** 14)


@pytest.mark.parametrize("threshold", [0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0])
@pytest.mark.parametrize("min_recall", [0.5, 0.9, 0.99, 0.999])
def test_cheapest_is_the_cheapest_of_all(threshold, min_recall):
    bands, rows = cheapest(threshold, min_recall)
    most = bands * rows
    fit = [
        (b * r, -r)
        for r in range(1, most + 1)
        for b in range(1, most // r + 1)
        if collision(threshold, b, r) >= min_recall and collision(threshold / 2, b, r) <= MOST_AT_HALF
    ]
    assert min(fit) == (most, -rows)


def test_what_no_split_can_do():
    with pytest.raises(ValueError, match=r"no split of at most 20000 slots finds 0\.99"):
        cheapest(0.3, 0.99)
    for threshold, min_recall in [(0, 0.5), (1.5, 0.5), (0.5, 0), (0.5, 1), (math.nan, 0.5), (0.5, math.nan)]:
        with pytest.raises(ValueError, match="is"):
            cheapest(threshold, min_recall)


@pytest.mark.parametrize("slots", [1, 2, 3, 16, 64, 112, 128, 256])
@pytest.mark.parametrize("weights", [(0.5, 0.5), (0.1, 0.9), (0.9, 0.1), (0.3, 0.7)])
def test_datasketchs_choice(slots, weights):
    for threshold in [0.0, *THRESHOLDS, 1.0]:
        assert datasketch(threshold, slots, *weights) == _optimal_param(threshold, slots, *weights)


def test_datasketchs_choice_refuses():
    for threshold, slots in [(-0.1, 5), (1.1, 5), (0.5, 0)]:
        with pytest.raises(ValueError, match="is"):
            datasketch(threshold, slots)


@pytest.mark.parametrize(
    ("preset", "bands", "rows", "threshold"),
    [
        ("fineweb", 14, 8, 0.75),
        ("dclm", 93, 15, 0.8),
        ("dolma3", 26, 11, 0.8),
        ("refinedweb", 450, 20, 0.8),
        ("datatrove", 14, 8, (1 / 14) ** (1 / 8)),
    ],
)
def test_presets(preset, bands, rows, threshold):
    settings = MinHash(preset=preset)
    found = settings.resolved
    assert (found.bands, found.rows, found.slots) == (bands, rows, bands * rows)
    assert found.threshold == threshold
    assert settings.ngram == 5
    assert PRESETS[preset].source
    own = (found.hash, found.seed, found.verify, found.cluster)
    assert own == (
        ("datatrove", 1, "none", "component") if preset == "datatrove" else ("winnow", None, "exact", "star")
    )


def test_without_settings_it_is_finewebs():
    assert MinHash().resolved == MinHash(preset="fineweb").resolved


@pytest.mark.parametrize(
    ("given", "bands", "rows", "threshold"),
    [
        ({"bands": 20, "rows": 5}, 20, 5, (1 / 20) ** (1 / 5)),
        ({"bands": 20, "rows": 5, "threshold": 0.6}, 20, 5, 0.6),
        ({"threshold": 0.9}, 14, 8, 0.9),
        ({"preset": "dclm", "threshold": 0.9}, 93, 15, 0.9),
        ({"threshold": 0.7, "min_recall": 0.99}, 37, 6, 0.7),
        ({"threshold": 0.8, "split": "datasketch"}, 9, 13, 0.8),
        ({"threshold": 0.8, "split": "datasketch", "slots": 256}, *_optimal_param(0.8, 256, 0.5, 0.5), 0.8),
    ],
)
def test_what_settings_come_to(given, bands, rows, threshold):
    found = MinHash(**given).resolved
    assert (found.bands, found.rows, found.threshold) == (bands, rows, threshold)


def test_what_is_said_goes_before_the_preset():
    found = MinHash(preset="datatrove", seed=5, verify="exact", cluster="star").resolved
    assert (found.hash, found.seed, found.verify, found.cluster) == ("datatrove", 5, "exact", "star")
    found = MinHash(hash="datatrove", bands=9, rows=13).resolved
    assert (found.bands, found.seed, found.verify, found.cluster) == (9, 1, "exact", "star")
    assert MinHash(seed=0).resolved.seed == 0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"bands": 14}, "bands is given without rows"),
        ({"rows": 8}, "rows is given without bands"),
        ({"preset": "dclm", "bands": 14, "rows": 8}, "preset and bands and rows each say"),
        (
            {"bands": 14, "rows": 8, "threshold": 0.8, "min_recall": 0.9},
            "bands and rows and min_recall each say",
        ),
        ({"threshold": 0.8, "min_recall": 0.9, "split": "datasketch"}, "min_recall and split each say"),
        ({"min_recall": 0.9}, "min_recall needs a threshold"),
        ({"split": "datasketch"}, "split needs a threshold"),
        ({"slots": 128}, "slots goes with `split: datasketch`"),
        ({"bands": 1001, "rows": 20}, "above 20000 slots"),
        ({"threshold": 0.3, "min_recall": 0.99}, "no split of at most 20000 slots"),
        ({"preset": "datatrove", "hash": "winnow"}, "preset fineweb"),
        ({"hash": "datatrove", "unit": "chars"}, "knows words only"),
        ({"ngram": 0}, "greater than or equal to 1"),
        ({"ngram": MOST_NGRAM + 1}, "less than or equal to 64"),
        ({"threshold": 0}, "greater than 0"),
        ({"threshold": 0.8, "min_recall": 1}, "less than 1"),
        ({"threshold": math.nan}, "finite number"),
        ({"seed": -1}, "greater than or equal to 0"),
        ({"anchors": 0}, "greater than or equal to 1"),
        ({"preset": "fineweb2"}, "'fineweb', 'dclm'"),
        ({"band": 3}, "Extra inputs"),
        ({"stop_above": {"cluster": 1}}, "greater than or equal to 2"),
        ({"stop_above": {"loss": 1.5}}, "less than or equal to 1"),
        ({"stop_above": {"buckets": 5}}, "Extra inputs"),
    ],
)
def test_settings_that_make_no_sense(given, message):
    with pytest.raises(ValidationError, match=message):
        MinHash.model_validate(given)


def test_the_largest_split_is_allowed():
    assert MinHash(bands=1000, rows=20).resolved.slots == MAX_SLOTS


def test_settings_are_checked_without_heavy_imports():
    code = (
        "import sys\nfrom winnow.filters.minhash_settings import MinHash\nMinHash(threshold=0.7, min_recall=0.99)\n"
        "print(*{'numpy', 'pyarrow', 'numba', 'scipy', 'datasketch'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"
