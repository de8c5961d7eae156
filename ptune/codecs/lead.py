"""What leads a conversation: a system message where one is due, and one where a template shows no second."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from typing import Any

from ptune.codecs.template import ChatTemplate, Message
from ptune.codecs.template_request import Variables
from ptune.errors import TemplateError

LEADS = ("system", "developer")


def led(
    template: ChatTemplate, messages: Sequence[Message], system: str | None, variables: Variables
) -> list[dict[str, Any]]:
    """Checked messages as a template is given them. system: for conversations that have no such message; None: nothing is due.

    Agents send a system message and a developer's behind it. Where the template refuses or leaves out a second one, all that
    lead the conversation are one, each a paragraph.
    """
    shown = [dict(message) for message in messages]
    if "developer" not in template.literals:  # the role's newer name, which few templates know
        shown = [{**m, "role": "system"} if m["role"] == "developer" else m for m in shown]
    if system is not None and all(message["role"] != "system" for message in shown):
        shown = [{"role": "system", "content": system}, *shown]
    lead = list(takewhile(lambda message: message["role"] in LEADS, shown))
    if len(lead) < 2 or _shows_each(template, [message["role"] for message in lead], variables):
        return shown
    text = "\n\n".join(message["content"] for message in lead if message["content"])
    return [{**lead[0], "content": text}, *shown[len(lead) :]]


def _shows_each(template: ChatTemplate, roles: Sequence[str], variables: Variables) -> bool:
    """Whether messages of these roles, which lead a conversation, are all shown."""
    probes = [f"probe-{number}-of-what-leads" for number in range(len(roles))]
    lead = [{"role": role, "content": probe} for role, probe in zip(roles, probes, strict=True)]
    try:
        text = template.render([*lead, {"role": "user", "content": "?"}], **dict[str, Any](variables))
    except TemplateError:
        return False
    return all(probe in text for probe in probes)
