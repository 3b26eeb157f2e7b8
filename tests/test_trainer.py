"""The trainer's side: what StreamingDataset really draws from a run, against what the run promises."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from winnow.pipelines import open_run, run
from winnow.pipelines.progress import Progress
from winnow.pipelines.recipe import read
from winnow.pipelines.tracing import Tracer

if importlib.util.find_spec("streaming") is None:
    pytest.skip("mosaicml-streaming is the reader: pip install 'winnow[train]'", allow_module_level=True)

STDLIB = Path(sysconfig.get_path("stdlib"))
LENGTH = 64
SHARES = {"letters": 0.5, "tools": 0.3, "tests": 0.2}

# In a process of its own: StreamingDataset leaves shared memory and threads behind.
DRAW = """
import json, sys
from collections import Counter
import numpy as np
import torch
from winnow.pipelines import open_run
from winnow.shards import mds
from winnow.shards.feed import open_dataset

run = open_run(sys.argv[1])
owner = {}
for source in run.places:
    stage = run.stage(source, "shards")
    entries = mds.read_index(open(f"{stage}/train/index.json", "rb").read())
    first = 0
    for entry in entries:
        raw = open(f"{stage}/train/{entry['raw_data']['basename']}", "rb").read()
        for i, row in enumerate(mds.read_rows(raw, entry, 0, entry["samples"])):
            owner.setdefault(row.tobytes(), (source, first + i))
        first += entry["samples"]

dataset = open_dataset(sys.argv[1] + "/streams.yaml", batch_size=10)
collate = lambda samples: torch.stack([torch.from_numpy(s["tokens"].astype("int64")) for s in samples])
loader = torch.utils.data.DataLoader(dataset, batch_size=10, collate_fn=collate, num_workers=0)
drawn, texts, order = Counter(), [], []
for batch in loader:
    assert batch.dtype == torch.int64
    for row in batch.numpy().astype(np.uint16):
        source, sample = owner[row.tobytes()]
        drawn[source] += 1
        order.append(source)
        if len(texts) < 30:
            texts.append((source, sample, run.decode(row)))
print(json.dumps({"drawn": drawn, "texts": texts, "first": order[:50]}))
"""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory):
    root = tmp_path_factory.mktemp("trainer")
    globs = {"letters": "[a-c]*.py", "tools": "d*.py", "tests": "e*.py"}
    sources = "\n".join(
        f'  {name}: {{read: {{format: code, path: "{STDLIB}/{glob}"}}, dedup: {{exact: true}}, weight: {SHARES[name]}}}'
        for name, glob in globs.items()
    )
    recipe = read(
        f"name: trainer\ntokenizer: {{name: mistral-7b-v0.1}}\nsequence: {{length: {LENGTH}}}\nsources:\n{sources}\n"
        "mixture: {tokens: 128000}\nshards: {size_limit: 40KB}\n",
        "trainer.yaml",
    )
    made = run(recipe, str(root / "run"), inline=True, progress=Progress(stream=None))
    return root / "run", made.mixture


@pytest.mark.slow
def test_an_epoch_draws_the_mixture(corpus, tmp_path: Path) -> None:
    out, facts = corpus
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", DRAW, str(out)],
        env=environment, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout.strip().splitlines()[-1])
    epoch = facts["epoch_rows"]
    assert sum(result["drawn"].values()) == epoch == 2000
    for name, share in SHARES.items():
        assert abs(result["drawn"][name] - share * epoch) <= 1, (
            "the reader gives the rounding to a random stream"
        )
    assert any(s["epochs"] > 1 for s in facts["sources"]), "a source must repeat for this to show anything"
    assert len(set(result["first"])) == 3, "the order is mixed"
    opened = open_run(str(out))
    for source, sample, text in result["texts"]:
        pieces = Tracer(opened).sample(source, "train", sample)
        whole = [p for p in pieces if p.byte_end - p.byte_start > 40]
        assert whole
        for piece in whole:
            original = (Path(root_of(opened, source)) / piece.path).read_bytes()
            span = original[piece.byte_start : piece.byte_end].decode(errors="ignore")
            assert span[4:-4] in text, "a sample spells the documents it is traced to"


def root_of(opened, source: str) -> str:
    return next(i["root"] for i in opened.manifest["inputs"] if i["source"] == source)
