"""Translators in torch: the trained model, and the base with examples in context."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ptune.codecs.chat import ChatCodec
from ptune.data.shapes.conversations import Askable, Conversation
from ptune.evaluation.held_out import HeldOut
from ptune.evaluation.in_context import shots
from ptune.evaluation.translation.served import limits
from ptune.progress import Progress
from ptune.tasks.chat.answers import ROWS, answers
from ptune.tasks.translation.infer import messages_of


def by_torch(
    label: str,
    model: torch.nn.Module,
    codec: ChatCodec,
    prompts: Sequence[Sequence[int]],
    limits: Sequence[int],
    device: torch.device,
) -> list[str]:
    """Greedy translations, in order, as they are served: without what was thought; computed in batches of similar length."""
    translations = [""] * len(prompts)
    reading = codec.reading(prompts[0]) if prompts else None
    order = sorted(range(len(prompts)), key=lambda at: (len(prompts[at]), limits[at]))
    with Progress(f"translations, {label}", len(prompts), unit="texts") as progress:
        for start in range(0, len(order), ROWS):
            part = order[start : start + ROWS]
            part_texts = answers(
                model, codec, [prompts[at] for at in part], [limits[at] for at in part], device
            )
            for at, text in zip(part, part_texts, strict=True):
                translations[at] = text if reading is None else reading.said(text)
            progress.advance(len(part))
    return translations


def with_shots(held: HeldOut, rows: Sequence[Askable], count: int, seed: int) -> tuple[int, list[list[int]]]:
    """Prompts with up to `count` training pairs before each source, as earlier turns. Returns their number and the prompts."""
    codec = held.codec
    longest = max(len(row.prompt(codec)) for row in rows)
    room = (
        None
        if codec.context is None
        else codec.context - longest - max(limits(codec, [row.question for row in rows]))
    )
    chosen = shots(held.train, count, room, codec, seed)
    before = [message for shot in chosen if isinstance(shot, Conversation) for message in shot.messages]
    return len(chosen), [codec.encode_prompt([*before, *messages_of(row.question)]) for row in rows]


def first_lines(said: Sequence[str], sources: Sequence[str]) -> list[str]:
    """Keeps the first line for a source of one line: a base often continues after its translation."""
    return [
        text if "\n" in source else text.partition("\n")[0].strip()
        for text, source in zip(said, sources, strict=True)
    ]
