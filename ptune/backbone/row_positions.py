"""Positions in three dimensions (M-RoPE) for a model that gets rows of images as tokens of their own, not as pixels.

transformers works them out of pixels' grids. Here what computes hidden states gets them, by what the tokens are, wherever it
would take one position a token or make its own: packed rows, rows that are padded on the left, and generation with a cache.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ptune.codecs.positions import AXES, TokenPositions
from ptune.codecs.tiles import Grid
from ptune.codecs.vision import FIRST_ROW

_HOOK = "_ptune_positions"


def place_rows(model: PreTrainedModel, grids: Mapping[int, Grid]) -> None:
    """Gives positions to the rows of these images; others replace them. grids: first token -> rows down and across."""
    inside: Any = getattr(model, model.base_model_prefix)
    if (before := getattr(inside, _HOOK, None)) is not None:
        before.remove()
    setattr(inside, _HOOK, inside.register_forward_pre_hook(_Positions(grids), with_kwargs=True))
    inside.rope_deltas = None  # of an earlier call with pixels


class _Positions:
    """The hook; remembers how far positions lie behind the tokens of a prompt, for those that come after it with a cache."""

    def __init__(self, grids: Mapping[int, Grid]) -> None:
        self._grids = grids
        self._behind: dict[int, list[int]] = {}  # tokens in the cache -> of each row

    def __call__(
        self, module: nn.Module, arguments: tuple[Any, ...], given: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        ids: Tensor | None = given.get("input_ids")
        if ids is None:
            return None
        cache = given.get("cache", given.get("past_key_values"))
        cached = 0 if cache is None else int(cache.get_seq_length())
        if not cached:
            self._behind = {}
        behind = self._behind.get(cached)
        if not any(behind or ()) and not bool((ids >= FIRST_ROW).any()):
            return None
        positions: Tensor | None = given.get("position_ids")
        plain = _plain(ids, positions, cached)
        behind = behind or [0] * len(ids)
        rows = [self._row(*row) for row in zip(ids.tolist(), plain.tolist(), behind, strict=True)]
        placed = torch.from_numpy(np.stack([table for table, _ in rows], 1)).to(ids.device)
        self._behind[cached + ids.shape[1]] = [after for _, after in rows]
        if positions is not None and positions.ndim == 3 and len(positions) > AXES:
            placed = torch.cat([plain[None], placed])  # transformers makes masks by the first
        return arguments, {**given, "position_ids": placed}

    def _row(self, ids: list[int], plain: list[int], behind: int) -> tuple[Any, int]:
        """Positions [3, tokens] of a row of texts, and how far those lie behind the last one's tokens.

        plain: position of each token in its text. Texts begin at 0; the first one goes on where a cache ends, so far `behind`.
        """
        starts = [at for at, position in enumerate(plain) if at == 0 or position == 0]
        tables = []
        for start, end in pairwise([*starts, len(ids)]):
            part = TokenPositions.of(ids[start:end], self._grids)
            begin = plain[start] + (behind if start == 0 else 0)
            tables.append(part.table + begin)
            after = begin + part.next - plain[end - 1] - 1
        return np.concatenate(tables, 1), after


def _plain(ids: Tensor, positions: Tensor | None, cached: int) -> Tensor:
    """The position of each token in its own text, [batch, tokens]."""
    if positions is None:
        return (cached + torch.arange(ids.shape[1], device=ids.device)).expand(len(ids), -1)
    return (positions[0] if positions.ndim == 3 else positions).expand(len(ids), -1)
