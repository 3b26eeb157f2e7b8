"""Is every shape of a conversation read as what it is, and every chat format written as it is published?"""

import pytest
from winnow.tokenize.chat import ChatError, Conversation, RowText, check
from winnow.tokenize.chat_settings import FORMATS, Chat, Turn
from winnow.tokenize.chat_templates import TEMPLATES, control_tokens

SENTENCES = "Below is an instruction that describes a task. Write a response that appropriately completes the request."
VICUNA = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
    "detailed, and polite answers to the user's questions."
)
DCLM = "Below is an instruction that describes a task.\n\nWrite a response that appropriately completes the request."
CHOOSE = "Choose the answer that best answers the question. Be concise in your response."
END = "<|endoftext|>"

WRITTEN = {
    "chatml": "<s><|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\nA<|im_end|>\n",
    "llama-inst": "<s>[INST] Q [/INST] A </s>",
    "user-assistant": f"USER: Q\nASSISTANT:A{END}",
    "alpaca-chat": f"{SENTENCES}\n\nUSER: Q\nASSISTANT:A{END}",
    "mc-concise": f"{CHOOSE}\n\nUSER: Q\nASSISTANT:\nA{END}",
    "tldr": f"USER: Summarize the following article as a TL;DR.\nQ\nASSISTANT:A{END}",
    "vicuna": f"{VICUNA} USER: Q ASSISTANT: A</s>",
    "alpaca": f"{SENTENCES}\n\n### Instruction:\nQ\n\n### Response:\nA</s>",
    "dclm-it": f"{DCLM}\n\n### Instruction:\nQ\n\n### Response:A{END}",
    "phi-qa": "Q\n\nAnswer: A",
    "phi-dialogue": "Alice: Q\n\nBob: A",
    "phi-code": "Q\nA",
}
AGAIN = {
    "chatml": "<|im_start|>user\nQ2<|im_end|>\n<|im_start|>assistant\nA2<|im_end|>\n",
    "llama-inst": "<s>[INST] Q2 [/INST] A2 </s>",
    "user-assistant": f"\n\nUSER: Q2\nASSISTANT:A2{END}",
    "vicuna": "USER: Q2 ASSISTANT: A2</s>",
    "dclm-it": f"\n\n### Instruction:\nQ2\n\n### Response:A2{END}",
    "phi-qa": "\n\nQ2\n\nAnswer: A2",
    "phi-dialogue": "\n\nAlice: Q2\n\nBob: A2",
    "phi-code": "\n\nQ2\nA2",
}
WITH_SYSTEM = {
    "chatml": "<s><|im_start|>system\nS<|im_end|>\n<|im_start|>user\nQ<|im_end|>\n",
    "llama-inst": "<s>[INST] <<SYS>>\nS\n<</SYS>>\n\nQ [/INST] A </s>",
    "user-assistant": "S\n\nUSER: Q\n",
    "alpaca-chat": "S\n\nUSER: Q\n",
    "vicuna": "S USER: Q ASSISTANT: A</s>",
    "dclm-it": "S\n\n### Instruction:\nQ\n",
    "phi-dialogue": "S\n\nAlice: Q\n",
}
CONTROL = {
    "chatml": ("<s>", "<|im_start|>", "<|im_end|>"),
    "llama-inst": ("<s>", "</s>"),
    "vicuna": ("</s>",),
    "alpaca": ("</s>",),
}


def written(columns: dict, **settings) -> str:
    return Conversation(Chat(**({"format": "chatml"} | settings)))(columns)[0]


def turns(columns: dict, **settings) -> list[tuple[str, str]]:
    """(role, text) of each turn, read back from a template that nothing in these tests can spell."""
    answer = "{% generation %}{{ m.content }}{% endgeneration %}"
    template = "{% for m in messages %}{{ m.role }}\x1e" + answer + "\x1f{% endfor %}"
    text = written(columns, format=None, template=template, **settings)
    return [tuple(part.split("\x1e")) for part in text.split("\x1f")[:-1]]


def reason(columns: dict, **settings) -> str:
    with pytest.raises(ChatError) as caught:
        written(columns, **settings)
    assert caught.value.reason == str(caught.value)
    return caught.value.reason


# ---- formats -------------------------------------------------------------------------------------------------


def test_every_format_has_a_template_and_its_string_here():
    assert tuple(TEMPLATES) == FORMATS == tuple(WRITTEN)


@pytest.mark.parametrize("name", FORMATS)
def test_an_exchange_is_written_as_published(name):
    assert written({"d": ["Q", "A"]}, format=name, column="d", kind="alternating") == WRITTEN[name]
    assert check(Chat(format=name, column="d")) is None


@pytest.mark.parametrize("name", AGAIN)
def test_a_second_exchange_follows(name):
    text = written({"d": ["Q", "A", "Q2", "A2"]}, format=name, column="d", kind="alternating")
    assert text == WRITTEN[name] + AGAIN[name]


@pytest.mark.parametrize("name", WITH_SYSTEM)
def test_a_system_turn_takes_the_place_of_the_sentence(name):
    chat = {"format": name, "column": "d", "kind": "alternating", "prompt": "S"}
    assert written({"d": ["Q", "A"]}, **chat).startswith(WITH_SYSTEM[name])


@pytest.mark.parametrize("name", FORMATS)
def test_control_tokens_are_what_the_format_writes(name):
    default = () if name.startswith("phi") else (END,)
    assert control_tokens(Chat(format=name, column="d")) == CONTROL.get(name, default)


def test_tokens_are_named_by_the_recipe():
    chat = Chat(format="chatml", column="d", kind="alternating", bos_token="", eos_token="<eos>")
    assert Conversation(chat)({"d": ["Q", "A"]})[0].startswith("<|im_start|>user\n")
    assert control_tokens(chat) == ("<|im_start|>", "<|im_end|>")
    inst = Chat(format="llama-inst", column="d", control_tokens=("<s>", "[INST]", "<s>"))
    assert control_tokens(inst) == ("<s>", "[INST]")


def test_code_follows_its_signature_on_a_new_line():
    chat = {"format": "phi-code", "column": "d", "kind": "alternating"}
    assert written({"d": ["def f():\n", "    pass"]}, **chat) == "def f():\n    pass"


# ---- shapes --------------------------------------------------------------------------------------------------

TALK = [("user", "Q"), ("assistant", "A"), ("user", "Q2"), ("assistant", "A2")]
SHARED = [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}, {"from": "User", "value": "Q2"},
          {"from": "bing", "value": "A2", "weight": 1}]  # fmt: skip


@pytest.mark.parametrize(
    ("columns", "chat"),
    [
        ({"messages": [{"role": r, "content": c} for r, c in TALK]}, {"column": "messages"}),
        ({"conversations": SHARED}, {"column": "conversations", "role": "from", "content": "value"}),
        ({"data": ["Q", "A", "Q2", "A2"]}, {"column": "data", "kind": "alternating"}),
        ({"a": {"b": ("Q", "A", "Q2", "A2")}}, {"column": "a.b", "kind": "alternating"}),
        ({"a.b": ["Q", "A", "Q2", "A2"]}, {"column": "a.b", "kind": "alternating"}),
        (
            {"c": [{"input": "Q", "output": "A"}, {"input": "Q2", "output": "A2"}]},
            {"column": "c", "kind": "pairs"},
        ),
        ({"t": "[INST] Q [/INST] A [INST]Q2[/INST]A2"}, {"column": "t", "kind": "inst"}),
        ({"t": "[INST] Q [/INST] A [INST]Q2[/INST]A2 [INST] Q3"}, {"column": "t", "kind": "inst"}),
        (
            {"t": "<s>[INST]\nQ\n[/INST]\nA </s><s>[INST] Q2 [/INST] A2 </s>"},
            {"column": "t", "kind": "inst"},
        ),
    ],
)
def test_shapes(columns, chat):
    assert turns(columns, **chat) == TALK


def test_inst_with_a_system_text():
    text = "[INST] <<SYS>>\nS\n<</SYS>>\n\nQ [/INST] A"
    assert turns({"t": text}, column="t", kind="inst") == [("system", "S"), *TALK[:2]]


@pytest.mark.parametrize(
    ("columns", "user", "assistant", "question", "answer"),
    [
        (
            {"instruction": "Do", "input": "this", "output": "Done"},
            "{{ instruction }}{% if input %}\n{{ input }}{% endif %}", "{{ output }}", "Do\nthis", "Done",
        ),
        (
            {"instruction": "Do", "input": None, "output": "Done"},
            "{{ instruction }}{% if input %}\n{{ input }}{% endif %}", "{{ output }}", "Do", "Done",
        ),
        ({"question": "1+1?", "answer": "2"}, "{{ question }}", "{{ answer }}", "1+1?", "2"),
        (
            {"ctx": "A man", "endings": ["sits.", "flies."], "label": "1"},
            "{{ ctx }}", "{{ endings[label | int] }}", "A man", "flies.",
        ),
        (
            {"question": "Which?", "choices": {"label": ["A", "B"], "text": ["ice", "fire"]}, "answerKey": "B"},
            "{{ question }}{% for l in choices.label %}\n{{ l }}. {{ choices.text[loop.index0] }}{% endfor %}",
            "{{ choices.text[choices.label.index(answerKey)] }}", "Which?\nA. ice\nB. fire", "fire",
        ),
        (
            {"question": "Which?", "choices": ["ice", "fire"], "answer": 1},
            "{{ question }}{% for c in choices %}\n{{ 'ABCDE'[loop.index0] }}: {{ c }}{% endfor %}",
            "{{ 'ABCDE'[answer] }}", "Which?\nA: ice\nB: fire", "B",
        ),
        (
            {"info": {"post": "Long."}, "summaries": [{"text": "no"}, {"text": "yes"}], "choice": 1},
            "{{ info.post }}", "{{ summaries[choice].text }}", "Long.", "yes",
        ),
    ],
)  # fmt: skip
def test_turns_made_of_columns(columns, user, assistant, question, answer):
    made = (Turn(role="user", text=user), Turn(role="assistant", text=assistant))
    assert turns(columns, turns=made) == [("user", question), ("assistant", answer)]


def test_a_made_turn_without_text_is_left_out():
    made = tuple(
        Turn(role=r, text=t) for r, t in (("system", "{{ s }}"), ("user", "{{ q }}"), ("assistant", "A"))
    )
    assert turns({"s": " ", "q": "Q"}, turns=made) == TALK[:2]


def test_system_turns_are_kept_or_dropped_and_a_prompt_stands_in():
    rows = {"m": [{"role": "system", "content": "S"}, *({"role": r, "content": c} for r, c in TALK[:2])]}
    assert turns(rows, column="m") == [("system", "S"), *TALK[:2]]
    assert turns(rows, column="m", prompt="P") == [("system", "S"), *TALK[:2]]
    assert turns(rows, column="m", system="drop") == TALK[:2]
    assert turns(rows, column="m", system="drop", prompt="P") == [("system", "P"), *TALK[:2]]
    rows["m"][0]["content"] = None
    assert turns(rows, column="m") == TALK[:2]


def test_roles_of_a_data_set_are_named():
    rows = {"m": [{"role": "Student", "content": "Q"}, {"role": "Tutor", "content": "A"}]}
    assert reason(rows, column="m") == "roles"
    assert turns(rows, column="m", roles={"Student": "user", "Tutor": "assistant"}) == TALK[:2]


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        (["Q", "A", "Q2"], 2),
        (["Q", "A", "Q2", ""], 2),
        (["Q", "A", "Q2", None, "Q3", "A3"], 2),
        (["Q", "A", " \n", "A2"], 2),
        (["Q", "A", "Q2", "A2", ""], 4),
    ],
)
def test_a_conversation_ends_with_its_last_answer_before_a_turn_without_text(said, kept):
    assert turns({"d": said}, column="d", kind="alternating") == TALK[:kept]


@pytest.mark.parametrize(
    ("expected", "columns", "chat"),
    [
        ("missing-column", {}, {"column": "d"}),
        ("missing-column", {"a": 1}, {"column": "a.b"}),
        ("missing-column", {"q": 1}, {"turns": (Turn(role="user", text="{{ z }}"),)}),
        ("no-turns", {"d": None}, {"column": "d"}),
        ("no-turns", {"d": []}, {"column": "d"}),
        ("no-turns", {"d": "plain text"}, {"column": "d", "kind": "inst"}),
        ("no-turns", {"d": ["", "A"]}, {"column": "d", "kind": "alternating"}),
        (
            "no-turns",
            {"q": ""},
            {"turns": (Turn(role="user", text="{{ q }}"), Turn(role="assistant", text="A"))},
        ),
        ("no-answer", {"d": ["Q"]}, {"column": "d", "kind": "alternating"}),
        ("no-answer", {"d": ["Q", " "]}, {"column": "d", "kind": "alternating"}),
        ("no-answer", {"d": "[INST] Q [/INST]"}, {"column": "d", "kind": "inst"}),
        ("no-answer", {"d": "[INST] Q"}, {"column": "d", "kind": "inst"}),
        ("wrong-type", {"d": "Q"}, {"column": "d"}),
        ("wrong-type", {"d": {"role": "user"}}, {"column": "d"}),
        ("wrong-type", {"d": [{"role": "user"}]}, {"column": "d"}),
        ("wrong-type", {"d": [{"role": 1, "content": "Q"}]}, {"column": "d"}),
        ("wrong-type", {"d": [{"role": "user", "content": ["Q"]}]}, {"column": "d"}),
        ("wrong-type", {"d": ["Q", 3]}, {"column": "d", "kind": "alternating"}),
        ("wrong-type", {"d": ["Q", "A"]}, {"column": "d", "kind": "pairs"}),
        ("wrong-type", {"d": ["Q"]}, {"column": "d", "kind": "inst"}),
        ("wrong-type", {"d": "Hm [INST] Q [/INST] A"}, {"column": "d", "kind": "inst"}),
        ("wrong-type", {"d": "[INST] Q [INST] Q [/INST] A"}, {"column": "d", "kind": "inst"}),
        ("roles", {"d": [{"role": "tool", "content": "Q"}]}, {"column": "d"}),
        ("template", {"q": "x"}, {"turns": (Turn(role="user", text="{{ q + 1 }}"),)}),
        ("surrogate", {"d": ["Q", "\ud800"]}, {"column": "d", "kind": "alternating"}),
    ],
)
def test_why_a_row_is_no_conversation(expected, columns, chat):
    assert reason(columns, **chat) == expected


def test_two_turns_of_one_role_only_where_the_format_can_say_so():
    rows = {"m": [{"role": r, "content": r} for r in ("user", "user", "assistant", "assistant")]}
    assert written(rows, column="m").count("<|im_start|>") == 4
    for name in set(FORMATS) - {"chatml"}:
        assert reason(rows, column="m", format=name) == "roles"
    late = {"m": [{"role": r, "content": r} for r in ("user", "system", "assistant")]}
    assert reason(late, column="m", format="llama-inst") == "roles"
    first = {"m": [{"role": r, "content": r} for r in ("assistant", "user", "assistant")]}
    assert reason(first, column="m", format="vicuna") == "roles"


# ---- what meta keeps -----------------------------------------------------------------------------------------


def test_columns_of_the_text_are_left_out_of_meta():
    chat = Conversation(Chat(format="phi-qa", column="a.d", kind="alternating"))
    columns = {"a": {"d": ["Q", "A"], "n": 1}, "id": 7}
    _, meta = chat(columns)
    assert meta.pop("winnow_chat")["control"] == []
    assert meta == {"a": {"n": 1}, "id": 7}
    assert columns["a"]["d"] == ["Q", "A"]
    made = (Turn(role="user", text="{{ q.x }}"), Turn(role="assistant", text="{% if b %}{{ c }}{% endif %}"))
    _, meta = Conversation(Chat(format="phi-qa", turns=made))({"q": {"x": "Q"}, "b": 1, "c": "A", "z": None})
    assert set(meta) == {"z", "winnow_chat"}


def test_a_row_becomes_text_by_a_template():
    row = RowText("{% for part in parts %}{{ part.name }}: {{ part.size }}\n{% endfor %}{{ note }}\n")
    columns = {"parts": [{"name": "a", "size": 1}, {"name": "b", "size": 2}], "note": None, "id": 3}
    assert row(columns) == ("a: 1\nb: 2\n", {"id": 3})
    with pytest.raises(ChatError, match="missing-column"):
        row({"parts": []})
    assert RowText("{{ x | default('none') }}")({"y": 1}) == ("none", {"y": 1})
