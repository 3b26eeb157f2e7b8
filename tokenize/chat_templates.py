"""How is each chat format written, and which of its strings are control tokens?

A format is a Jinja chat template as Hugging Face tokenizers carry it (`messages`, `bos_token`, `eos_token`), with
`{% generation %}` around what is trained on: an answer and the token that ends it. The blank before an answer belongs
to it, as its first token begins with that blank.

    chatml          `<s>`, then each turn between `<|im_start|>role` and `<|im_end|>`, as Pints-AI/1.5-Pints writes it
    llama-inst      Llama 2's: every exchange is `<s>[INST] question [/INST] answer </s>` (Meta's llama, generation.py).
                    The card of cosmo-1b shows `<s> [INST]`: that is what these tokens decode to, as
                    SentencePiece puts a blank before the text behind `<s>`
    user-assistant  `USER:` and `ASSISTANT:` on lines (card of minotaur-mpt-7b)
    alpaca-chat, mc-concise, tldr, alpaca
                    axolotl's prompters at 87fb142. It has a second sentence for instructions with an input; a recipe
                    gives it as a `turns` item of the role `system`
    vicuna          FastChat's v1.1
    dclm-it         the prompt on the card of DCLM-1B-IT; the answer follows the colon directly, then
                    `<|endoftext|>`, as in the script of OpenLM that made its tokens
    phi-qa, phi-dialogue, phi-code
                    the three formats on the card of phi-1.5; no token ends an answer

A turn of a row's own with the role `system` takes the place of a format's sentence. Where a format is published for one
exchange only, the next follows in the same way.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from winnow.tokenize.chat_settings import Chat

ROWS = "{% for message in messages %}{% if message['role'] == 'user' %}"
ANSWER = "{% elif message['role'] == 'assistant' %}{% generation %}"
ENDED = "{{ message['content'] + eos_token }}"
DONE = "{% endgeneration %}{% endif %}{% endfor %}"


def _sentence(default: str, end: str) -> str:
    """The row's own system turn, or the format's sentence (it may be none), and what stands behind it."""
    other = f"{{% else %}}{{{{ {default + end!r} }}}}" if default else ""
    return (
        "{% if messages[0]['role'] == 'system' %}"
        f"{{{{ messages[0]['content'] + {end!r} }}}}{other}"
        "{% endif %}"
    )


def _asked(before: str, behind: str) -> str:
    return f"{{{{ {before!r} + message['content'] + {behind!r} }}}}"


def _prompted(sentence: str, question: str, answer: str = ENDED) -> str:
    """Exchanges with a blank line between, which is no part of the answer above it."""
    parted = "{% if not loop.first and loop.previtem['role'] == 'assistant' %}{{ '\\n\\n' }}{% endif %}"
    return sentence + ROWS + parted + question + ANSWER + answer + DONE


CHATML = (
    "{{ bos_token }}{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}"
    "{% else %}{{ message['content'] + '<|im_end|>' }}{% endif %}{{ '\\n' }}{% endfor %}"
)
LLAMA_INST = (
    "{% if messages[0]['role'] == 'system' %}"
    "{% set system = '<<SYS>>\\n' + messages[0]['content'] + '\\n<</SYS>>\\n\\n' %}{% set turns = messages[1:] %}"
    "{% else %}{% set system = '' %}{% set turns = messages %}{% endif %}"
    "{% for message in turns %}{% if message['role'] == 'user' %}"
    "{{ bos_token + '[INST] ' + ((system if loop.first else '') + message['content']).strip() + ' [/INST]' }}"
    "{% else %}{% generation %}{{ ' ' + message['content'].strip() + ' ' + eos_token }}{% endgeneration %}"
    "{% endif %}{% endfor %}"
)
VICUNA_SENTENCE = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
VICUNA = (
    _sentence(VICUNA_SENTENCE, " ")
    + ROWS
    + _asked("USER: ", " ASSISTANT:")
    + ANSWER
    + "{{ ' ' + message['content'] + eos_token }}"
    + DONE
)
TASK = "Below is an instruction that describes a task."
RESPONSE = "Write a response that appropriately completes the request."
CHOOSE = "Choose the answer that best answers the question. Be concise in your response."
SUMMARIZE = "Summarize the following article as a TL;DR."
UNENDED = "{{ ' ' + message['content'] }}"
SIGNATURE = "{{ message['content'] }}{% if not message['content'].endswith('\\n') %}{{ '\\n' }}{% endif %}"


@dataclass(frozen=True, slots=True)
class Template:
    """A chat template, what it calls the first and the last token, and whether question and answer take turns."""

    source: str
    bos_token: str = "<s>"
    eos_token: str = "</s>"
    alternating: bool = True


NEOX_END = "<|endoftext|>"
TEMPLATES = {
    "chatml": Template(CHATML, alternating=False),
    "llama-inst": Template(LLAMA_INST),
    "user-assistant": Template(
        _prompted(_sentence("", "\n\n"), _asked("USER: ", "\nASSISTANT:")), eos_token=NEOX_END
    ),
    "alpaca-chat": Template(
        _prompted(_sentence(f"{TASK} {RESPONSE}", "\n\n"), _asked("USER: ", "\nASSISTANT:")),
        eos_token=NEOX_END,
    ),
    "mc-concise": Template(
        _prompted(_sentence(CHOOSE, "\n\n"), _asked("USER: ", "\nASSISTANT:\n")), eos_token=NEOX_END
    ),
    "tldr": Template(
        _prompted(_sentence("", "\n\n"), _asked(f"USER: {SUMMARIZE}\n", "\nASSISTANT:")), eos_token=NEOX_END
    ),
    "vicuna": Template(VICUNA),
    "alpaca": Template(
        _prompted(
            _sentence(f"{TASK} {RESPONSE}", "\n\n"), _asked("### Instruction:\n", "\n\n### Response:\n")
        )
    ),
    "dclm-it": Template(
        _prompted(
            _sentence(f"{TASK}\n\n{RESPONSE}", "\n\n"), _asked("### Instruction:\n", "\n\n### Response:")
        ),
        eos_token=NEOX_END,
    ),
    "phi-qa": Template(_prompted(_sentence("", "\n\n"), _asked("", "\n\nAnswer:"), UNENDED)),
    "phi-dialogue": Template(_prompted(_sentence("", "\n\n"), _asked("Alice: ", "\n\nBob:"), UNENDED)),
    "phi-code": Template(_prompted(_sentence("", "\n\n"), SIGNATURE, "{{ message['content'] }}")),
}
"""By the name of the format, as in chat_settings.Format. Models of NeoX's tokenizer end with `<|endoftext|>`."""

CONTROL = re.compile(r"<\|[^|<>\s'\"{}]+\|>")
"""What names a control token in published chat templates."""


def template_of(chat: Chat) -> Template:
    """The template that a chat is written by, with the tokens that the recipe names."""
    known = TEMPLATES[chat.format] if chat.format else Template(chat.template or "", alternating=False)
    return Template(
        known.source,
        known.bos_token if chat.bos_token is None else chat.bos_token,
        known.eos_token if chat.eos_token is None else chat.eos_token,
        known.alternating,
    )


def control_tokens(chat: Chat) -> tuple[str, ...]:
    """The strings of a chat's template that are control tokens, each once."""
    if chat.control_tokens is not None:
        return tuple(dict.fromkeys(chat.control_tokens))
    template = template_of(chat)
    ends = {"bos_token": template.bos_token, "eos_token": template.eos_token}
    named = [token for name, token in ends.items() if token and re.search(rf"\b{name}\b", template.source)]
    return tuple(dict.fromkeys(named + CONTROL.findall(template.source)))
