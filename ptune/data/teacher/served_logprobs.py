"""Reads the log-probabilities that a server wrote: lines of JSON, each the result of one request.

A line is a response, or has one inside as the output of a batch has it (`vllm run-batch`, OpenAI's batches):

    {"custom_id": …, "response": {"status_code": 200, "body": RESPONSE}, "error": null}

Of a response there are read, as vLLM writes them (https://docs.vllm.ai, serving/openai_compatible_server):

    prompt_logprobs     of a chat in the response, of a completion in its choices: for each token of the prompt but the first, whose
                        place is null, {token id: {"logprob": …}}, the token itself first, then the most likely ones
    logprobs.content    of a choice: for each token of the answer its most likely ones as `top_logprobs`, each with "logprob" and
                        either "token": "token_id:17" (`return_tokens_as_token_ids`) or "bytes"
    prompt_token_ids, token_ids   of prompt and answer (`return_token_ids`); needed for `logprobs.content`
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from pydantic import BaseModel, ConfigDict, ValidationError

from ptune.errors import DataError

UNKNOWN = -1
"""The id of a text's first token where nothing says it."""
_BY_ID = "token_id:"

TokenOf: TypeAlias = Mapping[bytes, int]
"""The id of each token whose bytes no other token has."""


@dataclass(frozen=True)
class Scored:
    """A text, and what a model thought likely in the place of its tokens."""

    ids: tuple[int, ...]
    likely: Mapping[int, Mapping[int, float]]  # place -> token -> log-probability, of some places
    model: str  # as the server calls it
    place: str  # file and line


class _Read(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class _Logprob(_Read):
    logprob: float


_Places: TypeAlias = list[dict[int, _Logprob] | None]


class _Top(_Read):
    token: str
    logprob: float
    bytes: list[int] | None = None


class _Answered(_Top):
    top_logprobs: list[_Top] = []


class _Logprobs(_Read):
    content: list[_Answered] | None = None


class _Prompt(_Read):
    prompt_logprobs: _Places | None = None
    prompt_token_ids: list[int] | None = None


class _Choice(_Prompt):
    logprobs: _Logprobs | None = None
    token_ids: list[int] | None = None


class _Response(_Prompt):
    model: str = ""
    choices: list[_Choice] = []


def scored(path: Path, token_of: TokenOf) -> Iterator[Scored]:
    """The texts of a file; lines of requests that failed are left out.

    Raises: DataError that names file and line where a line is no response, or its log-probabilities cannot be assigned to tokens.
    """
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield from _scored(line, f"{path}:{number}", token_of)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from None


def _scored(line: str, place: str, token_of: TokenOf) -> Iterator[Scored]:
    body = _body(line, place)
    if body is None:
        return
    try:
        response = _Response.model_validate(body)
    except ValidationError as error:
        first = error.errors()[0]
        at = ".".join(map(str, first["loc"]))
        raise DataError(
            f"{place}: {at}: {first['msg']}: this is no response with log-probabilities"
        ) from None
    found = False
    for part in (response, *response.choices):
        if part.prompt_logprobs is not None:
            found = True
            yield _of_prompt(part.prompt_logprobs, part.prompt_token_ids, response.model, place)
        elif isinstance(part, _Choice) and part.logprobs is not None and part.logprobs.content:
            found = True
            prompt = part.prompt_token_ids or response.prompt_token_ids
            yield _of_answer(part.logprobs.content, prompt, part.token_ids, response.model, place, token_of)
    if not found:
        raise DataError(
            f'{place} has neither prompt_logprobs nor logprobs.content: send the requests with "prompt_logprobs": 20'
        )


def _body(line: str, place: str) -> Any:
    """The response of a line; None where the request failed."""
    try:
        read = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        raise DataError(f"{place} is no JSON: {error}") from None
    if not isinstance(read, dict):
        raise DataError(f"{place} is no object, but {type(read).__name__}")
    if read.get("error"):
        return None
    if "response" not in read:
        return read
    response = read["response"]
    if not isinstance(response, dict) or response.get("status_code", 200) != 200:
        return None
    return response.get("body")


def _of_prompt(places: _Places, ids: list[int] | None, model: str, place: str) -> Scored:
    if ids is None:  # a place's own token is its first
        ids = [UNKNOWN if one is None else next(iter(one), UNKNOWN) for one in places]
    if len(ids) != len(places):
        raise DataError(f"{place}: {len(places)} prompt_logprobs of {len(ids)} tokens")
    likely = {
        at: {token: value.logprob for token, value in one.items()} for at, one in enumerate(places) if one
    }
    return Scored(tuple(ids), likely, model, place)


def _of_answer(
    content: list[_Answered],
    prompt: list[int] | None,
    answer: list[int] | None,
    model: str,
    place: str,
    token_of: TokenOf,
) -> Scored:
    if prompt is None or answer is None:
        raise DataError(
            f'{place} does not say which tokens its prompt and answer are: send the requests with "return_token_ids": true'
        )
    if len(answer) != len(content):
        raise DataError(f"{place}: logprobs.content of {len(content)} tokens, and {len(answer)} token_ids")
    likely = {
        len(prompt) + at: {_id_of(top, place, token_of): top.logprob for top in one.top_logprobs}
        for at, one in enumerate(content)
        if one.top_logprobs
    }
    return Scored((*prompt, *answer), likely, model, place)


def _id_of(top: _Top, place: str, token_of: TokenOf) -> int:
    if top.token.startswith(_BY_ID) and (number := top.token[len(_BY_ID) :]).isdecimal():
        return int(number)
    try:
        return token_of[bytes(top.bytes or ())]
    except (KeyError, ValueError):
        raise DataError(
            f'{place}: {top.token!r} is not one token of the student\'s: send the requests with "return_tokens_as_token_ids": true'
        ) from None
