"""The conversations that the visitor's browser keeps: a list to search, open, rename and delete, and training rows from it."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from typing import Any

import gradio as gr

from .conversation import Conversation
from .text import problem
from .thread import Thread, read
from .training_rows import jsonl, rows_of

FILE = "chats.jsonl"
WRITE = """(_, text, words, chosen) => {
  const wrong = window.ptune.write(text);
  return [window.ptune.list(words), wrong, words, chosen, null];
}"""
OPEN = "(_, id) => [JSON.stringify([window.innerWidth, window.ptune.read(id)]), id]"
DAY_S = 24 * 60 * 60
WIDE = 900
"""Pixels of a window that shows the list beside the conversation."""
_QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}

Updates = dict[Any, Any]


class Library:
    """The list at the side. What is kept stays in the browser; it comes here when it is opened, or made into rows."""

    def __init__(self, *, visible: bool) -> None:
        with gr.Sidebar(open=False, width=280, visible=visible, elem_id="library") as self.block:
            gr.HTML("<h2>Conversations</h2>", padding=False)
            self._search = gr.Textbox(
                show_label=False, placeholder="Search", label="Search conversations", elem_id="search", container=False
            )  # fmt: skip
            self._list = gr.Radio(
                [], label="Conversations", show_label=False, container=False, elem_id="chats"
            )
            self._note = gr.HTML(elem_classes="note")
            with gr.Row(visible=False, elem_id="chosen") as self._chosen:
                self._title = gr.Textbox(label="Title", max_lines=1, elem_id="title")
                self._rename = gr.Button("Rename", size="sm")
                self._delete = gr.Button("Delete", size="sm")
            with gr.Column(elem_id="rows"):
                self._good_only = gr.Checkbox(
                    True, label="Only answers with a thumb up or a correction", container=False
                )
                self._export = gr.Button("Download training rows", size="sm")
                self._rows = gr.Textbox(elem_classes="unseen")
            self._entries = gr.Textbox(elem_classes="unseen")  # where the browser's answers arrive

    def connect(self, page: gr.Blocks, choice: gr.Tabs, chats: dict[str, Conversation]) -> None:
        """chats: the tabs with conversations, by their names."""
        self._choice, self._chats = choice, chats
        listed = [self._list, self._note, self._chosen, self._title]
        running = [chat.answering for chat in chats.values()]
        opened = [*listed, choice, *(output for chat in chats.values() for output in chat.outputs)]
        page.load(
            self._begin, [self._entries, self._rows], [*opened, self.block],
            js="() => [window.ptune.list(''), JSON.stringify([window.innerWidth, window.ptune.open()])]", **_QUIET,
        )  # fmt: skip
        for chat in chats.values():
            chat.kept.change(
                self._after_write, [self._entries, chat.kept, self._search, self._list, chat.thread], listed,
                js=WRITE, trigger_mode="multiple", **_QUIET,
            )  # fmt: skip
        self._search.change(
            self._found, [self._search, self._list], [self._list, self._note],
            js="(words, id) => [window.ptune.list(words), id]", **_QUIET,
        )  # fmt: skip
        self._list.input(
            self._open, [self._entries, self._list], [*opened, self.block], js=OPEN,
            cancels=running, **_QUIET,
        )  # fmt: skip
        threads = [chat.thread for chat in chats.values()]
        renaming: dict[str, Any] = {
            "fn": self._renamed,
            "inputs": [self._entries, self._list, self._title, *threads],
            "outputs": [*listed, *threads],
            "js": "(_, id, title, ...threads) => { window.ptune.rename(id, title);"
            " return [window.ptune.list(''), id, title, ...threads]; }",
        }
        self._rename.click(**renaming, **_QUIET)
        self._title.submit(**renaming, **_QUIET)
        self._delete.click(
            self._deleted, [self._entries, self._list, *threads], opened,
            js="(_, id, ...threads) => { const sure = confirm('Delete this conversation?');"
            " if (sure) window.ptune.remove(id); return [window.ptune.list(''), sure ? id : '', ...threads]; }",
            cancels=running, **_QUIET,
        )  # fmt: skip
        self._export.click(
            self._exported, [self._entries, self._good_only], [self._rows, self._note],
            js="(_, good_only) => [window.ptune.all(), good_only]", **_QUIET,
        ).then(
            None, self._rows, None, js=f"(rows) => {{ if (rows) window.ptune.download(rows, '{FILE}'); }}", **_QUIET
        )  # fmt: skip

    def _begin(self, entries: str, found: str) -> Updates:
        """What a page that is loaded shows. found: JSON of the window's width in pixels and the open conversation."""
        width, kept = json.loads(found)
        side = {self.block: gr.update(open=width >= WIDE)}
        thread = read(kept)
        if thread is None or not thread.turns:
            return {**side, **self._listing(entries, None)}
        return {**side, **self._listing(entries, thread), **self._shown(thread)}

    def _after_write(
        self, entries: str, wrong: str, _words: str, chosen: str | None, thread: Thread
    ) -> Updates:
        updates = self._listing(entries, thread if thread.turns else None, wrong)
        if chosen == thread.id:  # its title may be being written
            del updates[self._title]
        return updates

    def _found(self, entries: str, chosen: str | None) -> Updates:
        listed = _entries(entries)
        ids = [one[1] for one in listed]
        note = "" if listed else "No conversation has these words."
        return {
            self._list: gr.update(choices=listed, value=chosen if chosen in ids else None),
            self._note: note,
        }

    def _open(self, found: str, _chosen: str) -> Updates:
        """Shows the conversation that was chosen. found: as `_begin` has it."""
        width, kept = json.loads(found)
        thread = read(kept)
        if thread is None or thread.columns not in {chat.columns for chat in self._chats.values()}:
            return {self._note: problem("This conversation cannot be read.")}
        return {
            self._chosen: gr.update(visible=True),
            self._title: thread.title,
            self._note: "",
            self.block: gr.update(open=width >= WIDE),  # in a narrow window it covers the conversation
            **self._shown(thread),
        }

    def _renamed(self, entries: str, chosen: str | None, title: str, *threads: Thread) -> Updates:
        renamed = [thread.titled(title) if thread.id == chosen else thread for thread in threads]
        current = next((thread for thread in renamed if thread.id == chosen), None)
        states = zip((chat.thread for chat in self._chats.values()), renamed, strict=True)
        return {**self._listing(entries, current), **dict(states)}

    def _deleted(self, entries: str, chosen: str | None, *threads: Thread) -> Updates:
        if not chosen:
            return gr.skip()
        updates = self._listing(entries, None)
        for chat, thread in zip(self._chats.values(), threads, strict=True):
            if thread.id == chosen:
                updates |= chat.show(Thread())
        return updates

    def _exported(self, kept: str, good_only: bool) -> Updates:
        threads = [thread for thread in map(read, map(json.dumps, json.loads(kept))) if thread is not None]
        rows = rows_of(threads, good_only=good_only)
        why = " Give good ones a thumb up, or correct them with their pencil." if good_only else ""
        note = (
            f"{len(rows)} {'row' if len(rows) == 1 else 'rows'} in {FILE}"
            if rows
            else f"There is no such answer yet.{why}"
        )
        return {self._rows: jsonl(rows), self._note: note}

    def _shown(self, thread: Thread) -> Updates:
        """The conversation, in the tab that has as many columns."""
        for name, chat in self._chats.items():
            if chat.columns == thread.columns:
                return {self._choice: gr.update(selected=name), **chat.show(thread.settled())}
        return {}

    def _listing(self, entries: str, thread: Thread | None, wrong: str = "") -> Updates:
        """The list with one of its conversations chosen."""
        listed = _entries(entries)
        chosen = thread is not None and thread.id in [one[1] for one in listed]
        return {
            self._list: gr.update(choices=listed, value=thread.id if thread and chosen else None),
            self._note: problem(wrong) if wrong else "" if listed else "What you write is kept in this browser alone.",
            self._chosen: gr.update(visible=chosen),
            self._title: thread.title if thread and chosen else "",
        }  # fmt: skip


def _entries(listed: str) -> list[tuple[str, str]]:
    """Labels and ids of the browser's list."""
    return [(_label(title, changed_s), chosen) for chosen, title, changed_s in json.loads(listed)]


def _label(title: str, changed_s: float | None) -> str:
    """The title, with the day of what was not changed within the last one."""
    title = title or "Image"
    if time.time() - (changed_s or 0.0) < DAY_S:
        return title
    try:
        return f"{title} · {datetime.fromtimestamp(changed_s or 0.0, UTC):%d %b %Y}"
    except (ValueError, OverflowError, OSError):  # of something else that lies in the browser
        return title
