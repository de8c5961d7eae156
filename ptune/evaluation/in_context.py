"""The in-context baseline: the bare model reads some training conversations before each held-out one."""

from __future__ import annotations

import copy
import random
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F

from ptune.backbone.cache_names import cache_argument, cache_in
from ptune.codecs.chat import ChatCodec, Example
from ptune.data.shapes.conversations import Askable, Completion, Conversation
from ptune.evaluation.figures import Figures, summed
from ptune.progress import Progress

TrainOn = Literal["assistant", "last"]


def shots(
    train: Sequence[Askable], count: int, room: int | None, codec: ChatCodec, seed: int
) -> list[Askable]:
    """Draws up to `count` training conversations by the seed, at most `room` tokens together."""
    chosen: list[Askable] = []
    for index in random.Random(seed).sample(range(len(train)), len(train)):  # noqa: S311
        if len(chosen) == count:
            break
        tokens = len(train[index].examples(codec, "assistant")[-1])
        if room is None or tokens <= room:
            chosen.append(train[index])
            room = None if room is None else room - tokens
    return chosen


def after(
    shots: Sequence[Askable],
    asked: Askable,
    codec: ChatCodec,
    train_on: TrainOn,
) -> list[Example]:
    """Examples of `asked` with the shots before it, as earlier turns; only its own targets count."""
    if isinstance(asked, Completion) or any(isinstance(shot, Completion) for shot in shots):
        before = [token for shot in shots for token in shot.example(codec, train_on).ids]
        own = asked.example(codec, train_on)
        return [Example((*before, *own.ids), (*[False] * len(before), *own.targets))]
    lead = asked.messages[:1] if asked.messages[0]["role"] == "system" else ()
    earlier = [
        {**message, "train": False}
        for shot in shots
        if isinstance(shot, Conversation)
        for message in shot.messages
        if message["role"] != "system"
    ]
    messages = (*lead, *earlier, *asked.messages[len(lead) :])
    return Conversation(messages, asked.tools).examples(codec, train_on)


@torch.no_grad()
def in_context(
    label: str, model: torch.nn.Module, examples: Sequence[Example], device: torch.device
) -> Figures:
    """Figures over the examples' targets. Their common beginning is computed once."""
    model.eval()
    shared = _shared(examples)
    ids = torch.tensor([examples[0].ids[:shared]], device=device)
    cache = cache_in(model(input_ids=ids, use_cache=True, logits_to_keep=1)) if shared else None
    name = cache_argument(model)
    loss, correct, targets = 0.0, 0, 0
    with Progress(label, len(examples), unit="examples") as progress:
        for example in examples:
            columns = [column for column, wanted in enumerate(example.targets) if wanted and column > 0]
            output = model(
                input_ids=torch.tensor([example.ids[shared:]], device=device),
                use_cache=cache is not None,
                logits_to_keep=torch.tensor(columns, device=device) - 1 - shared,
                **{name: copy.deepcopy(cache)},  # the copy is extended, not the cache
            )
            labels = torch.tensor([example.ids[column] for column in columns], device=device)
            logits = output.logits[0].float()
            loss += float(F.cross_entropy(logits, labels, reduction="sum"))
            correct += int((logits.argmax(-1) == labels).sum())
            targets += len(columns)
            progress.advance()
    return summed(loss, correct, targets)


def _shared(examples: Sequence[Example]) -> int:
    """Length in tokens of the examples' common beginning; it ends before the token in front of any first target."""
    first, limit = examples[0].ids, len(examples[0])
    for example in examples:
        limit = min(limit, example.targets.index(True, 1) - 1)
        while example.ids[:limit] != first[:limit]:
            limit -= 1
    return limit
