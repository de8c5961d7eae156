"""How much an answer may think: what a request asks for, or else the adapter's default."""

from __future__ import annotations

from ptune.codecs.chat import ChatCodec
from ptune.codecs.reading import Reading
from ptune.engine.decoder.answers.thinking import ThinkingBudget
from ptune.errors import RequestError

UNLIMITED = -1
PARAM = "thinking_token_budget"


def thinking_budget(
    codec: ChatCodec, reading: Reading | None, asked: int | None, default: int | None = None
) -> ThinkingBudget | None:
    """The engine's budget; None for any number of tokens, and where no answer can think.

    asked: None = the adapter's, or else `default`; -1 = any number.
    Raises: RequestError where a budget is asked for, but nothing marks what this model thinks.
    """
    if asked is None:
        adapters = codec.defaults.thinking_token_budget
        asked = default if adapters is None else adapters
    elif asked != UNLIMITED and codec.reasoning_format is None:
        message = f"{PARAM}: the chat template of this model marks no reasoning; leave it out"
        raise RequestError(message, param=PARAM, code="invalid_value")
    if reading is None or asked is None or asked == UNLIMITED:
        return None
    form = reading.form
    return ThinkingBudget(
        tokens=asked,
        begin=form.opening.encode(),
        end=form.closing.encode(),
        closing=reading.closing,
        begun=reading.begun,
        spell=codec.token_bytes,
    )
