"""Losses of held-out texts, computed by the server's own engine beside its requests, which come first."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ptune.engine.decoder.request import Request, Token
from ptune.engine.job import shutting_down
from ptune.errors import PtuneError, TemplateError

from .evidence import NO_LOSS, Loss
from .texts import Text, read_texts

if TYPE_CHECKING:
    from ptune.codecs.chat import Example
    from ptune.formats.bundle import ByLoss
    from ptune.tasks.chat.infer import ChatModel

TENANT = "/canaries"  # no key's name has a slash
WEIGHT = 0.1  # beside a key's 1


class Scoring:
    """Scores the texts of one server's canaries. root: where the operator lets texts lie; None = nowhere.

    in_use: keeps the model loaded while a text is scored. Raises: RequestError(503) where it is no longer.
    """

    def __init__(
        self,
        model: ChatModel,
        root: Path | None,
        in_use: Callable[[], AbstractAsyncContextManager[Any]],
    ) -> None:
        self._model, self._root, self._in_use = model, root, in_use

    def texts(self, rule: ByLoss) -> list[Text]:
        """Raises: RequestError, as `read_texts`."""
        return read_texts(self._root, rule.texts)

    def check(self, rule: ByLoss, adapters: Sequence[str]) -> None:
        """Raises: RequestError that names the first line which cannot be scored under each of the adapters."""
        codec_for, longest = self._model.codec_for, self._model.engine.longest
        unlike = {(id(codec_for(name)), longest(adapter=name)): name for name in adapters}
        for text in sorted(self.texts(rule), key=lambda text: text.number):
            for adapter in unlike.values():
                self._examples(text, rule, adapter)

    async def losses(self, text: Text, rule: ByLoss, adapters: Sequence[str]) -> list[Loss]:
        """The loss of a text's answers under each adapter. Raises: RequestError; PtuneError where the engine fails."""
        async with self._in_use():
            return await asyncio.gather(*(self._loss(text, rule, adapter) for adapter in adapters))

    async def _loss(self, text: Text, rule: ByLoss, adapter: str) -> Loss:
        examples = await asyncio.to_thread(self._examples, text, rule, adapter)
        return sum([await self._score(example, adapter) for example in examples], start=NO_LOSS)

    def _examples(self, text: Text, rule: ByLoss, adapter: str) -> list[Example]:
        """A text's tokens, and which of them are answers: what training would see of it. Raises: RequestError."""
        try:
            examples = text.conversation().examples(self._model.codec_for(adapter), rule.train_on)
        except TemplateError as error:
            raise text.unusable(str(error)) from None
        longest, most = max(map(len, examples)), self._model.engine.longest(adapter=adapter)
        if longest > most:
            raise text.unusable(f"it is {longest} tokens long, and a sequence may have {most} here")
        if not any(any(example.targets[1:]) for example in examples):
            raise text.unusable("it has no answer whose tokens could be predicted")
        return examples

    async def _score(self, example: Example, adapter: str) -> Loss:
        """Raises: RequestError; PtuneError where the engine fails."""
        running = _Running(example)
        request = Request(example.ids, adapter, max_tokens=0, prompt_logprobs=0, tenant=TENANT, weight=WEIGHT)
        ticket = self._model.engine.submit(request, running.deliver)
        try:
            return await running.loss
        finally:
            ticket.cancel()


class _Running:
    """A text that is being scored, and the receiver of its tokens."""

    def __init__(self, example: Example) -> None:
        self._loop = asyncio.get_running_loop()
        self.loss: asyncio.Future[Loss] = self._loop.create_future()
        self._targets = iter(example.targets)
        self._scored = NO_LOSS

    def deliver(self, token: Token) -> None:
        """Runs on the engine's thread."""
        if token.prompt and next(self._targets) and token.logprob is not None:
            self._scored += Loss(-token.logprob, 1)
        if token.finish is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
                self._loop.call_soon_threadsafe(self._end, token)

    def _end(self, token: Token) -> None:
        if self.loss.done():
            return
        if token.finish == "length":
            self.loss.set_result(self._scored)
        elif token.finish == "cancelled":
            self.loss.set_exception(shutting_down())
        else:
            self.loss.set_exception(token.refusal or PtuneError(token.error or "the engine failed"))
