"""Making API keys in the tab Serve, and limiting what they may do: what `ptune key` does, and its line."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from ptune.errors import PtuneError, UsageError
from ptune.studio.command_shown import command_line, shows
from ptune.studio.serve.load_tables import keys
from ptune.studio.sheet import error, note
from ptune.studio.studio import QUIET, Studio
from ptune_serve.access import edited_keys
from ptune_serve.access.edited_keys import Rights
from ptune_serve.access.keys import Key, Limits, read

SCOPES = ("infer", "metrics", "admin")
LIMITS = {
    "requests_per_minute": "Requests a minute",
    "tokens_per_minute": "Tokens a minute",
    "concurrent": "At once",
}


class KeysForm:
    """Renders the accordion."""

    def __init__(self, studio: Studio) -> None:
        self._folder = studio.workspace.folder
        with gr.Accordion(
            "Keys: make one, limit what it may do", open=False, elem_id="serve-key-form"
        ) as box:
            with gr.Row():
                self._file = gr.Textbox("keys.toml", label="File of keys", elem_id="key-file", scale=1)
                self._name = gr.Dropdown(
                    [], value="", label="Whose key", info="a new name, or one of the file", elem_id="key-name",
                    allow_custom_value=True, interactive=True, scale=1,
                )  # fmt: skip
                self._adapters = gr.Textbox(
                    label="Adapters",
                    info="names with commas between them; empty: all",
                    elem_id="key-adapters",
                    scale=2,
                )
            with gr.Row():
                self._scopes = gr.CheckboxGroup(
                    list(SCOPES), value=["infer"], label="It may", elem_id="key-scopes", scale=2
                )
                self._limits = [
                    gr.Number(  # gradio sends 0 for an empty one
                        0, label=label, info="0: no limit", precision=0, minimum=0, elem_id=f"key-{field}"
                    )
                    for field, label in LIMITS.items()
                ]
            with gr.Row(elem_classes="doing"):
                write = gr.Button("Make or change the key", elem_id="key-do", size="sm")
                remove = gr.Button("Take it out", elem_id="key-remove", size="sm")
            self._command, self._told = command_line(), gr.HTML(elem_id="key-told")
            self._table = gr.HTML(elem_id="key-table")
        rights = [self._adapters, self._scopes, *self._limits]
        asked, shown = [self._file, self._name, *rights], [self._name, self._table]
        gr.on([box.expand, self._file.submit], self._offer, [self._file, self._name], shown, **QUIET)
        self._name.input(self._known, [self._file, self._name], rights, **QUIET)
        gr.on([one.change for one in asked], self._line, asked, self._command, **QUIET)
        for button, does in ((write, self._write), (remove, self._remove)):
            button.click(does, asked, self._told, **QUIET).then(
                self._offer, [self._file, self._name], shown, **QUIET
            )

    def _place(self, file: str | None) -> Path:
        if not (file or "").strip():
            raise UsageError("no file of keys is named: keys.toml is made where there is none")
        return self._folder / str(file).strip()

    def _offer(self, file: str | None, name: str | None) -> list[Any]:
        """The names and the table of a file; nothing of one that does not exist yet."""
        try:
            path = self._place(file)
            names = [key.name for key in read(path).keys] if path.exists() else []
        except PtuneError as problem:
            return [gr.update(choices=[], value=name), error(str(problem))]
        table = keys(path) if names else note("There is no such file yet: the first key makes it.")
        return [gr.update(choices=names, value=name or ""), table]

    def _known(self, file: str | None, name: str | None) -> list[Any]:
        """What a key of the file may do; what stands there stays for a new name."""
        try:
            found: Sequence[Key] = read(self._place(file)).keys
        except PtuneError:
            found = ()
        key = next((one for one in found if one.name == name), None)
        if key is None:
            return [gr.skip() for _ in range(2 + len(LIMITS))]
        adapters = "" if key.adapters is None else ", ".join(sorted(key.adapters))
        scopes = [scope for scope in SCOPES if scope in key.scopes]
        return [adapters, scopes, *(getattr(key.limits, field) or 0 for field in LIMITS)]

    def _line(
        self, file: str | None, name: str | None, adapters: str, scopes: list[str], *limits: float | None
    ) -> Any:
        if not file or not name:
            return shows(())
        names = _names(adapters) or ("all",)
        limited = [
            word
            for field, value in zip(LIMITS, limits, strict=True)
            for word in (f"--{field.replace('_', '-')}", f"{value or 0:.0f}")
        ]
        return shows(
            ("ptune", "key", file.strip(), name.strip(), "--scopes", *scopes, "--adapters", *names, *limited)
        )

    def _write(
        self, file: str | None, name: str | None, adapters: str, scopes: list[Any], *limits: float | None
    ) -> str:
        try:
            path, called = self._place(file), (name or "").strip()
            if not called:
                raise UsageError("whose key is it? Write a name: it appears in logs, and never the key")
            counts = {
                field: int(value) if value else None for field, value in zip(LIMITS, limits, strict=True)
            }
            rights = Rights(tuple(scopes), _names(adapters) or None, Limits(**counts))
            if path.exists() and called in [key.name for key in read(path).keys]:
                edited_keys.change(path, called, rights)
                return note(f"{called}: changed. A server that uses the file knows within a second.", "good")
            secret = edited_keys.add(path, called, rights)
        except PtuneError as problem:
            return error(str(problem))
        told = "Copy it now: the file holds its SHA-256 alone, so it is not shown again."
        return f'<p class="note good" role="status">The key of {escape(called)}: <code>{secret}</code></p>{note(told)}'

    def _remove(self, file: str | None, name: str | None, *_: Any) -> str:
        try:
            edited_keys.remove(self._place(file), (name or "").strip())
        except PtuneError as problem:
            return error(str(problem))
        return note(f"{name} is taken out: it is refused from now on.", "good")


def _names(text: str | None) -> tuple[str, ...]:
    return tuple(one.strip() for one in (text or "").split(",") if one.strip())
