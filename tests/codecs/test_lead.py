"""System and developer messages at the beginning of a conversation: none is lost, in training or in serving."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.real_codec import real_codec

from ptune.codecs.template import ChatTemplate
from ptune.errors import TemplateError

FOLDER = Path(__file__).parent
SOURCES = {
    f"{path.parent.name}/{path.stem}": path.read_text(encoding="utf-8")
    for path in sorted(FOLDER.glob("*/*.jinja"))
}
FIRST, SECOND = "You write code.", "Ask before you write."
QUESTION, ANSWER = {"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Because."}
TAGS = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
ONLY_FIRST = (
    "{% for m in messages %}{% if loop.first or m.role not in ('system', 'developer') %}[{{ m.role }}]{{ m.content }}{% endif %}"
    "{% endfor %}"
)
REFUSES = (
    "{% for m in messages %}{% if m.role == 'system' and not loop.first %}{{ raise_exception('no') }}{% endif %}"
    "[{{ m.role }}]{{ m.content }}{% endfor %}"
)


def led_by(*roles: str) -> list[dict[str, Any]]:
    texts = (FIRST, SECOND)
    return [*({"role": role, "content": text} for role, text in zip(roles, texts, strict=False)), QUESTION]


def shows_one(source: str) -> bool:
    try:
        return FIRST in ChatTemplate(source).render(led_by("system"))
    except TemplateError:
        return False


@pytest.mark.parametrize("second", ["system", "developer"])
@pytest.mark.parametrize("name", [name for name, source in SOURCES.items() if shows_one(source)])
def test_no_template_loses_what_leads(name: str, second: str) -> None:
    codec = real_codec(SOURCES[name])
    shown = codec.decode(codec.encode_prompt(led_by("system", second)))
    assert FIRST in shown
    assert SECOND in shown


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        (TAGS, f"[system]{FIRST}[system]{SECOND}[user]Why?"),  # as it was sent
        (ONLY_FIRST, f"[system]{FIRST}\n\n{SECOND}[user]Why?"),
        (REFUSES, f"[system]{FIRST}\n\n{SECOND}[user]Why?"),
    ],
)
def test_one_message_leads_only_where_a_template_shows_no_second(written: str, shown: str) -> None:
    codec = real_codec(written)
    assert codec.decode(codec.encode_prompt(led_by("system", "developer"))) == shown


def test_training_shows_what_serving_shows() -> None:
    codec = real_codec(REFUSES)
    asked = led_by("system", "system")
    first, second = (
        codec.encode_examples([*asked, ANSWER]),
        codec.encode_examples([*asked, ANSWER, QUESTION, ANSWER]),
    )
    prompt = tuple(codec.encode_prompt(asked))
    for [one] in (first, second):
        assert one.ids[: len(prompt)] == prompt
        assert one.targets[: len(prompt)].count(True) == 0
    assert codec.decode(
        [token for token, wanted in zip(first[0].ids, first[0].targets, strict=True) if wanted]
    ).endswith("Because.")


def test_what_comes_later_is_the_templates_own_business() -> None:
    codec = real_codec(REFUSES)
    with pytest.raises(TemplateError, match="no"):
        codec.encode_prompt([*led_by("system"), ANSWER, {"role": "system", "content": SECOND}, QUESTION])


def test_a_runs_own_system_message_is_not_lost_beside_a_developers() -> None:
    codec = real_codec(ONLY_FIRST, system=FIRST)
    shown = codec.decode(codec.encode_prompt([{"role": "developer", "content": SECOND}, QUESTION]))
    assert shown == f"[system]{FIRST}\n\n{SECOND}[user]Why?"
