"""On which texts do tokenizer libraries disagree?

Short texts that a backend must encode as the reference does before it is trusted with a corpus. Each group
is a place where some library was seen to differ, or where byte-pair encoding leaves room: runs of white space
around the lengths of added tokens, contractions after white space, composition and its exclusions, tied
scores in long repeats, literal control tokens, characters outside the Basic Multilingual Plane.
"""

WHITE_SPACE = (
    *("", " ", "  ", "\n", "\n\n\n", "\t", "\t\t\tx", "a\r\nb\r\n", "\r", "\x0b\x0c", "x \n  y", "x\t  y"),
    # GPT-NeoX has added tokens of 2 to 24 spaces, Mistral pieces of 2 to 15.
    *(" " * n + "x" for n in (2, 15, 16, 17, 23, 24, 25, 26, 48, 49, 100)),
    *("a" + " " * 40 + "b", "end  ", "\n" + " " * 8 + "return x", " \xa0 x", "\u3000x\u3000"),
    *("\u2028line\u2029para", "a\x85b", "\u2003\u2009x", "zero\u200bwidth"),
)
WORDS = (
    *("Hello world", " Hello world", "I'm you're IT'S don't we'LL\n'sort", "\n\t's", "x's'd", "\u2019s"),
    *("The 3.14159 of 1,000,000 on 2024-01-31", "1234567890" * 9, "----====****", "\u0665\u2167\xbd"),
    "http://example.com/a?b=c&d=%20#e",
)
UNICODE = (
    *("cafe\u0301 caf\xe9", "\u212b \xc5 A\u030a", "\ufb01n", "\u1e9b\u0323", "q\u0307\u0323", "\u0344"),
    *(
        "e" + "\u0301" * 30,
        "\u4f60\u597d\uff0c\u4e16\u754c\u3002",
        "\u65e5\u672c\u8a9e\u306e\u30c6\u30b9\u30c8",
    ),
    *("\u0645\u0631\u062d\u0628\u0627", "\ud55c\uad6d\uc5b4", "\u1112\u1161\u11ab\u1100\u116e\u11a8"),
    *("\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35", "\u0928\u092e\u0938\u094d\u0924\u0947", "\U0001d4d0\U0001d7d8"),
    *(
        "\U0001f600 \U0001f468\u200d\U0001f469\u200d\U0001f467",
        "\U0001f1eb\U0001f1f7",
        "\ue000",
        "\U0010ffff",
    ),
    *("\ufeffBOM", "nul\x00byte", "\x01\x02\x7f", "\ufffd\ufffd", "\xad"),
)
REPEATS = ("a" * 300, "ab" * 400, "!?" * 200, "\u4e2d" * 200, "\xe9" * 100, "</s>" * 50)
CONTROL = (
    *("<s>", "</s>", "text </s> text", "<unk>", "<pad>", "<s><s>", "</s >", "[INST] x [/INST]"),
    *("<|endoftext|>", "a<|endoftext|>b", "<|endoftext|", "<|padding|>", "<|im_start|>user\n"),
    *("\u2581under\u2581bar", "\u2581", "\u2581 \u2581  ", "<0x41>"),
)
CODE = (
    "def f(x: int = 0) -> str:\n    if x:\n\t\treturn f'{x!r:>10}'  # \u2192\n\n\nclass A:\n    pass\n",
    '<div class="a">\n  <p>x &amp; y</p>\n</div>\n{"k": [1, null, "\\u00e9"]}\n$\\frac{a_1}{b^2}$\n',
)
PROBES: tuple[str, ...] = (*WHITE_SPACE, *WORDS, *UNICODE, *REPEATS, *CONTROL, *CODE)
