"""Is a document's language the one its model says, are models found or refused, and does the decision follow?"""

import hashlib
import io
import json
import pickle
import threading
from collections import Counter
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fasttext
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from winnow.filters import model_files
from winnow.filters.fasttext_model import load
from winnow.filters.language import Language
from winnow.filters.model_files import PUBLISHED, ModelError, ModelFile, find, models_folder, sha256_of
from winnow.filters.rules import decide

SHARED = Path(__file__).resolve().parents[1].parent / "shared"
WORDS = {
    "en": "the of and to in is that it was for on are with as his they at be this have from",
    "de": "der die und in den von zu das mit sich des auf für ist im dem nicht ein eine als",
    "fr": "le de un être et à il avoir ne je son que se qui ce dans en du elle au pour pas",
}


def documents(texts):
    return pa.record_batch({"text": pa.array(texts, pa.large_string())})


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> ModelFile:
    """A model of three languages, trained on their small words."""
    folder = tmp_path_factory.mktemp("model")
    rng = np.random.default_rng(5)
    with open(folder / "examples.txt", "w", encoding="utf-8") as file:
        for _ in range(500):
            for language, words in WORDS.items():
                file.write(f"__label__{language} {' '.join(rng.choice(words.split(), 8))}\n")
    trained = fasttext.train_supervised(
        str(folder / "examples.txt"), dim=8, epoch=10, lr=0.5, thread=1, verbose=0
    )
    trained.save_model(str(folder / "three.bin"))
    return find(str(folder / "three.bin"))


def of(model, **more):
    return Language(model=model.path, **more).with_file(model.path, model.sha256)


def measured(filter_, texts):
    (measure,) = filter_.measures()
    found = measure.measure(documents(texts))
    assert list(found) == list(measure.columns)
    return found


def kept(filter_, texts):
    signals = {name: np.asarray(values) for name, values in measured(filter_, texts).items()}
    return (decide(filter_.rules(), signals, len(texts)).first < 0).tolist()


ENGLISH, GERMAN, FRENCH = "that it was for the of", "der die und\nnicht ein", "je son que se qui"
MIXED = "the of and to der die und von"


def test_the_likeliest_language_and_its_score(model):
    found = measured(of(model), [ENGLISH, GERMAN, FRENCH])
    assert found["language"].to_pylist() == ["en", "de", "fr"]
    assert found["language_score"].dtype == np.float32
    assert (found["language_score"] > 0.9).all()


def test_agrees_with_fasttext_itself(model):
    raw = fasttext.load_model(model.path)
    texts = [ENGLISH, GERMAN, FRENCH, MIXED, "", "\n\n", "zzz", "the\0der\tje\r\nthe", "x" * 3000, "</s> der"]
    found = measured(of(model, top_k=3, keep=["de"]), texts)
    for i, text in enumerate(texts):
        labels, scores = raw.predict(text.replace("\n", " "), k=-1)
        expected = {
            label.removeprefix("__label__"): score for label, score in zip(labels, scores, strict=True)
        }
        assert found["language"][i].as_py() == labels[0].removeprefix("__label__")
        assert found["language_score"][i] == np.float32(scores[0])
        above = expected["de"] if expected["de"] >= 0.01 else 0
        assert found["language_keep_score"][i] == np.float32(above)
        top = json.loads(found["language_top"][i].as_py())
        assert top == {name: round(float(s), 4) for name, s in expected.items() if s >= 0.01}


def test_a_document_is_kept_for_any_language_asked_for(model):
    texts = [ENGLISH, GERMAN, FRENCH, MIXED]
    assert kept(of(model), texts) == [True, True, True, False]
    assert kept(of(model, keep=["en"]), texts) == [True, False, False, False]
    assert kept(of(model, keep=["fr", "de"]), texts) == [False, True, True, False]
    assert kept(of(model, min_score=None), texts) == [True] * 4
    # The second likeliest counts too: what is asked is whether the text may be in that language.
    (scores,) = [measured(of(model, keep=[code]), [MIXED])["language_keep_score"] for code in ["de"]]
    assert 0.1 < scores[0] < 0.65
    assert kept(of(model, keep=["de"], min_score=0.1), [MIXED]) == [True]


def test_the_bound_itself_passes(model):
    score = float(measured(of(model, keep=["de"]), [MIXED])["language_keep_score"][0])
    assert kept(of(model, keep=["de"], min_score=score), [MIXED]) == [True]
    assert kept(of(model, keep=["de"], min_score=np.nextafter(score, 1)), [MIXED]) == [False]


def test_the_reason_names_the_language(model):
    (rule,) = of(model, keep=["en"]).rules()
    assert (rule.name, rule.detail, rule.minimum) == ("language.min_score", "language", 0.65)
    assert of(model, min_score=None).rules() == ()


def test_only_the_stated_prefix_is_looked_at(model):
    text = "für für für " + "the of and to " * 50
    assert measured(of(model), [text])["language"].to_pylist() == ["en"]
    assert measured(of(model, prefix_chars=11), [text])["language"].to_pylist() == ["de"]
    assert measured(of(model, prefix_chars=3), ["fürdie"]) == measured(of(model), ["für"])
    whole = measured(of(model), ["für für für"])["language_score"]
    assert measured(of(model, prefix_chars=11), [text])["language_score"] == whole


@settings(max_examples=100)
@given(st.lists(st.text(max_size=40), min_size=1, max_size=5), st.data())
def test_documents_are_judged_one_by_one(model, texts, more):
    """Any Unicode, any slice: what a document gets depends on nothing but its text."""
    start = more.draw(st.integers(0, len(texts) - 1))
    (measure,) = of(model, keep=["de"], prefix_chars=7, top_k=2).measures()
    part = measure.measure(documents(texts).slice(start))
    for i, text in enumerate(texts[start:]):
        alone = measure.measure(documents([text]))
        assert [part[name][i] for name in part] == [alone[name][0] for name in alone]


@pytest.mark.parametrize("text", ["a" * 10**6, "\n" * 10**6, "ก" * 300_000, "\0" * 10**6, "😀 " * 10**5])
def test_long_and_strange(model, text):
    assert measured(of(model), [text, GERMAN])["language"].to_pylist()[1] == "de"


def test_a_language_that_the_model_does_not_know_is_refused(model):
    with pytest.raises(
        ModelError, match=r"^language: the model .*three\.bin knows no 'eng'; it knows: de, en, fr$"
    ):
        measured(of(model, keep=["en", "eng"]), [ENGLISH])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"keep": []}, "keep names at least one language"),
        ({"keep": ["en", "en"]}, "each once"),
        ({"keep": ["en"], "min_score": None}, "keep without min_score"),
        ({"min_score": 1.5}, "less than or equal to 1"),
        ({"prefix_chars": 0}, "greater than or equal to 1"),
        ({"language": "en"}, "Extra inputs"),
    ],
)
def test_settings_that_make_no_sense_are_refused(given, said):
    with pytest.raises(ValidationError, match=said):
        Language(**given)


def test_settings_without_their_file_can_say_their_columns():
    plain = Language(keep=("en",), top_k=2)
    (measure,) = plain.measures()
    assert list(measure.columns) == ["language", "language_score", "language_keep_score", "language_top"]
    assert (plain.file, plain.wants_file, Language(model="py3langid").wants_file) == (None, True, False)
    with pytest.raises(ModelError, match="no model file was given"):
        measure.identity()


def test_identity_is_what_the_model_holds_and_not_where_it_is(model):
    def identity(**more):
        path = more.pop("path", model.path)
        (measure,) = Language(model=path, **more).with_file(path, model.sha256).measures()
        return measure.identity()

    assert identity() == identity(path="elsewhere.bin") == identity(min_score=0.1)
    assert model.sha256 in json.dumps(identity())
    changed = [identity(keep=("en",)), identity(prefix_chars=10), identity(top_k=2), identity()]
    assert len({json.dumps(i) for i in changed}) == 4


def test_settings_and_measures_travel(model):
    there = pickle.loads(pickle.dumps(of(model, keep=["en"])))
    assert there == of(model, keep=["en"])
    assert there != Language(model=model.path, keep=["en"])
    assert there.file == model
    (measure,) = there.measures()
    assert pickle.loads(pickle.dumps(measure)) == measure
    assert load(model) is load(ModelFile(model.path, model.sha256))


def test_py3langid_needs_no_file():
    pytest.importorskip("py3langid", reason="py3langid is not installed")
    filter_ = Language(model="py3langid", keep=["de"], top_k=200)
    texts = ["Der Hund läuft über die Straße und bellt laut.", "The dog runs across the street.", ""]
    found = measured(filter_, texts)
    assert found["language"].to_pylist()[:2] == ["de", "en"]
    assert kept(filter_, texts) == [True, False, False]
    top = json.loads(found["language_top"][0].as_py())
    assert next(iter(top)) == "de"
    assert min(top.values()) >= 0.01
    (measure,) = filter_.measures()
    assert "py3langid" in json.dumps(measure.identity())
    with pytest.raises(ModelError, match="py3langid knows no 'deu'"):
        measured(Language(model="py3langid", keep=["deu"]), texts)


# Where models are found.


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A site of models, and an empty folder for those that are fetched; lets a test say what is published."""
    served = tmp_path / "site"
    served.mkdir()

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(served)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setattr(model_files, "SITE", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("WINNOW_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("no_proxy", "*")
    content = b"a model" * 1000
    monkeypatch.setitem(PUBLISHED, "lid.176.ftz", hashlib.sha256(content).hexdigest())
    yield served, content
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_published_model_is_fetched_once(site):
    served, content = site
    (served / "lid.176.ftz").write_bytes(content)
    found = find("lid.176.ftz")
    assert Path(found.path) == models_folder() / "lid.176.ftz"
    assert Path(found.path).read_bytes() == content
    assert found.sha256 == hashlib.sha256(content).hexdigest()
    (served / "lid.176.ftz").unlink()
    assert find("lid.176.ftz") == found
    assert [p.name for p in models_folder().iterdir()] == ["lid.176.ftz"]


def test_other_bytes_than_published_are_refused_and_not_kept(site):
    served, content = site
    (served / "lid.176.ftz").write_bytes(content[:-1])
    with pytest.raises(ModelError, match=r"sent is not lid\.176\.ftz: its sha256 is"):
        find("lid.176.ftz")
    assert list(models_folder().iterdir()) == []
    (models_folder() / "lid.176.ftz").write_bytes(b"something else")
    with pytest.raises(ModelError, match=r"is not the lid\.176\.ftz that fastText publishes"):
        find("lid.176.ftz")


def test_without_a_network_the_error_says_what_to_do(site):
    with pytest.raises(ModelError) as error:
        find("lid.176.ftz")
    said = str(error.value)
    assert (
        f"the model lid.176.ftz is not at {models_folder() / 'lid.176.ftz'}, and fetching it failed" in said
    )
    assert f"fetch {model_files.SITE}/lid.176.ftz" in said
    assert "`model:`" in said
    assert "py3langid" in said
    assert list(models_folder().iterdir()) == []


def test_a_folder_that_cannot_be_made_is_an_error_of_the_same_kind(site, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("WINNOW_MODELS", str(tmp_path / "file" / "models"))
    with pytest.raises(ModelError, match="fetching it failed"):
        find("lid.176.ftz")


def test_a_path_is_taken_as_it_is(tmp_path, monkeypatch):
    (tmp_path / "my.bin").write_bytes(b"x")
    monkeypatch.chdir(tmp_path)
    assert find("my.bin") == ModelFile(str(tmp_path / "my.bin"), hashlib.sha256(b"x").hexdigest())
    with pytest.raises(
        ModelError,
        match=r"^no file 'nope\.bin'; give the path of a model or a list, or the name of a model: lid",
    ):
        find("nope.bin")
    with pytest.raises(ModelError, match="no file"):
        find(str(tmp_path))


def test_models_are_kept_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.delenv("WINNOW_MODELS", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert models_folder() == tmp_path / "winnow" / "models"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert models_folder() == tmp_path / "home" / ".cache" / "winnow" / "models"


def test_files_that_are_no_classifier_are_refused(model, tmp_path):
    (tmp_path / "text.bin").write_text("not a model")
    with pytest.raises(ModelError, match="fastText cannot load"):
        load(find(str(tmp_path / "text.bin")))
    (tmp_path / "words.txt").write_text("a b c d e\n" * 20)
    vectors = fasttext.train_unsupervised(str(tmp_path / "words.txt"), dim=2, bucket=10, thread=1, verbose=0)
    vectors.save_model(str(tmp_path / "vectors.bin"))
    with pytest.raises(ModelError, match="holds word vectors, not a classifier"):
        load(find(str(tmp_path / "vectors.bin")))
    # fastText itself would end the process at a file that breaks off.
    cut = tmp_path / "cut.bin"
    cut.write_bytes(Path(model.path).read_bytes()[:10])
    with pytest.raises(ModelError, match="has changed: sha256"):
        load(ModelFile(str(cut), model.sha256))
    with pytest.raises(ModelError, match="cannot read the model file"):
        load(ModelFile(str(tmp_path / "gone.bin"), model.sha256))


def real_model() -> ModelFile:
    path = SHARED / "models" / "lid.176.ftz"
    if not path.exists():
        pytest.skip("needs the shared corpora beside the checkout")
    return find(str(path))


def test_the_real_model_has_the_published_sha256():
    assert sha256_of(real_model().path) == PUBLISHED["lid.176.ftz"]


def test_real_documents_are_in_the_language_their_path_says():
    """Of documentation in many languages; what goes wrong is mostly code, and English that was never translated."""
    zstandard = pytest.importorskip("zstandard")
    filter_ = of(real_model())
    found: dict[str, Counter] = {}
    shards = sorted((SHARED / "corpora" / "web_docs_multi").glob("*.jsonl.zst"))
    if not shards:
        pytest.skip("needs the shared corpora beside the checkout")
    with open(shards[0], "rb") as file:
        rows = io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(file), encoding="utf-8")
        sample = [json.loads(line) for line, _ in zip(rows, range(4000), strict=False)]
    languages = measured(filter_, [row["text"] for row in sample])["language"].to_pylist()
    for row, language in zip(sample, languages, strict=True):
        if truth := row["meta"].get("lang"):
            found.setdefault(truth.split("-")[0].split("_")[0].lower(), Counter())[language] += 1
    judged = {truth: counts for truth, counts in found.items() if counts.total() >= 50}
    assert judged
    for truth, counts in judged.items():
        assert counts[truth] + counts["en"] >= 0.9 * counts.total(), (truth, counts.most_common(5))
