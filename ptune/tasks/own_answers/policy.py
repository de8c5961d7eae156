"""The engine that samples a training's answers, with the weights that are trained."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from peft import PeftModel, get_peft_model_state_dict
from torch import nn

from ptune.codecs.chat import ChatCodec
from ptune.config.own_answers import OwnAnswers
from ptune.engine.decoder.engine import Engine
from ptune.engine.decoder.request import Request, Token
from ptune.engine.sampling import Sampling
from ptune.errors import PtuneError
from ptune.formats.bundle import BASE
from ptune.tasks.own_answers.answer import Answer

POLICY = "policy"
"""The adapter's name in the engine."""


class Asked(Protocol):
    """A prompt to be answered."""

    @property
    def ids(self) -> tuple[int, ...]: ...
    @property
    def number(self) -> int:
        """Decides with the seed what is drawn."""


@dataclass(frozen=True)
class Policy:
    """An engine whose adapter follows a training."""

    engine: Engine
    codec: ChatCodec
    task: OwnAnswers

    def follow(self, model: nn.Module) -> None:
        """Takes over the adapter's weights. Raises: AdapterError if the engine cannot serve such an adapter."""
        config, tensors = adapter_of(model)
        self.engine.put(POLICY, config, tensors)

    def sampled(
        self,
        prompts: Sequence[Asked],
        each: int,
        seed: str,
        *,
        base: bool = False,
        repeats: Sequence[int] | None = None,
    ) -> list[list[Answer]]:
        """`each` answers to every prompt, at temperature 1, from the whole vocabulary: as likely as the model thinks them.

        seed: with a prompt's number and that of an answer, decides what is drawn. base: of the model without the adapter.
        repeats: how often each prompt was asked before, so that its answers are others; default: never.
        """
        asked = zip(prompts, repeats or [0] * len(prompts), strict=True)
        return self._answers(
            [
                (prompt, Sampling(seed=_seed(f"{seed}/{prompt.number}/{before * each + number}")))
                for prompt, before in asked
                for number in range(each)
            ],
            each,
            BASE if base else POLICY,
        )

    def likeliest(self, prompts: Sequence[Asked], *, base: bool = False) -> list[Answer]:
        """The greedy answer to every prompt. base: of the model without the adapter."""
        asked = [(prompt, Sampling(temperature=0)) for prompt in prompts]
        return [answers[0] for answers in self._answers(asked, 1, BASE if base else POLICY)]

    def _answers(
        self, asked: Sequence[tuple[Asked, Sampling]], each: int, adapter: str
    ) -> list[list[Answer]]:
        most = min(self.task.max_length, self.codec.context or self.task.max_length)
        found = self.engine.generate_all(
            [
                Request(
                    prompt=prompt.ids,
                    adapter=adapter,
                    sampling=sampling,
                    max_tokens=min(self.task.answer_tokens, most - len(prompt.ids)),
                    stop_ids=self.codec.eos_ids,
                    logprobs=0,
                )
                for prompt, sampling in asked
            ]
        )
        answers = [_answer(tokens) for tokens in found]
        return [answers[first : first + each] for first in range(0, len(answers), each)]


def repeats_of(prompts: Sequence[Asked]) -> list[int]:
    """How often each prompt stands before its place, by its number: a step of few prompts has some of them several times."""
    seen = Counter[int]()
    found = []
    for prompt in prompts:
        found.append(seen[prompt.number])
        seen[prompt.number] += 1
    return found


def adapter_of(model: nn.Module) -> tuple[dict[str, Any], dict[str, NDArray[np.float32]]]:
    """A model's adapter as PEFT would write it: adapter_config.json and adapter_model.safetensors."""
    assert isinstance(model, PeftModel)
    config = {name: _plain(value) for name, value in model.active_peft_config.to_dict().items()}
    tensors = get_peft_model_state_dict(model, adapter_name=model.active_adapter, save_embedding_layers=False)
    return config, {name: one.detach().float().cpu().numpy() for name, one in tensors.items()}


def _plain(value: Any) -> Any:
    """A value as it is read back from JSON."""
    if isinstance(value, set | tuple):
        return sorted(value) if isinstance(value, set) else list(value)
    return value.value if isinstance(value, Enum) else value


def _answer(tokens: Sequence[Token]) -> Answer:
    """Raises: PtuneError if the engine could not compute it."""
    last = tokens[-1]
    if last.finish not in ("stop", "length"):
        raise PtuneError(f"the engine could not sample an answer: {last.error or last.finish}")
    return Answer(
        tuple(token.id for token in tokens),
        tuple(float("nan") if token.logprob is None else token.logprob for token in tokens),
        last.finish == "stop",
    )


def _seed(text: str) -> int:
    return random.Random(text).getrandbits(63)  # noqa: S311
