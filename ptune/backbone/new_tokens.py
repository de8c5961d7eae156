"""Adds new tokens to a tokenizer, and rows for them to the embedding and the output head."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from tokenizers import AddedToken, Tokenizer
from torch import nn
from transformers import PreTrainedModel

from ptune.errors import BackboneError

_CHUNK_ROWS = 4096


def add_tokens(tokenizer: Tokenizer, tokens: Sequence[str]) -> None:
    """Adds tokens in place: from now on each occurrence of one's text is a single token (of several, the longest).

    They are ordinary added tokens, not special ones: special tokens would be left out when an answer is decoded, and
    spelled letter by letter in messages. A token that the chat template writes is still a control token
    (`ptune.codecs.control_tokens`), which no user can type.

    Raises: BackboneError for a token that exists already, or that this tokenizer could not tell from other text.
    """
    known = [token.content for token in tokenizer.get_added_tokens_decoder().values()]
    for token in tokens:
        ids = tokenizer.encode(token, add_special_tokens=False).ids
        if tokenizer.token_to_id(token) is not None or (len(ids) == 1 and tokenizer.decode(ids) == token):
            raise _refusal(token, "is a token of this model already: take it out of the list")
        for other in known:
            if other in token and not other.isspace():
                raise _refusal(token, f"holds {other!r}, a token of the model's own: choose another text")
    taken = set(tokenizer.get_vocab(with_added_tokens=True).values())
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in tokens])
    for token in tokens:
        index = tokenizer.token_to_id(token)
        shown = None if index is None else tokenizer.decode([index], skip_special_tokens=False)
        if shown != token:  # byte-level decoders take letters such as é for bytes
            raise _refusal(
                token, f"would be shown as {shown!r} by this tokenizer: use ASCII letters and marks"
            )
        if index in taken or index not in tokenizer.encode(token, add_special_tokens=False).ids:
            raise _refusal(token, "cannot be added to this tokenizer, whose vocabulary has gaps")


def enlarge(model: PreTrainedModel, ids: Sequence[int]) -> None:
    """Adds a row for each new token to the embedding and to the head, in place.

    A new row is the mean of the existing rows: the same bytes on every machine, and among single rows the one that changes
    the model's predictions least (Hewitt 2021, "Initializing new word embeddings for pretrained language models"). Other
    rows are unchanged. Models often have more rows than tokens; these are used first.
    """
    needed = max(ids) + 1
    if needed > model.get_input_embeddings().weight.shape[0]:
        with torch.random.fork_rng(devices=[]):  # transformers draws rows that are replaced below
            model.resize_token_embeddings(needed, mean_resizing=False)
    head = model.get_output_embeddings()
    weights = [model.get_input_embeddings().weight, head.weight, getattr(head, "bias", None)]
    with torch.no_grad():
        for weight in weights:
            if isinstance(weight, nn.Parameter):
                weight[list(ids)] = _mean(weight[: min(ids)])


def _mean(rows: torch.Tensor) -> torch.Tensor:
    """The mean row, summed row by row in float64: IEEE arithmetic in a fixed order on every machine."""
    total = np.zeros(rows.shape[1:], np.float64)
    for chunk in rows.detach().split(_CHUNK_ROWS):
        for row in chunk.double().cpu().numpy():
            total += row
    return torch.as_tensor(total / len(rows)).to(device=rows.device, dtype=rows.dtype)


def _refusal(token: str, reason: str) -> BackboneError:
    return BackboneError(f"backbone.new_tokens: {token!r} {reason}")
