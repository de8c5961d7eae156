"""Computes parity.json: torch and peft in float32, on the base as it was trained on (dequantised), at held-out prompts.

The proof of an export has that reference in memory, whatever the base was trained in; the end of a training has not (a bfloat16
or nf4 base would have to be loaded a second time). So the file is written by `ptune export`, `ptune add` and, where it is missing,
by `ptune verify RUN --url`.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from transformers import GenerationConfig, PreTrainedModel

from ptune.codecs.chat import ChatCodec
from ptune.engine.adapters.fold.table import method_of
from ptune.engine.adapters.source import CONFIG
from ptune.formats.bundle import BaseIdentity
from ptune.formats.parity_json import (
    ADAPTER,
    EXTRA_BOS,
    NO_ADAPTER,
    WEIGHTS,
    WITHOUT_BOS,
    AdapterFacts,
    Parity,
    ParityPrompt,
    scale_of,
)
from ptune.formats.whole_write import read_json, sha256_of
from ptune.parity import Array, log_softmax
from ptune.progress import Progress
from ptune.verify.decoder.probes import WITHOUT_DATA
from ptune.verify.decoder.torch_side import batch_logits_at
from ptune.verify.reference import adapted, biases_kept, lora_layers

PROMPTS, LONGEST = 8, 256  # prompts, and tokens of each
ANSWER = 12  # tokens of a continuation
AT_ONCE = 4  # prompts in a batch: a base of 4 bits is dequantised once for all of them
TOP = 4  # tokens a position that each of adapter and base finds most likely
SCALES = ("x0.25", "x0.5", "x2", "x4")
DIGITS = 5  # of a log-probability


@dataclass(frozen=True)
class HeldPrompt:
    """A prompt's tokens, and the conversation that the template makes them of, with its system message."""

    ids: tuple[int, ...]
    messages: tuple[dict[str, Any], ...] | None = None


def prompts_of(codec: ChatCodec, conversations: Sequence[Sequence[Mapping[str, Any]]]) -> list[HeldPrompt]:
    """The first conversations up to their last question, short ones; topped up by prompts of our own."""
    asked = [question for turns in conversations if (question := _question(turns))]
    ours: list[list[Mapping[str, Any]]] = [[{"role": "user", "content": text}] for text in WITHOUT_DATA]
    held: dict[tuple[int, ...], HeldPrompt] = {}
    for turns in [*asked, *ours]:
        one = _held(codec, turns)
        if len(one.ids) <= min(LONGEST, (codec.context or LONGEST) - ANSWER - 1):
            held.setdefault(one.ids, one)
        if len(held) == PROMPTS:
            break
    return [*held.values()]


def _question(turns: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]] | None:
    """The turns before the last answer; None where they are more than plain text of known roles."""
    answers = [at for at, turn in enumerate(turns) if turn.get("role") == "assistant"]
    asked = list(turns[: answers[-1]] if answers else turns)
    plain = all(
        turn.get("role") in ("system", "user", "assistant") and isinstance(turn.get("content"), str)
        for turn in asked
    )
    return asked if plain and asked and asked[-1]["role"] == "user" else None


def _held(codec: ChatCodec, turns: Sequence[Mapping[str, Any]]) -> HeldPrompt:
    if codec.template is None:
        return HeldPrompt(tuple(codec.encode_text(str(turns[-1]["content"]))))
    lead = codec.system is not None and all(turn["role"] != "system" for turn in turns)
    messages = [{"role": "system", "content": codec.system}] if lead else []
    messages += [{"role": turn["role"], "content": turn["content"]} for turn in turns]
    return HeldPrompt(tuple(codec.encode_prompt(messages)), tuple(messages))


def measured(
    model: PreTrainedModel,
    adapter: Path,
    codec: ChatCodec,
    identity: BaseIdentity,
    held: Sequence[HeldPrompt],
) -> Parity | None:
    """What `adapter` answers on `model`, its float32 base, which is left as it was.

    None where it is no LoRA adapter beside the whole base, acts on a part of a text alone, or trained the base's biases: peft has no
    base without them then.
    """
    fields = read_json(adapter / CONFIG)
    name, method = method_of(fields)
    if name != "LORA" or method is not None or fields.get("alora_invocation_tokens"):
        return None
    with biases_kept(model) as biases:
        wrapped = adapted(model, adapter)
        try:
            if biases and wrapped.active_peft_config.bias != "none":
                return None
            return _measured(wrapped, adapter, codec, identity, held)
        finally:
            wrapped.unload()


def _measured(
    wrapped: PeftModel,
    adapter: Path,
    codec: ChatCodec,
    identity: BaseIdentity,
    held: Sequence[HeldPrompt],
) -> Parity | None:
    layers = lora_layers(wrapped)
    if not layers:
        return None
    name = str(wrapped.active_adapter)
    bos = codec.tokenizer.token_to_id(codec.special_tokens.get("bos_token", ""))
    has_bos = bos is not None and any(one.ids[0] == bos for one in held)
    variants = [ADAPTER, NO_ADAPTER, *SCALES, *([EXTRA_BOS] if bos is not None else [])]
    variants += [WITHOUT_BOS] if has_bos else []
    at_once = sorted(held, key=lambda one: len(one.ids))  # those of about one length
    groups = [at_once[start : start + AT_ONCE] for start in range(0, len(at_once), AT_ONCE)]
    with Progress(
        "what the adapter answers in PyTorch", len(held) * (1 + len(variants)), unit="answers"
    ) as progress:
        found = {
            prompt.ids: prompt
            for group in groups
            for prompt in _prompts(wrapped, group, codec, bos, variants, progress)
        }
    config: Any = wrapped.peft_config[name]
    facts = AdapterFacts(
        sha256=sha256_of(adapter / WEIGHTS),
        rank=config.r,
        alpha=config.lora_alpha,
        rslora=config.use_rslora,
        scale=next(iter(layers.values())).scaling[name],
    )
    seen = {token for one in found.values() for at in one.tokens for token in at} | (
        {bos} if bos is not None else set()
    )
    return Parity(
        base=identity,
        adapter=facts,
        template=_hash(None if codec.template is None else codec.template.source),
        system=_hash(codec.system),
        chat_template_kwargs=codec.defaults.chat_template_kwargs,
        versions={name: version(name) for name in ("torch", "transformers", "peft")},
        bos=bos,
        variants=tuple(variants),
        texts={token: codec.token_text(token) for token in sorted(seen)},
        prompts=tuple(found[one.ids] for one in held),
    )


def _hash(text: str | None) -> str | None:
    return None if text is None else hashlib.sha256(text.encode()).hexdigest()


def _prompts(
    model: PeftModel,
    held: Sequence[HeldPrompt],
    codec: ChatCodec,
    bos: int | None,
    variants: Sequence[str],
    progress: Progress,
) -> list[ParityPrompt]:
    """Prompts, their continuations, and every variant's log-probabilities along these."""
    prompts = [one.ids for one in held]
    answers = _greedy(model, prompts, codec)
    progress.advance(len(held))
    rows = {}
    for name in variants:
        rows[name] = _along(model, name, prompts, answers, bos)
        progress.advance(len(held))
    return [
        _prompt(one, answer, {name: found[at] for name, found in rows.items()}, codec)
        for at, (one, answer) in enumerate(zip(held, answers, strict=True))
    ]


def _prompt(
    held: HeldPrompt, answer: Sequence[int], rows: Mapping[str, Array], codec: ChatCodec
) -> ParityPrompt:
    """rows: log-probabilities [answer, vocab] of each variant."""
    best = [np.argsort(-rows[name], -1, kind="stable")[:, :TOP] for name in (ADAPTER, NO_ADAPTER)]
    tokens = [
        [*dict.fromkeys([token, *best[0][at].tolist(), *best[1][at].tolist()])]
        for at, token in enumerate(answer)
    ]
    log_probs = {
        name: tuple(
            tuple(round(float(row[at, token]), DIGITS) for token in ids) for at, ids in enumerate(tokens)
        )
        for name, row in rows.items()
    }
    return ParityPrompt(
        ids=held.ids,
        text=codec.spell(held.ids),
        messages=held.messages,
        answer=tuple(answer),
        tokens=tuple(map(tuple, tokens)),
        log_probs=log_probs,
    )


@torch.no_grad()
def _greedy(model: PeftModel, prompts: Sequence[Sequence[int]], codec: ChatCodec) -> list[list[int]]:
    """The likeliest token, and again, up to ANSWER or the end of the answer, which is one of them."""
    ends, longest = sorted(codec.eos_ids), max(map(len, prompts))
    pad = ends[0] if ends else 0
    config = GenerationConfig(
        do_sample=False,
        repetition_penalty=1.0,  # what is left open here, transformers takes from the model's own defaults
        max_new_tokens=ANSWER,
        eos_token_id=ends or None,
        pad_token_id=pad,
    )
    found = model.generate(
        input_ids=torch.tensor([[pad] * (longest - len(ids)) + [*ids] for ids in prompts]),
        attention_mask=torch.tensor([[0] * (longest - len(ids)) + [1] * len(ids) for ids in prompts]),
        generation_config=config,
    )
    return [_to_the_end(answer, codec.eos_ids) for answer in found[:, longest:].tolist()]


def _to_the_end(answer: Sequence[int], ends: Collection[int]) -> list[int]:
    """An answer up to its first end, which is part of it."""
    first = next((at for at, token in enumerate(answer) if token in ends), len(answer))
    return [*answer[: first + 1]]


@torch.no_grad()
def _along(
    model: PeftModel,
    variant: str,
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int]],
    bos: int | None,
) -> list[Array]:
    """Log-probabilities [answer, vocab] before each token of each answer."""
    scale = scale_of(variant)
    sequences = [
        [*_started(variant, ids, bos), *answer[:-1]] for ids, answer in zip(prompts, answers, strict=True)
    ]
    wanted = [range(len(ids) - len(answer), len(ids)) for ids, answer in zip(sequences, answers, strict=True)]
    with _scaled(model, 1.0 if scale is None else scale):
        return [log_softmax(rows.float().numpy()) for rows in batch_logits_at(model, sequences, wanted)]


def _started(variant: str, prompt: Sequence[int], bos: int | None) -> Sequence[int]:
    """A prompt as a variant of it begins."""
    if variant == EXTRA_BOS and bos is not None:
        return [bos, *prompt]
    return prompt[1:] if variant == WITHOUT_BOS and prompt[0] == bos else prompt


@contextlib.contextmanager
def _scaled(model: PeftModel, factor: float) -> Iterator[None]:
    """The adapter's update times `factor`; with 0 the bare base."""
    name = str(model.active_adapter)
    with model.disable_adapter() if factor == 0 else contextlib.nullcontext():
        layers = [*lora_layers(model).values()]
        before = [layer.scaling[name] for layer in layers]
        for layer, scale in zip(layers, before, strict=True):
            layer.scaling[name] = scale * factor
        try:
            yield
        finally:
            for layer, scale in zip(layers, before, strict=True):
                layer.scaling[name] = scale
