"""What the page updates when it checks what is served, without a browser."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from ptune_serve.ui import app as ui
from ptune_serve.ui.client import Client, EncoderAdapter, ServedModels

CHATTING = ServedModels(bundle="dictionary", source="llm_tiny", adapters=("pirate",), context=512)
NOT_CHATTING = replace(CHATTING, chats=False)
SEVERAL = ServedModels(
    bundle="chat, texts",
    source="llm_tiny",
    adapters=("chat", "chat:sql"),
    context=512,
    classifiers=(EncoderAdapter("texts:mood", "text-classification", ("good", "bad"), "single"),),
    base=False,
    bundles=("chat", "texts"),
)


class Serving(Client):
    """A server that serves just that."""

    def __init__(self, now: ServedModels) -> None:
        super().__init__("http://127.0.0.1:1")
        self.now = now

    async def served(self) -> ServedModels:
        return self.now


def updates(
    at_start: ServedModels | None, before: ServedModels | str | None, now: ServedModels
) -> dict[str, Any]:
    """The updates of one check, by the elements' ids. at_start: what was served when the page was made."""
    return {component.elem_id: update for component, update in checked(at_start, before, now).items()}


def checked(
    at_start: ServedModels | None, before: ServedModels | str | None, now: ServedModels
) -> dict[Any, Any]:
    """The same by component."""
    page = ui._page(Serving(now), at_start)
    (look,) = (fn.fn for fn in page.fns.values() if getattr(fn.fn, "__name__", "") == "look")
    assert look is not None
    found: dict[Any, Any] = asyncio.run(look(before))
    return found


def test_a_first_check_that_comes_late_does_not_bring_the_settings_of_chat_back() -> None:
    """A user who was quicker has left for a tab without settings."""
    assert "settings" not in updates(CHATTING, None, CHATTING)


@pytest.mark.parametrize(
    ("at_start", "before", "now"),
    [
        (CHATTING, CHATTING, NOT_CHATTING),
        (NOT_CHATTING, None, CHATTING),
        (None, None, NOT_CHATTING),  # the server did not answer when the page was made
    ],
)
def test_the_settings_come_and_go_with_a_model_that_chats(
    at_start: ServedModels | None, before: ServedModels | str | None, now: ServedModels
) -> None:
    assert updates(at_start, before, now)["settings"]["visible"] is now.chats


def test_a_server_of_several_bundles_has_a_tab_for_each_kind() -> None:
    page = ui._page(Serving(SEVERAL), SEVERAL)
    shown = {block.label for block in page.blocks.values() if isinstance(block, ui.gr.Tab) and block.visible}
    assert shown == {"Chat", "Side by side", "Text"}
    offered = [
        update["choices"]
        for update in checked(None, None, SEVERAL).values()
        if isinstance(update, dict) and "choices" in update
    ]
    assert offered.count(["chat", "chat:sql"]) == 3, "of the chat, and of both columns side by side"
    assert ["texts:mood"] in offered


def test_a_classifier_is_not_greeted_with_texts_of_another_task() -> None:
    """A text that its data has nothing of gets a confident answer, which looks like the model's fault."""
    now = replace(SEVERAL, chats=False)
    page = ui._page(Serving(now), now)
    shown = [block for block in page.blocks.values() if hasattr(block, "placeholder")]
    boxes = [
        box for box in shown if box.placeholder == "Write or paste a text" and "words" in box.elem_classes
    ]
    assert boxes
    assert not [box.value for box in boxes if box.value and box.value != "Your password has been changed."]
    said = [str(getattr(block, "value", "")) for block in page.blocks.values()]
    assert not [one for one in said if "parcel" in one or "wonderful morning" in one or "Ada Lovelace" in one]
