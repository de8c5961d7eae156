"""Clients that ask, cancel, send nonsense and swap adapters, in any order, and compare every answer with transformers'."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import httpx

from support.living_adapters import LORA, Living, peft_files

BASE, STANDING, SWAPPED = "base", ("wide", "narrow"), ("red", "green", "blue")
PROMPTS, TOKENS, CLOSE = 8, 12, 0.01

Answers = dict[tuple[str, int], list[int]]


@dataclass(frozen=True)
class Expected:
    """Prompts, and what transformers continues each with under each adapter; only such whose choices are no near ties."""

    prompts: list[list[int]]
    answers: Answers

    @classmethod
    def of(cls, there: Living, random: Random) -> Expected:
        """Makes the swapped adapters' PEFT folders, too."""
        for seed, name in enumerate(SWAPPED, 70):
            there.adapter(name, seed, r=1 + seed % 3, target_modules=LORA["target_modules"])
        prompts: list[list[int]] = []
        answers: Answers = {}
        while len(prompts) < PROMPTS:
            prompt = [random.randrange(3, 600) for _ in range(random.choice((3, 10, 30, 60)))]
            found = {name: there.tiny.greedy(prompt, name, TOKENS) for name in (BASE, *STANDING, *SWAPPED)}
            if all(clear(there, prompt, name, tokens) for name, tokens in found.items()):
                answers |= {(name, len(prompts)): tokens for name, tokens in found.items()}
                prompts.append(prompt)
        return cls(prompts, answers)


def clear(there: Living, prompt: list[int], name: str, tokens: list[int]) -> bool:
    """Whether each token was chosen well ahead of the next best: so that rounding cannot choose another."""
    logits = there.tiny.logits([*prompt, *tokens[:-1]], name)[len(prompt) - 1 :]
    best = sorted_last_two(logits)
    return bool((best[:, 1] - best[:, 0]).min() > CLOSE)


def sorted_last_two(logits: Any) -> Any:
    """[tokens, 2]: the second largest and the largest logit."""
    logits.sort(axis=-1)
    return logits[:, -2:]


@dataclass
class Traffic:
    """Workers against one server until `stop` is set. `wrong` lists what should not have been."""

    url: str
    expected: Expected
    folders: dict[str, Path]
    seed: int = 0
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    done: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    swaps: dict[str, str] = field(
        default_factory=dict
    )  # adapters that are there now -> whose factors they have

    async def run(self, workers: int) -> None:
        """Ends when all workers have ended."""
        limits = httpx.Limits(max_keepalive_connections=workers)
        async with httpx.AsyncClient(base_url=self.url, timeout=120, limits=limits) as http:
            await asyncio.gather(
                self._swap(http, Random(self.seed)),
                *(self._work(http, Random(self.seed + number)) for number in range(1, workers + 1)),
            )

    async def _work(self, http: httpx.AsyncClient, random: Random) -> None:
        actions = [self._whole] * 3 + [self._stream] * 3 + [self._cancel] * 2 + [self._nonsense]
        while not self.stop.is_set():
            action = random.choice(actions)
            try:
                await action(http, random)
            except Exception as error:
                self.wrong.append(f"{action.__name__}: {type(error).__name__}: {error}")
            self.done[action.__name__.strip("_")] += 1

    def _asked(self, random: Random, **more: Any) -> tuple[dict[str, Any], list[int], bool]:
        """A request, its right answer, and whether its adapter may be gone before it is answered."""
        swapped = list(self.swaps.items()) if random.random() < 0.3 else []
        name, factors = random.choice(swapped) if swapped else (random.choice((BASE, *STANDING)),) * 2
        number = random.randrange(len(self.expected.prompts))
        body = {
            "model": name,
            "prompt": self.expected.prompts[number],
            "temperature": 0,
            "max_tokens": TOKENS,
        }
        body |= {"return_token_ids": True, "logit_bias": {}, **more}
        return body, self.expected.answers[factors, number], bool(swapped)

    def _compare(self, body: dict[str, Any], ids: list[int], right: list[int]) -> None:
        """An answer that ends itself is as right as far as it goes."""
        ended = len(ids) < len(right) and ids and ids[-1] == 2
        if ids != (right[: len(ids)] if ended else right):
            self.wrong.append(f"{body['model']} answered {ids}, not {right}, to {body['prompt'][:8]}…")

    async def _whole(self, http: httpx.AsyncClient, random: Random) -> None:
        choices = random.choice((1, 1, 1, 3))
        body, right, may_be_gone = self._asked(random, n=choices)
        response = await http.post("/v1/completions", json=body)
        if response.status_code == 404 and may_be_gone:
            return
        if response.status_code != 200:
            raise RuntimeError(f"{body['model']}: {response.status_code} {response.text}")
        answers = response.json()["choices"]
        if len(answers) != choices:
            self.wrong.append(f"{len(answers)} choices for {choices}")
        for choice in answers:
            self._compare(body, choice["token_ids"], right)

    async def _stream(self, http: httpx.AsyncClient, random: Random) -> None:
        body, right, may_be_gone = self._asked(random, stream=True)
        async with http.stream("POST", "/v1/completions", json=body) as response:
            if response.status_code == 404 and may_be_gone:
                return
            response.raise_for_status()
            lines = [line.removeprefix("data: ") async for line in response.aiter_lines() if line]
        if lines[-1] != "[DONE]":
            error = json.loads(lines[-1]).get("error", {})
            if not (may_be_gone and error):
                self.wrong.append(f"a stream ended with {lines[-1]}")
            return
        self._compare(body, [one for line in lines[:-1] for one in ids_of(line)], right)

    async def _cancel(self, http: httpx.AsyncClient, random: Random) -> None:
        body, _, _ = self._asked(random, stream=True)
        body["max_tokens"] = 300
        async with http.stream("POST", "/v1/completions", json=body) as response:
            lines = response.aiter_lines()
            for _ in range(random.randrange(4)):
                await anext(lines, None)

    async def _nonsense(self, http: httpx.AsyncClient, random: Random) -> None:
        good, _, may_be_gone = self._asked(random)
        what, status = random.choice(
            [
                ({**good, "model": "nobody"}, 404),
                ({**good, "prompt": [10**9]}, 400),
                ({**good, "prompt": []}, 400),
                ({**good, "max_tokens": 10**6}, 400),
                ({**good, "temperature": -1}, 400),
                ({**good, "stop": [""]}, 400),
                ({**good, "made_up": 1, "n": 0}, 400),
                ("{", 400),
            ]
        )
        content = what if isinstance(what, str) else json.dumps(what)
        headers = {"content-type": "application/json"}
        response = await http.post("/v1/completions", content=content, headers=headers)
        if response.status_code != status and not (may_be_gone and response.status_code == 404):
            self.wrong.append(f"{content[:80]} was answered with {response.status_code}, not {status}")

    async def _swap(self, http: httpx.AsyncClient, random: Random) -> None:
        """Adds adapters under new names and removes them again, while others ask for them."""
        number = 0
        while not self.stop.is_set():
            name, factors = f"swap-{number}", random.choice(SWAPPED)
            number += 1
            try:
                await self._add(http, name, factors)
                if len(self.swaps) > 3 or self.stop.is_set():
                    await self._remove(http, next(iter(self.swaps)))
            except Exception as error:
                self.wrong.append(f"swap: {type(error).__name__}: {error}")
            self.done["swap"] += 1
            await asyncio.sleep(0.05)
        for name in list(self.swaps):
            await self._remove(http, name)

    async def _add(self, http: httpx.AsyncClient, name: str, factors: str) -> None:
        response = await http.post(
            "/v1/adapters", data={"name": name}, files=peft_files(self.folders[factors])
        )
        response.raise_for_status()
        self.swaps[name] = factors

    async def _remove(self, http: httpx.AsyncClient, name: str) -> None:
        del self.swaps[name]
        (await http.delete(f"/v1/adapters/{name}")).raise_for_status()


def ids_of(line: str) -> list[int]:
    """The tokens of an event of a completion's stream."""
    return [token for choice in json.loads(line)["choices"] for token in choice.get("token_ids", [])]
