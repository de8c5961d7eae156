"""The reference's logits of several sequences at once are those of each alone."""

from __future__ import annotations

import pytest
import torch
from support.tiny_models import ALL, model

from ptune.verify.decoder.torch_side import batch_logits_at

NEAR = {
    "zamba2": 1e-4
}  # its graph differs from torch by as much, too: its layers come after one another four times over


@pytest.mark.parametrize("family", ALL)
@torch.no_grad()
def test_logits_at_once_are_those_alone(family: str) -> None:
    one = model(family).eval()
    random = torch.Generator().manual_seed(1)
    sequences = [torch.randint(3, 90, (length,), generator=random).tolist() for length in (5, 40, 17)]
    positions = [[0, 4], [2, 38, 39], [16]]
    together = batch_logits_at(one, sequences, positions)
    for rows, ids, wanted in zip(together, sequences, positions, strict=True):
        alone = one(input_ids=torch.tensor([ids]), use_cache=False).logits[0, wanted]
        torch.testing.assert_close(rows, alone, rtol=1e-5, atol=NEAR.get(family, 1e-5))
