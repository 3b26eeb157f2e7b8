"""Is a control token only ever the template's, and is what is trained on where the template says?

The oracle for text and answers is transformers' own rendering.
"""

import itertools
import json
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from winnow.tokenize.chat import ChatError, Conversation, RowText, check, check_template
from winnow.tokenize.chat_settings import FORMATS, Chat, Turn
from winnow.tokenize.chat_templates import TEMPLATES, control_tokens

ANSWER = "{% generation %}"
DONE = "{% endgeneration %}"
OWN = {
    # As the documentation of chat templates shows ChatML and Zephyr's way, and how Llama 3 headers are written.
    "chatml-trimmed": (
        "{%- for message in messages %}\n    {{- '<|im_start|>' + message.role + '\\n' }}\n"
        "    {%- if message.role == 'assistant' %}\n        " + ANSWER + "{{- message.content | trim + '<|im_end|>' }}"
        + DONE + "\n    {%- else %}\n        {{- message.content | trim + '<|im_end|>' }}\n    {%- endif %}\n"
        "    {{- '\\n' }}\n{%- endfor %}\n"
        "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}\n"
    ),
    "zephyr": (
        "{% for message in messages %}\n{% if message['role'] == 'assistant' %}\n"
        "<|assistant|>\n" + ANSWER + "{{ message['content'] + eos_token }}" + DONE + "\n{% else %}\n"
        "{{ '<|' + message['role'] + '|>\\n' + message['content'] + eos_token }}\n{% endif %}\n{% endfor %}"
    ),
    "headers": (
        "{{ bos_token }}{% set heads = namespace(n=0) %}{% for m in messages %}{% set heads.n = heads.n + 1 %}"
        "{% set head = '<|start_header_id|>' ~ m.role ~ '<|end_header_id|>\\n\\n' %}{{ head }}"
        "{% if m.role == 'assistant' %}" + ANSWER + "{{ m.content | trim }}{{ '<|eot_id|>' }}" + DONE +
        "{% else %}{{ m.content | trim ~ '<|eot_id|>' }}{% endif %}{% endfor %}{{ heads.n }}"
    ),
    "tight": "{% for m in messages %}{{ '<' + m.content + '>' if m.role == 'user' else m.content }}{% endfor %}<s>",
}  # fmt: skip
TOKENS = {"zephyr": ("</s>", "<|user|>", "<|assistant|>"), "tight": ("<s>", "</s>")}

SHARDS_OF_TOKENS = [
    "<s>", "</s>", "<", "s>", "/s>", ">", "</s", "s", "<|im_start|>", "<|im_end|>", "<|im_", "im_end", "|>", "<|",
    "<|endoftext|>", "<|eot_id|>", "[INST]", "[/INST]", "<<SYS>>", "user", "\ufdd0", "\ufdd1", "\ufdd2", "\ufdd3",
    "{{ bos_token }}", "{% generation %}", "{% raw %}", "%}", "é", "😀", "中", " ", "\n", "\t", "\u3000", "a", "word",
]  # fmt: skip
WORDS = st.lists(st.sampled_from(SHARDS_OF_TOKENS), min_size=1, max_size=6).map("".join).filter(str.strip)
EXCHANGES = st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=3)


def chat(name: str) -> Chat:
    how = {"format": name} if name in FORMATS else {"template": OWN[name], "control_tokens": TOKENS.get(name)}
    return Chat(column="d", kind="alternating", **how)


def said(*turns: str) -> dict:
    return {"d": list(turns)}


def flat(exchanges) -> list[str]:
    return list(itertools.chain.from_iterable(exchanges))


def written(name: str, turns: list[str]) -> tuple[bytes, dict]:
    text, meta = Conversation(chat(name))({"d": turns, "id": 1})
    spans = meta.pop("winnow_chat")
    assert meta == {"id": 1}
    assert json.loads(json.dumps(spans)) == spans
    return text.encode(), spans


def parts(data: bytes, spans: list) -> list[str]:
    return [data[start:end].decode() for start, end in spans]


@pytest.fixture(scope="module")
def rendered():
    """(text, answers) as transformers renders them."""
    utils = pytest.importorskip("transformers.utils.chat_template_utils")

    def by_transformers(name: str, turns: list[str]) -> tuple[str, list[tuple[int, int]]]:
        known = TEMPLATES.get(name)
        messages = [
            {"role": "assistant" if i % 2 else "user", "content": content} for i, content in enumerate(turns)
        ]
        texts, answers = utils.render_jinja_template(
            [messages],
            chat_template=known.source if known else OWN[name],
            return_assistant_tokens_mask=name != "tight",
            bos_token=known.bos_token if known else "<s>",
            eos_token=known.eos_token if known else "</s>",
        )
        return texts[0], answers[0] if answers else []

    return by_transformers


# ---- against transformers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*FORMATS, *OWN])
def test_text_and_answers_are_transformers_own(name, rendered):
    @given(EXCHANGES)
    @settings(deadline=None, max_examples=15)
    def same(exchanges):
        turns = flat(exchanges)
        data, spans = written(name, turns)
        text, answers = rendered(name, turns)
        assert data.decode() == text
        if name == "tight":
            assert spans["trained"] == [[0, len(data)]]
        else:
            assert parts(data, spans["trained"]) == [text[start:end] for start, end in answers]
            assert [len(data[: s[0]].decode()) for s in spans["trained"]] == [start for start, _ in answers]

    same()


# ---- control tokens ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*FORMATS, *OWN])
def test_no_turn_makes_or_unmakes_a_control_token(name):
    @given(EXCHANGES)
    @settings(deadline=None, max_examples=25)
    def only_the_templates(exchanges):
        data, spans = written(name, flat(exchanges))
        plain, expected = written(name, ["word"] * 2 * len(exchanges))
        assert parts(data, spans["control"]) == parts(plain, expected["control"])
        around, between = _between(data, spans["control"]), _between(plain, expected["control"])
        assert len(around) == len(between)
        assert spans["turns"][-1] == len(data)
        assert len(spans["turns"]) == (1 if name == "tight" else len(exchanges))

    only_the_templates()


def _between(data: bytes, spans: list) -> list[bytes]:
    edges = [0, *itertools.chain.from_iterable(spans), len(data)]
    assert edges == sorted(edges)
    return [data[edges[i] : edges[i + 1]] for i in range(0, len(edges), 2)]


@given(EXCHANGES)
@settings(deadline=None)
def test_control_tokens_are_where_the_template_writes_them(exchanges):
    """ChatML put together by hand."""
    expected, at = [], 0
    pieces = [("<s>", True)]
    for role, content in itertools.chain.from_iterable(
        (("user", question), ("assistant", answer)) for question, answer in exchanges
    ):
        pieces += [("<|im_start|>", True), (f"{role}\n{content}", False), ("<|im_end|>", True), ("\n", False)]
    for piece, is_control in pieces:
        if is_control:
            expected.append([at, at + len(piece)])
        at += len(piece.encode())
    data, spans = written("chatml", flat(exchanges))
    assert data.decode() == "".join(piece for piece, _ in pieces)
    assert spans["control"] == expected


@pytest.mark.parametrize(
    "turns",
    [
        ["s", "<", "/s", "s>"],
        ["x<s", "a"],
        [" x</s", "a"],
        ["s> x", "a"],
        ["/s>x ", "a"],
        ["</s", "s"],
        ["q", "<s"],
    ],
)
def test_a_token_put_together_of_a_turn_and_the_template_is_none(turns):
    data, spans = written("tight", turns)
    assert data.decode() == "".join(turn if i % 2 else f"<{turn}>" for i, turn in enumerate(turns)) + "<s>"
    assert spans["control"] == [[len(data) - 3, len(data)]]


def test_a_turn_of_every_noncharacter_is_kept():
    every = "".join(
        map(chr, [*range(0xFDD0, 0xFDF0), *(p << 16 | e for p in range(17) for e in (0xFFFE, 0xFFFF))])
    )
    data, spans = written("chatml", [f"<s>{every}<s>", every])
    assert f"user\n<s>{every}<s><|im_end|>" in data.decode()
    assert parts(data, spans["trained"]) == [f"{every}<|im_end|>"]
    assert len(spans["control"]) == 5


# ---- where a document may be cut -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*FORMATS, "chatml-trimmed", "zephyr"])
def test_a_document_cut_behind_an_exchange_is_that_of_the_shorter_conversation(name):
    turns = ["Où ?", "là <s>", "q2", "a2", "q3", "a3 中"]
    data, spans = written(name, turns)
    for i, end in enumerate(spans["turns"]):
        shorter, marks = written(name, turns[: 2 * i + 2])
        assert data[:end] == shorter
        assert marks["turns"] == spans["turns"][: i + 1]
        assert marks["control"] == [span for span in spans["control"] if span[1] <= end]


def test_a_template_that_does_not_mark_every_answer_is_cut_nowhere():
    mark = f"{{% if loop.last %}}{ANSWER}!{DONE}{{% endif %}}"
    template = f"{{% for m in messages %}}{{{{ m.content }}}}{mark}{{% endfor %}}"
    _, meta = Conversation(Chat(template=template, column="d", kind="alternating"))(said("a", "b", "c", "d"))
    assert meta["winnow_chat"] == {"control": [], "trained": [[4, 5]], "turns": [5]}


def test_what_only_the_last_answer_has_behind_it_is_no_part_of_others():
    template = f"{{% for m in messages %}}{ANSWER}{{{{ m.content }}}}{DONE}{{% endfor %}} end"
    answers = Chat(template=template, column="d", roles={"a": "assistant"})
    rows = [{"role": role, "content": f"{role}{i}"} for i, role in enumerate(["user", "a", "a"])]
    assert Conversation(answers)({"d": rows})[1]["winnow_chat"]["turns"] == [len("user0a1a2 end")]
    every = f"{{% for m in messages[1:] %}}{ANSWER}{{{{ m.content }}}}{DONE}{{% endfor %}} end"
    last = Conversation(answers.model_copy(update={"template": every}))
    assert last({"d": rows})[1]["winnow_chat"]["turns"] == [len("a1"), len("a1a2 end")]


@pytest.mark.parametrize("begins", ["", "{{ bos_token }}"])
@pytest.mark.parametrize(
    ("answers", "turns"),
    [(["", "a"], [1]), (["a", ""], [1]), (["a", "", "b"], [1, 2]), (["", "", "a"], [1])],
)
def test_an_exchange_that_a_template_writes_nothing_for_ends_nowhere(begins, answers, turns):
    """Thoughts are left out; of an answer that is all thoughts nothing is left."""
    written = f"{ANSWER}{{{{ m.content.split('/')[-1] }}}}{DONE}"
    template = f"{begins}{{% for m in messages if m.role == 'assistant' %}}{written}{{% endfor %}}"
    rows = flat(("q", f"thoughts/{answer}") for answer in answers)
    found = Conversation(Chat(template=template, column="d", kind="alternating"))(said(*rows))[1][
        "winnow_chat"
    ]
    first = 3 if begins else 0
    assert found["turns"] == [first] * (bool(begins) and not answers[0]) + [first + turn for turn in turns]


def test_a_conversation_of_which_nothing_is_written_has_no_answer():
    template = f"{{% for m in messages[1::2] %}}{ANSWER}{{{{ m.content.strip('-') }}}}{DONE}{{% endfor %}}"
    with pytest.raises(ChatError, match="no-answer"):
        Conversation(Chat(template=template, column="d", kind="alternating"))(said("q", "-", "q", "--"))


@pytest.mark.parametrize(("answers", "behind"), [(["a", "b"], "bb"), (["a", "b", "c"], "bc")])
def test_what_stands_behind_the_last_answer_is_not_found_across_another(answers, behind):
    template = f"{{% for m in messages[1::2] %}}{ANSWER}{{{{ m.content }}}}{DONE}{{% endfor %}}{behind}"
    rows = flat(("q", answer) for answer in answers)
    found = Conversation(Chat(template=template, column="d", kind="alternating"))(said(*rows))[1][
        "winnow_chat"
    ]
    ends = list(itertools.accumulate(map(len, answers)))
    assert found["turns"] == [*ends[:-1], ends[-1] + len(behind)]


def test_no_exchange_ends_inside_a_control_token():
    ends = "{{ '<|end|>' if not loop.last else '<|end' }}"
    template = f"{{% for m in messages[1::2] %}}{ANSWER}{{{{ m.content }}}}{DONE}{ends}{{% endfor %}}"
    answers = Chat(template=template, column="d", kind="alternating")
    found = Conversation(answers)(said("q", "a", "q", "b"))[1]["winnow_chat"]
    assert found == {"control": [[1, 8]], "trained": [[0, 1], [8, 9]], "turns": [1, 14]}


def test_a_block_within_a_block_is_one():
    inner = f"{ANSWER}a{ANSWER}b{DONE}c{DONE}"
    nested = Chat(template=f"{{{{ messages[0].content }}}}{inner}", column="d", kind="alternating")
    assert Conversation(nested)(said("q", "a"))[1]["winnow_chat"]["trained"] == [[1, 4]]


def test_an_answer_is_found_where_a_template_moves_it():
    template = (
        "{% macro answer(m) %}{% generation %}{{ m.content }}{% endgeneration %}{% endmacro %}"
        "{% set kept %}{% for m in messages if m.role == 'assistant' %}{{ answer(m) }};{% endfor %}{% endset %}"
        "before {{ kept }}"
    )
    text, meta = Conversation(Chat(template=template, column="d", kind="alternating"))(
        said("q", "a", "q", "bé")
    )
    assert text == "before a;bé;"
    assert meta["winnow_chat"] == {"control": [], "trained": [[7, 8], [9, 12]], "turns": [9, 13]}


def test_variables_set_in_an_answer_stay_there():
    answer = f"{ANSWER}{{% set x = 'i' %}}{{{{ x }}}}{DONE}{{{{ x }}}}"
    template = f"{{% set x = 'o' %}}{{% for m in messages %}}{answer}{{% endfor %}}"
    assert Conversation(Chat(template=template, column="d", kind="alternating"))(said("q", "a"))[0] == "ioio"


def test_a_template_that_writes_no_answer_gives_none():
    template = f"{{% if false %}}{ANSWER}{DONE}{{% endif %}}nothing"
    with pytest.raises(ChatError, match="no-answer"):
        Conversation(Chat(template=template, column="d", kind="alternating"))(said("q", "a"))


# ---- templates that nobody vouches for -----------------------------------------------------------------------

EXCHANGE = "the template cannot write a question with its answer: "


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{% for m in messages %}{{ m.content", "line 1 of the template: unexpected end of template"),
        ("a\n{{ messages | random }}", "line 2 of the template: No filter named 'random'"),
        ("{{ ''.__class__.__mro__ }}", EXCHANGE + "access to attribute '__class__'"),
        ("{{ messages.append(1) }}", EXCHANGE),
        ("{{ strftime_now('%d') }}", EXCHANGE + "'strftime_now' is undefined"),
        ("{{ lipsum() }}", EXCHANGE + "'lipsum' is undefined"),
        ("{{ raise_exception('no such role') }}", EXCHANGE + "no such role"),
        ("{% include 'x' %}", EXCHANGE),
        ("{{ 'a' * 10 ** 9 }}", EXCHANGE + "too long"),
        ("{{ [0] * 10 ** 9 }}", EXCHANGE + "too long"),
        ("{{ ('x' * 1000) | replace('x', 'y' * 10 ** 7) }}", EXCHANGE + "too long"),
        ("{{ ('x' * 1000).replace('x', 'y' * 10 ** 7) }}", EXCHANGE + "too long"),
        ("{{ (['y'] * 1000) | join('x' * 10 ** 7) }}", EXCHANGE + "too long"),
        ("{{ ('x' * 10 ** 7).join(['y'] * 1000) }}", EXCHANGE + "too long"),
        ("{{ ([['x' * 10 ** 7] * 9] * 1000) | join }}", EXCHANGE + "too long"),
        ("{{ ['x' * 10 ** 7] * 1000 }}", EXCHANGE + "too long"),
        ("{{ (['x' * 10 ** 7] * 1000) | tojson }}", EXCHANGE + "too long"),
        ("{{ (['x' * 10 ** 7] * 1000) | upper }}", EXCHANGE + "too long"),
        ("{{ '%s' % (['x' * 10 ** 7] * 1000,) }}", EXCHANGE + "too long"),
        ("{{ 'a' ~ ['x' * 10 ** 7] * 1000 }}", EXCHANGE + "too long"),
        ("{{ ([['x'] * 10 ** 4] * 10 ** 4) | sum(start=[]) | length }}", EXCHANGE + "too long"),
        ("{{ ('x\n' * 10 ** 6) | indent(999) }}", EXCHANGE + "too long"),
        ("{{ (1).to_bytes(10 ** 9, 'big') }}", EXCHANGE + "access to attribute 'to_bytes'"),
        ("{% set x = 'x' * 10 ** 7 %}{% for i in range(99) %}{% set y = x | e %}{% endfor %}", EXCHANGE + "too long"),
        ("{% set x = 'x' * 10 ** 7 %}{% for i in range(99) %}{% set y = x[1:] %}{% endfor %}", EXCHANGE + "too long"),
        ("{% set x %}{% for i in range(99) %}{{ 'x' * 10 ** 6 }}{% endfor %}{% endset %}" * 6, EXCHANGE + "too long"),
        ("{{ 9 ** 999999 }}", EXCHANGE + "too large a power"),
        ("{{ '%999999999d' % 1 }}", EXCHANGE + "too wide a field"),
        ("{{ 'x'.center(10 ** 9) }}", EXCHANGE + "access to attribute 'center'"),
        ("{{ '{:999999999}'.format(1) }}", EXCHANGE + "text is put together with ~"),
        ("{{ 'x' | indent(10 ** 9) }}", EXCHANGE + "too wide"),
        ("{{ range(10 ** 9) }}", EXCHANGE + "Range too big"),
        ("{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}", EXCHANGE + "too many steps"),
        ("{% macro f(n) %}{{ f(n) }}{% endmacro %}{{ f(1) }}", EXCHANGE + "maximum recursion depth"),
        (
            "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
            EXCHANGE + "too many steps",
        ),
        ("{% for m in messages %}{{ m.role }}{% endfor %}", "the template does not write the answer"),
    ],
)  # fmt: skip
def test_a_template_that_cannot_be_is_refused_before_work(template, message, monkeypatch):
    monkeypatch.setattr("winnow.tokenize.chat_sandbox.STEPS", 20_000)
    assert (check(Chat(template=template, column="d")) or "").startswith(message)


@pytest.mark.parametrize("doubled", ["ns.s ~ ns.s", "ns.s + ns.s", "f(ns.s)", "[ns.s, ns.s] | join"])
def test_a_text_that_doubles_ends(doubled, monkeypatch):
    monkeypatch.setattr("winnow.tokenize.chat_sandbox.MOST_MADE", 1 << 17)
    macro = "{% macro f(s) %}{{ s }}{{ s }}{% endmacro %}{% set ns = namespace(s='a') %}"
    template = f"{macro}{{% for i in range(18) %}}{{% set ns.s = {doubled} %}}{{% endfor %}}{{{{ ns.s }}}}"
    with pytest.raises(ChatError, match=r"template|too-large"):
        RowText(template)({})
    rounds = "{% for i in range(18) %}{% set ns.s %}{{ ns.s }}{{ ns.s }}{% endset %}{% endfor %}"
    block = "{% set ns = namespace(s='a') %}" + rounds
    with pytest.raises(ChatError, match="template"):
        RowText(block)({})


def test_lists_of_lists_that_double_are_not_written_out(monkeypatch):
    monkeypatch.setattr("winnow.tokenize.chat_sandbox.STEPS", 20_000)
    doubled = "{% set ns = namespace(l=['word']) %}{% for i in range(40) %}{% set ns.l = [ns.l, ns.l] %}{% endfor %}"
    for written in (
        "{{ ns.l }}",
        "{{ {1: ns.l}.values() }}",
        "{{ ns.l | join }}",
        "{{ ns.l | string }}",
        "{{ ns.l | tojson }}",
        "{{ 'a' ~ ns.l }}",
        "{{ ns }}",
    ):
        with pytest.raises(ChatError, match="template"):
            RowText(doubled + written)({})


def test_texts_are_counted_for_each_row_anew(monkeypatch):
    monkeypatch.setattr("winnow.tokenize.chat_sandbox.MOST_MADE", 100)
    text = RowText("{{ a | upper }}{{ a | replace('b', 'cc') }}")
    for _ in range(9):
        assert text({"a": "b" * 30})[0] == "B" * 30 + "cc" * 30
    with pytest.raises(ChatError, match="template"):
        text({"a": "b" * 40})


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{ a.replace('b', 'xy', 1) }}{{ a | replace('b', 'x', 2) }}", "axyb|axx|"),
        ("{{ a.replace('', '-') }}{{ 12 | replace(1, 3) }}", "-a-b-b-|-32"),
        ("{{ '-'.join(['p', 'q']) }}{{ ['p', 1, none] | join('-') }}", "p-qp-1-None"),
        ("{{ l | join(' ', attribute='k') }}{{ [] | join }}{{ l | map(attribute='k') | join }}", "1 212"),
        ("{{ [1, 2] | sum }}{{ l | sum(attribute='k', start=3) }}{{ [] | sum }}", "360"),
        ("{{ l }}{{ none }}{{ l[1:] }}", "[{'k': 1}, {'k': 2}][{'k': 2}]"),
        ("{{ {'é': [1, 2.5, none]} | tojson }}", '{"é": [1, 2.5, null]}'),
        ("{{ {'b': 1, 'a': []} | tojson(indent=2, sort_keys=true) }}", '{\n  "a": [],\n  "b": 1\n}'),
    ],
)  # fmt: skip
def test_bounded_operations_make_what_jinjas_make(template, text):
    assert RowText(template)({"a": "abb|", "l": [{"k": 1}, {"k": 2}]})[0] == text


def test_what_a_template_may_ask_for_and_need_not_have():
    template = (
        "{% if strftime_now is defined or tools %}{{ strftime_now('%Y') }}{% endif %}{{ messages | tojson }}"
    )
    assert check(Chat(template=template, column="d")) is None
    text = Conversation(Chat(template=template, column="d", kind="alternating"))(said("é", "<a>"))[0]
    assert text == '[{"role": "user", "content": "é"}, {"role": "assistant", "content": "<a>"}]'


@pytest.mark.parametrize("token", ["x", " <s>", "<s>\n"])
def test_control_tokens_that_cannot_be_are_refused(token):
    message = check(Chat(format="chatml", column="d", control_tokens=(token,)))
    assert (
        message == f"a control token has two characters or more, and no blank at its ends: {token!r} has not"
    )


def test_templates_of_columns_are_checked():
    assert check_template("{{ title }}: {{ body }}") is None
    assert (
        check_template("{{ title")
        == "line 1 of the template: unexpected end of template, expected 'end of print statement'."
    )
    turns = (Turn(role="user", text="{{ q }}"), Turn(role="assistant", text="\n{% if %}"))
    assert (check(Chat(format="chatml", turns=turns)) or "").startswith("line 2 of the template: ")


def test_a_column_is_never_run_as_a_template():
    assert RowText("{{ a }}")({"a": "{{ 7 * 7 }}{% endraw %}"})[0] == "{{ 7 * 7 }}{% endraw %}"


def test_long_conversations_take_linear_time():
    turns = ["[INST]<s>" * 2, "</s>😀"] * 5_000
    data, spans = written("chatml", turns)
    assert len(spans["turns"]) == 5_000
    assert data.count(b"<s>") == 10_001
    million = Conversation(Chat(format="chatml", column="d", kind="inst"))
    with pytest.raises(ChatError, match="wrong-type"):
        million({"d": "[INST]" * 200_000})


def test_a_conversation_travels_with_a_task():
    one = Conversation(chat("chatml"))
    expected = one(said("q", "a"))
    again = pickle.loads(pickle.dumps(one))
    assert again == one
    assert again(said("q", "a")) == expected
    assert pickle.loads(pickle.dumps(RowText("{{ a }}"))) == RowText("{{ a }}")


def test_control_tokens_of_a_template_of_ones_own():
    assert control_tokens(Chat(template=OWN["headers"], column="d")) == (
        "<s>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>",
    )  # fmt: skip
    assert control_tokens(Chat(template=OWN["chatml-trimmed"], column="d")) == ("<|im_start|>", "<|im_end|>")
