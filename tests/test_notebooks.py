"""Is a notebook's script its code as it stands, with everything else as comments?"""

import ast
import json
import random
import re
import tarfile
import warnings
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from winnow.shards.conversion import Unconvertible
from winnow.shards.convert_settings import Notebook
from winnow.shards.notebooks import OUTPUT_CHARACTERS, script

CORPUS = Path(__file__).parents[1] / "../shared/corpora/notebooks"
DROP, KEEP = Notebook(outputs="drop"), Notebook(outputs="keep")


def cell(kind, source, **more):
    return {"cell_type": kind, "source": source, "metadata": {}, **more}


def notebook(*cells, **metadata):
    return json.dumps({"nbformat": 4, "nbformat_minor": 5, "metadata": metadata, "cells": list(cells)})


def text_of(*cells, settings=DROP, **metadata):
    return script(notebook(*cells, **metadata), settings).text


def test_cells():
    found = text_of(
        cell("markdown", "# Title\n\ntext\r\nmore\n"),
        cell("code", ["import os\n", "\n", "\n", "os.getcwd()\n", "\n"]),
        cell("code", "  \n\n"),
        cell("raw", "raw\rtext"),
        cell("code", "\n# a comment\nx = 1", outputs=[{"output_type": "stream", "text": "printed"}]),
    )
    assert found == (
        "# # Title\n#\n# text\n# more\n\n"
        "import os\n\n\nos.getcwd()\n\n"
        "# raw\n# text\n\n"
        "# a comment\nx = 1\n"
    )  # fmt: skip


@pytest.mark.parametrize(
    "outside", [lambda cells: {"worksheets": [{"cells": cells[:2]}, {"cells": cells[2:]}]}]
)
def test_nbformat_3(outside):
    cells = [
        {"cell_type": "heading", "level": 2, "source": "Title"},
        {"cell_type": "code", "language": "julia", "input": ["x = 1\n", "%y"], "outputs": [
            {"output_type": "pyout", "text": ["1\n"]}, {"output_type": "stream", "text": "2"}]},
        {"cell_type": "markdown", "source": "text"},
    ]  # fmt: skip
    sheets = [{"cells": cells[:2]}, {"cells": cells[2:]}]
    found = script(json.dumps({"nbformat": 3, "metadata": {"name": ""}, "worksheets": sheets}).encode(), KEEP)
    assert found.text == "# ## Title\n\nx = 1\n# %y\n# 1\n# 2\n\n# text\n"
    assert found.columns == {"language": "julia"}


@pytest.mark.parametrize(
    ("kernel", "info", "language", "comment"),
    [
        ({"name": "python3", "language": "python"}, {}, "python", "# m"),
        ({"name": "ir", "language": "R"}, {"name": "R"}, "R", "# m"),
        ({"name": "x"}, {"name": "scala"}, "scala", "// m"),
        ({"name": "xcpp17", "language": "C++17"}, {}, "C++17", "// m"),
        ({"name": "julia-1.9", "language": "Julia 1.9"}, {}, "Julia 1.9", "# m"),
        ({"name": ".net", "language": "C#"}, {}, "C#", "// m"),
        ({"name": "h", "language": "haskell"}, {}, "haskell", "-- m"),
        ({"name": "o", "language": "OCaml"}, {}, "OCaml", "(* m *)"),
        ({"name": "matlab"}, {"name": "matlab"}, "matlab", "% m"),
        ({"name": "z", "language": "zig"}, {}, "zig", "# m"),
        ({}, {}, None, "# m"),
        ({"name": 1}, {"name": []}, None, "# m"),
    ],
)
def test_language(kernel, info, language, comment):
    found = script(notebook(cell("markdown", "m\n\nm"), kernelspec=kernel, language_info=info), DROP)
    empty = comment.replace(" m", "")
    assert found.text == f"{comment}\n{empty}\n{comment}\n"
    assert found.columns.get("language") == language
    assert found.columns.get("kernel") == (kernel["name"] if isinstance(kernel.get("name"), str) else None)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("%matplotlib inline", "# %matplotlib inline"),
        ("    %time f(x)", "    # %time f(x)"),
        ("%%time", "# %%time"),
        ("!pip install x", "# !pip install x"),
        ("! ls", "# ! ls"),
        ("!!ls", "# !!ls"),
        ("!(cd a && ls)", "# !(cd a && ls)"),
        ("    != b)", "    != b)"),
        ("?print", "# ?print"),
        ("print?", "# print?"),
        ("np.sum??", "# np.sum??"),
        ("files = !ls *.txt", "# files = !ls *.txt"),
        ("t = %timeit -o f()", "# t = %timeit -o f()"),
        ("cd ..", "# cd .."),
        ("ls", "# ls"),
        ("ls = 3", "ls = 3"),
        ("cat, dog = 1, 2", "cat, dog = 1, 2"),
        ("echo(1)", "echo(1)"),
        ("x = a % b", "x = a % b"),
        ("x = a != b", "x = a != b"),
        ("# what?", "# what?"),
        ("#what?", "#what?"),
        ("print('a?')", "print('a?')"),
        ("% 3", "% 3"),
    ],
)
def test_magics_of_python(line, expected):
    assert text_of(cell("code", f"a = 1\n{line}\nb = 2")) == f"a = 1\n{expected}\nb = 2\n"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("!pip install \\\n  a \\\n  b\nx", "# !pip install \\\n#   a \\\n#   b\nx"),
        ("x = '''\n%not a magic\n!ls\n'''\n%magic", "x = '''\n%not a magic\n!ls\n'''\n# %magic"),
        ('x = """a\'\'\'"""\n%magic', 'x = """a\'\'\'"""\n# %magic'),
        ('x = """\n\'\'\'\n%no\n"""\n%magic', 'x = """\n\'\'\'\n%no\n"""\n# %magic'),
        ("x = 'it\\'''s'  # '''\n%magic", "x = 'it\\'''s'  # '''\n# %magic"),
        ("# '''\n%magic", "# '''\n# %magic"),
        ("x = '#' '''\n%no'''", "x = '#' '''\n%no'''"),
        ("x = 'open\n%magic", "x = 'open\n# %magic"),
        ("%%bash\nls -l\n\necho", "# %%bash\n# ls -l\n#\n# echo"),
        ("%%writefile a.py\nx = 1", "# %%writefile a.py\nx = 1"),
        ("%%writefile a.proto\nx", "# %%writefile a.proto\n# x"),
        ("%%capture\nx = 1", "# %%capture\nx = 1"),
        ("%%\nx = 1", "%%\nx = 1"),
    ],
)
def test_magics_of_many_lines(source, expected):
    assert text_of(cell("code", source)) == expected + "\n"


@pytest.mark.parametrize(
    ("language", "line", "expected"),
    [
        ("R", "%in% x", "%in% x"),
        ("octave", "%comment", "%comment"),
        ("rust", ':dep rand = "0.8"', '// :dep rand = "0.8"'),
        ("scala", "%truncation off", "// %truncation off"),
        ("julia", "ls", "ls"),
        ("R", "%%bash", "# %%bash"),
    ],
)
def test_magics_of_other_languages(language, line, expected):
    assert text_of(cell("code", line), kernelspec={"language": language}) == expected + "\n"


def test_outputs():
    outputs = [
        {"output_type": "stream", "name": "stdout", "text": ["a\n", "\x1b[31mred\x1b[0m  \n"]},
        {"output_type": "stream", "name": "stdout", "text": " 10%\r 50%\r100%\n"},
        {"output_type": "execute_result", "data": {"text/plain": "3\r\n4", "text/html": "<b>3</b>"}},
        {"output_type": "display_data", "data": {"image/png": "aGVsbG8="}},
        {"output_type": "error", "ename": "E", "traceback": ["trace"]},
        None,
    ]
    code = cell("code", "f()", outputs=outputs)
    assert text_of(code) == "f()\n"
    assert text_of(code, settings=KEEP) == "f()\n# a\n# red\n# 100%\n# 3\n# 4\n"
    assert text_of(cell("code", "f()", outputs="none"), settings=KEEP) == "f()\n"
    long = [{"output_type": "stream", "text": "0123456789\n" * 100_000}]
    kept = text_of(cell("code", "f()", outputs=long), settings=KEEP).splitlines()[1:]
    assert set(kept) == {"# 0123456789"}
    assert OUTPUT_CHARACTERS - 11 < 11 * len(kept) <= OUTPUT_CHARACTERS


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not-a-notebook"),
        (b"<html>", "not-a-notebook"),
        (b"[]", "not-a-notebook"),
        (b"{}", "not-a-notebook"),
        (b'{"cells": {}}', "not-a-notebook"),
        (b'{"cells": [1]}', "not-a-notebook"),
        (b'{"cells": [{"cell_type": "code", "source": 1}]}', "not-a-notebook"),
        (b'{"cells": [{"cell_type": "code", "source": ["a", 1]}]}', "not-a-notebook"),
        (b'{"worksheets": [1]}', "not-a-notebook"),
        (b'{"worksheets": null}', "not-a-notebook"),
        (b'{"cells": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "not-a-notebook"),
        (b'{"cells": [], "x": "\xff"}', "utf8"),
    ],
)
def test_what_is_no_notebook(data, reason):
    with pytest.raises(Unconvertible) as caught:
        script(data, DROP)
    assert caught.value.reason == reason


def test_what_json_takes_and_others_do_not():
    assert script(b'\xef\xbb\xbf{"cells": [], "x": NaN}', DROP).text == ""
    data = '{"cells": [{"cell_type": "code", "source": "\\ud800"}]}'
    assert script(data, DROP).text == "\ud800\n"
    assert script(b'{"cells": [{"cell_type": "code"}], "metadata": 3}', DROP).text == ""


@given(st.lists(st.tuples(st.sampled_from(["markdown", "raw"]), st.text(max_size=40))), st.data())
def test_text_never_becomes_code(cells, data):
    """Whatever Markdown holds, every line of it is a comment of Python."""
    newline = data.draw(st.sampled_from(["\n", "\r", "\r\n"]))
    found = text_of(*(cell(kind, text + newline + "import os") for kind, text in cells))
    assert not found or ast.dump(ast.parse(found.replace("\0", ""))) == ast.dump(ast.parse(""))


def test_a_large_notebook_takes_no_longer_for_its_shape():
    for line in (
        "%" * 10**6,
        " " * 10**6 + "x",
        "a" * 10**6,
        "'" * 10**6,
        "# " * 500_000,
        "?" * 10**6,
        "\n" * 10**6,
    ):
        text_of(cell("code", line), cell("markdown", line), settings=KEEP)


# ---- real notebooks ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real():
    """Some notebooks of the corpus."""
    if not CORPUS.is_dir():
        pytest.skip("needs the shared corpora beside the checkout")
    found = []
    for path in sorted(CORPUS.glob("*.tar.zst")):
        with (
            open(path, "rb") as file,
            zstandard.ZstdDecompressor().stream_reader(file) as stream,
            tarfile.open(fileobj=stream, mode="r|") as archive,
        ):
            found += [archive.extractfile(member).read() for member in archive if member.isfile()]
    return random.Random(0).sample(found, len(found) // 15)


def lines_of(text):
    """The lines that say something."""
    return [line.rstrip() for line in text.split("\n") if line.rstrip() not in ("", "#")]


def test_scripts_are_those_of_jupytext(real):
    """But for its header and its marks.

    And for five things, four of which Jupytext does to make a notebook again or to be on the safe side: it makes a mark
    of `%%bash` and its like, makes comments of comments that look like magics, leaves what `%%writefile` writes as code
    in whatever language, and makes a comment of `# + ` in Markdown once more; and it takes `!(command)` for code.
    """
    import jupytext
    import nbformat

    equal = 0
    for data in real:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            cells = nbformat.reads(data.decode(), 4)
            cells.metadata.setdefault(
                "kernelspec", {"language": "python", "name": "python3", "display_name": ""}
            )
            theirs = jupytext.writes(cells, "py:light")
        theirs = re.sub(r"\A# ---\n.*?\n# ---\n", "", theirs, flags=re.DOTALL)
        theirs = re.sub(r"(?m)^# (\+( .*)?|-)$\n?", "", theirs)
        mine = lines_of(script(data, DROP).text)
        others = [re.sub(r"^( *)!\(", r"\1# !(", line) for line in lines_of(theirs)]
        if mine == others:
            equal += 1
            continue
        mine = [line for line in mine if not line.startswith("# %%")]
        if not any("%%writefile" in line for line in others):
            assert mine == [
                re.sub(r"^( *)# (?=#)", r"\1", line) if line not in mine else line for line in others
            ]
    assert equal > 0.75 * len(real)


def test_most_scripts_are_python(real):
    parsed = 0
    for data in real:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                ast.parse(script(data, DROP).text)
        except SyntaxError:
            continue
        parsed += 1
    assert parsed > 0.75 * len(real)
