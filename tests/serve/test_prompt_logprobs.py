"""`prompt_logprobs`: vLLM's shape, the numbers of transformers, and how much of them one answer may hold."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pydantic
import pytest
from support.bundles import peft_folder, tiny_bundle
from support.end_adapters import peft_logits
from support.fake_chat_model import serving
from support.tiny_models import VOCAB

from ptune.engine.adapters.folder import install
from ptune.parity import log_softmax
from ptune.tasks.chat import infer
from ptune_serve.app import create_app

MOST = 3
Ranked = dict[str, dict[str, Any]]


class Server:
    """A tiny model with an adapter behind OpenAI's client."""

    def __init__(self, base: Path, adapter: Path, client: openai.OpenAI) -> None:
        self.adapters = {"base": None, "tuned": adapter}
        self.base, self.client = base, client

    def expected(self, name: str, ids: Sequence[int]) -> np.ndarray[Any, Any]:
        """[tokens, vocab]"""
        return log_softmax(peft_logits(self.base, self.adapters[name], ids))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("scored")
    base, _, bundle = tiny_bundle(folder)
    adapter = peft_folder(base, folder / "tuned", spread=0.3)
    install(bundle, adapter, "tuned")
    with (
        closing(infer.load(bundle.folder, threads=1, prefill_chunk=8, replay_golden=False)) as model,
        serving(create_app(model)) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0, timeout=60) as client,
    ):
        yield Server(base, adapter, client)


def told(part: pydantic.BaseModel) -> dict[str, Any]:
    """What a part of an answer has beyond OpenAI's fields."""
    return part.model_extra or {}


def ids(length: int, seed: int) -> list[int]:
    return np.random.default_rng(seed).integers(5, VOCAB, length).tolist()


def check(found: list[Ranked | None], tokens: Sequence[int], expected: np.ndarray[Any, Any]) -> None:
    """Each token but the first with its log-probability and rank, and the likeliest with theirs."""
    assert found[0] is None
    assert len(found) == len(tokens)
    for entries, token, row in zip(found[1:], tokens[1:], expected, strict=False):
        assert entries is not None
        best = np.argsort(-row)[:MOST].tolist()
        assert {*entries} == {str(one) for one in (*best, token)}
        for rank, one in enumerate(best, 1):
            assert entries[str(one)]["rank"] == rank
            assert entries[str(one)]["logprob"] == pytest.approx(row[one], abs=1e-3)
        assert entries[str(token)]["logprob"] == pytest.approx(row[token], abs=1e-3)
        assert abs(entries[str(token)]["rank"] - int((row >= row[token]).sum())) <= 1
        assert all(isinstance(entry["decoded_token"], str) for entry in entries.values())


def test_of_completions_they_are_transformers_own(server: Server) -> None:
    """Two prompts with two choices each, both choices with their prompt's; those of the answer have their own number."""
    prompts = [ids(21, 1), ids(9, 2)]
    answer = server.client.completions.create(
        model="tuned",
        prompt=prompts,
        n=2,
        max_tokens=2,
        logprobs=1,
        extra_body={"prompt_logprobs": MOST, "ignore_eos": True},
    )
    for index, choice in enumerate(answer.choices):
        tokens = prompts[index // 2]
        check(told(choice)["prompt_logprobs"], tokens, server.expected("tuned", tokens))
        logprobs = choice.model_dump()["logprobs"]
        assert len(logprobs["tokens"]) == 2
        assert all(len(top) <= 2 for top in logprobs["top_logprobs"])
    plain = server.client.completions.create(model="tuned", prompt=prompts[0], max_tokens=1)
    assert "prompt_logprobs" not in told(plain.choices[0])


def test_of_chats_they_are_of_the_rendered_prompt(server: Server) -> None:
    answer = server.client.chat.completions.create(
        model="base",
        messages=[{"role": "user", "content": "hello there"}],
        n=2,
        max_tokens=2,
        extra_body={"prompt_logprobs": MOST, "return_token_ids": True},
    )
    tokens = told(answer)["prompt_token_ids"]
    check(told(answer)["prompt_logprobs"], tokens, server.expected("base", tokens))
    assert [choice.logprobs for choice in answer.choices] == [None, None]
    assert len(told(answer.choices[0])["token_ids"]) == 2


def test_they_stand_beside_an_echo_with_its_own_number(served: Any) -> None:
    asked = {"max_tokens": 1, "echo": True, "logprobs": 0, "prompt_logprobs": 2}
    [choice] = served.complete("hi", **asked).json()["choices"]
    assert choice["logprobs"]["top_logprobs"] == [None, {"i": -0.5}, {"b": -0.5}]
    entry = {"logprob": -0.5, "rank": 7, "decoded_token": "i"}
    likely = {
        str(97 + at): {"logprob": -98.0 - at, "rank": 1 + at, "decoded_token": "ab"[at]} for at in range(2)
    }
    assert choice["prompt_logprobs"] == [None, {"105": entry, **likely}]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"prompt_logprobs": 1, "stream": True}, "send stream: false"),
        ({"prompt_logprobs": 21}, "20"),
        ({"prompt_logprobs": -1}, "0"),
        ({"prompt_logprobs": 20, "prompt": ["x" * 100] * 100}, "210000 entries, at most 131072"),
    ],
)
def test_what_cannot_be_told_is_refused(served: Any, fields: dict[str, Any], words: str) -> None:
    response = served.complete(fields.pop("prompt", "x"), **fields)
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, "prompt_logprobs")
    assert words in error["message"]
