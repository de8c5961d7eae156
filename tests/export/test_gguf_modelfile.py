"""Modelfiles: their TEMPLATE says in Go's own text/template (Helm's) what the model's template says in Jinja."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from support.tiny_tokenizers import CHATML, tokenizer
from tokenizers import Tokenizer, processors

from ptune.codecs.chat import ChatCodec
from ptune.export.gguf.modelfile import modelfile, pieces_of

DEFAULTED = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nYou help.<|im_end|>\n{% endif %}" + CHATML
)
HEADERS = (  # as Llama 3 has it: BOS, and contents without spaces around them
    "{{ bos_token }}{% for m in messages %}<|im_start|>{{ m.role }}<|im_end|>\n\n{{ m.content | trim }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant<|im_end|>\n\n{% endif %}"
)
NO_SYSTEM = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    "[{{ m.role }}] {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}[assistant] {% endif %}"
)
MERGED = (  # as Gemma has it: the system message is part of the first question
    "{% set lead = messages[0].content + '\n\n' if messages[0].role == 'system' else '' %}"
    "{% for m in messages %}{% if m.role != 'system' %}<|im_start|>{{ m.role }}\n{{ lead if loop.index0 < 2 and m.role == 'user' }}"
    "{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>model\n{% endif %}"
)
BARE_SPACES = (  # a no-break space, a zero-width joiner, braces and quotes of Go's and of a Modelfile's own
    "{% for m in messages %}<|im_start|>{{ m.role }}\u00a0:\u200d{{ '{' }}{{ m.content }}{{ '} {{ }} \"\"\"\"' }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\u00a0:\u200d{{ '{' }}{% endif %}"
)
DATED = "{{ strftime_now('%d %b %Y') }}\n" + CHATML
SYSTEM = {"role": "system", "content": "Be kind."}
TURNS = (
    {"role": "user", "content": "Hello, {you}!"},
    {"role": "assistant", "content": "Hi\n\n- there"},
    {"role": "user", "content": 'Why "so"?'},
)


def codec_of(template: str, *, bos: bool = False, system: str | None = None) -> ChatCodec:
    backend = Tokenizer.from_str(tokenizer().backend_tokenizer.to_str())
    if bos:
        backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    special = {"bos_token": "<s>", "eos_token": "</s>"}
    return ChatCodec(backend, template, special, [2, 4], 64, system)


def read_by_ollama(modelfile: str) -> list[tuple[str, str]]:
    """A Modelfile's commands, by the rules of Ollama's parser: a value in quotes ends at the first line's end where it is closed,
    has no escapes, and of what Go does not print has blanks and line ends alone."""
    found: list[tuple[str, str]] = []
    lines = iter(modelfile.split("\n"))
    for line in lines:
        if not line or line.startswith("#"):
            continue
        name, _, value = line.partition(" ")
        mark = next((mark for mark in ('"""', '"') if value.startswith(mark)), "")
        while mark and not (value.endswith(mark) and len(value) >= 2 * len(mark)):
            value += "\n" + next(lines)
        value = value[len(mark) : len(value) - len(mark)]
        found.append((name, "".join(one for one in value if one in "\t\n" or one.isprintable())))
    return found


def in_go(template: str, folder: Path, messages: Sequence[dict[str, str]]) -> str:
    """What Go's text/template makes of it: as a chart's define, which gets the messages as its dot."""
    helm = pytest.importorskip("helm_python", reason="needs pip install helm-python-sdk")
    (folder / "templates").mkdir(parents=True)
    (folder / "Chart.yaml").write_text("apiVersion: v2\nname: demo\nversion: 0.1.0\n")
    wrapped = '{{ define "prompt" }}' + template + '{{ end }}text: {{ include "prompt" .Values | toJson }}\n'
    (folder / "templates" / "out.yaml").write_text(wrapped)
    turns = [{"Role": one["role"], "Content": one["content"]} for one in messages]
    with helm.Chart.load(str(folder)) as chart:
        [text] = chart.render({"Messages": turns}, name="demo", namespace="demo").values()
    return str(json.loads(text.strip().removeprefix("text: ")))


@pytest.mark.parametrize("first", [[], [SYSTEM]], ids=["bare", "system"])
@pytest.mark.parametrize(
    "template",
    [CHATML, DEFAULTED, HEADERS, BARE_SPACES],
    ids=["chatml", "defaulted", "headers", "bare spaces"],
)
def test_go_says_what_jinja_says(template: str, first: list[dict[str, str]], tmp_path: Path) -> None:
    codec = codec_of(template, bos=template == HEADERS)
    pieces = pieces_of(codec)
    assert pieces is not None
    assert pieces.trims == (template == HEADERS)
    for at, messages in enumerate(([*first, TURNS[0]], [*first, *TURNS])):
        assert codec.template is not None
        wanted = codec.template.render(messages, add_generation_prompt=True)
        # llama.cpp puts the BOS there
        assert in_go(pieces.go(), tmp_path / str(at), messages) == wanted.removeprefix(
            "<s>" if template == HEADERS else ""
        )


def test_an_answer_that_goes_on_stays_open(tmp_path: Path) -> None:
    pieces = pieces_of(codec_of(CHATML))
    assert pieces is not None
    said = in_go(pieces.go(), tmp_path / "chart", TURNS[:2])
    assert said.endswith("<|im_start|>assistant\nHi\n\n- there")


def test_without_a_system_message(tmp_path: Path) -> None:
    pieces = pieces_of(codec_of(NO_SYSTEM))
    assert pieces is not None
    assert in_go(pieces.go(), tmp_path / "chart", TURNS) == (
        '[user] Hello, {you}!\n[assistant] Hi\n\n- there\n[user] Why "so"?\n[assistant] '
    )


def test_no_template_that_would_not_be_the_models() -> None:
    codec = codec_of(MERGED)
    assert pieces_of(codec) is None
    text = modelfile(codec, "base.gguf", None, 64, None)
    assert 'TEMPLATE "' not in text
    assert "ADAPTER" not in text
    assert "# No TEMPLATE" in text


@pytest.mark.parametrize(
    "system",
    [
        "Sois bref\u00a0: « oui\u202f» ou non.",
        'Quote with """, or with "one"',
        "A family: \U0001f468\u200d\U0001f469\u200d\U0001f467.\n\n{{ .System }}",
        'Ends in a "quote"',
        'First ""\n"second"\tthird\n',
    ],
)
@pytest.mark.parametrize("template", [CHATML, DEFAULTED, HEADERS], ids=["chatml", "defaulted", "headers"])
def test_a_system_message_reaches_the_prompt_as_it_was_trained(
    template: str, system: str, tmp_path: Path
) -> None:
    codec = codec_of(template, bos=template == HEADERS, system=system)
    commands = read_by_ollama(modelfile(codec, "base.gguf", None, 64, pieces_of(codec)))
    said = dict(commands)
    turns = [TURNS[0]] if "SYSTEM" not in said else [{"role": "system", "content": said["SYSTEM"]}, TURNS[0]]
    assert codec.template is not None
    wanted = codec.template.render(
        [{"role": "system", "content": system}, TURNS[0]], add_generation_prompt=True
    )
    if template == HEADERS:  # which cuts blanks around contents off, as a Modelfile says that it cannot
        wanted = wanted.removeprefix("<s>").replace(
            system.strip(), system if "SYSTEM" in said else system.strip()
        )
    assert in_go(said["TEMPLATE"], tmp_path / "chart", turns) == wanted
    own = [{"role": "system", "content": "Be kind."}, TURNS[0]]
    assert "Be kind." in (there := in_go(said["TEMPLATE"], tmp_path / "own", own))
    assert system not in there


def test_a_system_message_that_no_template_can_hold_is_said_to_be_missing() -> None:
    codec = codec_of(MERGED, system="Sois bref\u00a0!")
    text = modelfile(codec, "base.gguf", None, 64, pieces_of(codec))
    assert "# No SYSTEM" in text
    assert "\nSYSTEM" not in text


def test_a_template_that_writes_the_date_says_so() -> None:
    codec = codec_of(DATED)
    assert "today's date" in modelfile(codec, "base.gguf", None, 64, pieces_of(codec))
    plain = codec_of(CHATML)
    assert "today's date" not in modelfile(plain, "base.gguf", None, 64, pieces_of(plain))


def test_a_stop_is_written_as_ollama_reads_it() -> None:
    ends = {'<|"|>': 'PARAMETER stop """<|"|>"""', "<\\end>": 'PARAMETER stop "<\\end>"'}
    codec = codec_of(CHATML)
    codec.tokenizer.add_special_tokens([*ends])
    added = codec.tokenizer.get_added_tokens_decoder()
    ids = [token for token, one in added.items() if one.content in ends]
    codec = ChatCodec(codec.tokenizer, CHATML, codec.special_tokens, ids, 64)
    text = modelfile(codec, "base.gguf", None, 64, pieces_of(codec))
    assert {*ends.values()} <= {*text.splitlines()}


def test_stops_system_and_context() -> None:
    codec = codec_of(CHATML, system="You are brief.")
    lines = modelfile(codec, "base.gguf", "adapter.gguf", 100_000, pieces_of(codec)).splitlines()
    assert [lines[0], lines[2]] == ["FROM ./base.gguf", "ADAPTER ./adapter.gguf"]
    assert 'SYSTEM """You are brief."""' in lines
    assert {'PARAMETER stop "</s>"', 'PARAMETER stop "<|im_end|>"', "PARAMETER num_ctx 8192"} <= set(lines)
    assert "PARAMETER repeat_penalty 1" in lines
