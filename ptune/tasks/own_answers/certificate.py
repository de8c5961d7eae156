"""The certificate of a step: that the engine and the model that is trained thought its answers equally likely."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from ptune.errors import PtuneError


@dataclass
class Certificate:
    """What the forward passes of a step show of the tokens that were sampled, in this process."""

    drift: float = 0.0  # largest |log p in training - log p in the engine| of a token
    log_p: float = 0.0  # sum over the tokens
    tokens: int = 0

    def clear(self) -> None:
        """Begins a step."""
        self.drift = self.log_p = 0.0
        self.tokens = 0

    def note(self, log_p: Tensor, sampled: Tensor) -> None:
        """log_p, sampled: [tokens] in training, and in the engine."""
        if not len(log_p):
            return
        # numpy's keeps NaN, which is refused; Python's max would lose it
        self.drift = float(np.maximum(self.drift, float((log_p - sampled).abs().max())))
        self.log_p += float(log_p.sum())
        self.tokens += len(log_p)

    def certified(self, accelerator: Accelerator, limit: float) -> dict[str, float]:
        """`drift` and `mean_log_p` over all processes, for the journal. Raises: PtuneError if the drift is beyond `limit`."""
        sums = torch.tensor([self.log_p, float(self.tokens)], dtype=torch.float64).to(accelerator.device)
        drift = torch.tensor([self.drift], device=accelerator.device)
        log_p, tokens = accelerator.reduce(sums).tolist()
        most = float(accelerator.gather(drift).max())
        if not most <= limit:
            raise PtuneError(
                f"a sampled token's log-probability is {most:.2g} off: the engine that sampled it and the model that is trained"
                f" are not the same (task.drift_limit {limit:g}). Nothing was learnt from this step. A base in 16"
                " bits differs by its rounding: train in float32 (--backbone.dtype float32), or raise the limit knowingly"
            )
        return {"drift": most, "mean_log_p": log_p / tokens}
