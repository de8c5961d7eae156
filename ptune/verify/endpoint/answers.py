"""Asks an endpoint for the log-probabilities along the answers of parity.json, in every way that it offers.

/v1/completions with the prompt's tokens, or with its text where a server takes no tokens; the answer is forced upon it, by `echo`
where that is offered, else by asking again after each token that it would have said otherwise. And /v1/chat/completions with the
conversation, which shows whether the server's chat template makes the same tokens of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from ptune.errors import ParityError
from ptune.formats.parity_json import Parity, ParityPrompt
from ptune.verify.endpoint.client import Endpoint, RefusedError, printable
from ptune.verify.endpoint.logprobs import Names, Reply, Said, reply_of

TOPS = (20, 5, 1)  # how many of the likeliest tokens are asked for: the first that the server takes
EXTENSIONS = {
    "return_token_ids": True,
    "return_tokens_as_token_ids": True,
}  # vLLM's; others ignore or refuse them
NOT_OFFERED = (404, 405, 501)
DENIED = (401, 403)


@dataclass(frozen=True)
class Seen:
    """What the server says at one position of one prompt's answer."""

    prompt: int
    position: int
    log_probs: dict[int, float]  # of those of the file's tokens that it told
    same: bool  # whether its likeliest token is the adapter's


@dataclass
class Way:
    """One way of asking, with what was answered."""

    endpoint: Literal["completions", "chat"]
    sent: Literal["tokens", "text", "messages"]
    echo: bool = False
    top: int = 0
    seen: list[Seen] = field(default_factory=list)
    prompts: list[tuple[int | None, tuple[int, ...] | None]] = field(default_factory=list)
    """Of each prompt the number of tokens that the server counts, and the tokens themselves, where it tells them."""
    texts: list[str | None] = field(default_factory=list)  # the rendered prompts, where it tells them

    @property
    def name(self) -> str:
        return f"{self.endpoint}, {self.sent}{', echo' if self.echo else ''}"


def chosen_model(endpoint: Endpoint, asked: str | None, adapter: str | None) -> str:
    """The model to ask: the user's word, else the adapter's name where the server has it, else the only one there.

    Raises: ParityError where the server has several.
    """
    if asked is not None:
        return asked
    try:
        listed = endpoint.get("/v1/models").get("data")
    except RefusedError as error:
        if error.status in DENIED:
            raise
        listed = None
    names = [one.get("id") for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []
    known = [name for name in names if isinstance(name, str)]
    if adapter in known and adapter is not None:
        return adapter
    if len(known) == 1:
        return known[0]
    shown = printable(", ".join(known[:20])) or "none that it lists"
    raise ParityError(f"{endpoint.url} has several models ({shown}): say which with --model")


def by_completions(endpoint: Endpoint, model: str, parity: Parity) -> Way | None:
    """The forced answers of /v1/completions; None where the server has none, or tells no log-probabilities."""
    kinds: tuple[Literal["tokens", "text"], ...] = ("tokens", "text")
    for sent in kinds:
        for top in TOPS:
            way = Way("completions", sent, top=top)
            first = parity.prompts[0]
            body = _completion(model, way, first, first.answer, 1) | {"echo": True}
            try:
                reply = reply_of(endpoint.post("/v1/completions", body, EXTENSIONS))
            except RefusedError as error:
                if error.status in DENIED:
                    raise
                if error.status in NOT_OFFERED:
                    return None
                continue
            if reply.said:
                way.echo = sent == "tokens" and len(reply.said) > len(first.answer)
                for number, prompt in enumerate(parity.prompts):
                    _force(endpoint, model, way, parity, number, prompt)
                return way
    return None


def _completion(
    model: str, way: Way, prompt: ParityPrompt, after: Sequence[int], tokens: int
) -> dict[str, Any]:
    """A request for what follows the prompt and, where tokens are sent, those `after` it."""
    given = [*prompt.ids, *after] if way.sent == "tokens" else prompt.text
    greedy = {"max_tokens": tokens, "temperature": 0, "logprobs": way.top}
    return {"model": model, "prompt": given, **greedy}


def _force(
    endpoint: Endpoint, model: str, way: Way, parity: Parity, number: int, prompt: ParityPrompt
) -> None:
    """Adds what the server says along one answer of /v1/completions."""
    if way.echo:
        body = _completion(model, way, prompt, prompt.answer, 1) | {"echo": True}
        reply = reply_of(endpoint.post("/v1/completions", body, EXTENSIONS))
        total = reply.prompt_tokens or len(prompt.ids) + len(prompt.answer)
        along = reply.said[total - len(prompt.answer) : total]
        if len(along) != len(prompt.answer):
            raise ParityError(
                f"{endpoint.url} echoes {len(reply.said)} positions of a prompt of {total} tokens"
            )
        way.prompts.append((total - len(prompt.answer), None))
        _add(way, parity, number, prompt, 0, along, forced=True)
        return

    def ask(done: int, tokens: int) -> Reply:
        body = _completion(model, way, prompt, prompt.answer[:done], tokens)
        return reply_of(endpoint.post("/v1/completions", body, EXTENSIONS))

    seam = way.sent == "text"  # the tokens of two texts together may be others than theirs
    way.prompts.append((_generated(ask, way, parity, number, seam=seam).prompt_tokens, None))


def _generated(
    ask: Callable[[int, int], Reply], way: Way, parity: Parity, number: int, *, seam: bool
) -> Reply:
    """Adds what a server that only generates says along one answer. Returns its first reply.

    ask: the reply after so many tokens of the answer, of so many tokens. It lists what follows as far as that is the file's own
    answer. Where it is not, one token is asked for alone: some servers list no token that ends within a character, and what
    comes after such a one would be taken for it. seam: no token of the answer can be put behind the prompt.
    """
    prompt, names = parity.prompts[number], Names(parity.texts)
    done, first, length = 0, None, len(prompt.answer)
    while done < length:
        reply = ask(done, length - done)
        first = first or reply
        agreed = _agreed(reply, names, prompt.answer[done:])
        _add(way, parity, number, prompt, done, reply.said[:agreed], forced=False)
        done += agreed
        if done == length:
            break
        if done and seam:
            left_out = _agreed(Reply(reply.said[agreed:], None), names, prompt.answer[done + 1 :])
            if agreed < len(reply.said) and not left_out:
                way.seen.append(Seen(number, done, {}, same=False))
            break
        _add(way, parity, number, prompt, done, ask(done, 1).said[:1], forced=False)
        done += 1
        if seam:
            break
    assert first is not None  # an answer has a token at least
    return first


def _agreed(reply: Reply, names: Names, answer: Sequence[int]) -> int:
    """How many of a reply's tokens are the answer's, from the first on."""
    pairs = zip(reply.said, answer, strict=False)
    return next(
        (at for at, (said, token) in enumerate(pairs) if names.is_token(said.token, token) is not True),
        min(len(reply.said), len(answer)),
    )


def _add(
    way: Way,
    parity: Parity,
    number: int,
    prompt: ParityPrompt,
    start: int,
    along: Sequence[Said],
    *,
    forced: bool,
) -> None:
    names = Names(parity.texts)
    for at, said in enumerate(along, start):
        found = names.found(said, prompt.tokens[at])
        own = prompt.answer[at]
        if forced:
            if said.log_prob is not None:
                found[own] = said.log_prob
            same = own in found and found[own] >= max((value for _, value in said.top), default=0.0) - 1e-6
        else:
            same = names.is_token(said.token, own) is True
        way.seen.append(Seen(number, at, found, same))


def by_chat(endpoint: Endpoint, model: str, parity: Parity) -> Way | None:
    """The answers of /v1/chat/completions up to the first other token; None where it cannot be asked."""
    if any(prompt.messages is None for prompt in parity.prompts):
        return None
    for top in TOPS:
        way = Way("chat", "messages", top=top)
        try:
            for number, prompt in enumerate(parity.prompts):
                ask = partial(_chat, endpoint, model, parity, prompt, top)
                first = _generated(ask, way, parity, number, seam=True)
                way.prompts.append((first.prompt_tokens, first.prompt_ids))
        except RefusedError as error:
            if error.status in DENIED:
                raise
            if error.status in NOT_OFFERED:
                return None
            continue
        if not any(ids for _, ids in way.prompts):
            way.texts = _rendered(endpoint, parity)
        return way
    return None


def _chat(
    endpoint: Endpoint, model: str, parity: Parity, prompt: ParityPrompt, top: int, done: int, tokens: int
) -> Reply:
    """The reply to a conversation; there is no way to begin its answer, so `done` is 0."""
    assert done == 0
    asked = {"model": model, "messages": list(prompt.messages or ()), "max_tokens": tokens}
    greedy = {"temperature": 0, "logprobs": True, "top_logprobs": top}
    variables = parity.chat_template_kwargs
    extensions = EXTENSIONS | ({"chat_template_kwargs": variables} if variables else {})
    return reply_of(endpoint.post("/v1/chat/completions", {**asked, **greedy}, extensions))


def _rendered(endpoint: Endpoint, parity: Parity) -> list[str | None]:
    """What llama-server's template makes of the conversations; empty where the server does not tell it."""
    texts: list[str | None] = []
    for prompt in parity.prompts:
        try:
            said = endpoint.post("/apply-template", {"messages": list(prompt.messages or ())}).get("prompt")
        except ParityError:
            return []
        texts.append(said if isinstance(said, str) else None)
    return texts
