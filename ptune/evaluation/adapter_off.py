"""The base of a run whose tuned model is the base with an adapter: the same model, without it for a while."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from peft import PeftModel
from torch import nn


def adapter_off(model: nn.Module) -> AbstractContextManager[None]:
    """A block in which an adapter is switched off; of a model without one, the block changes nothing."""
    return model.disable_adapter() if isinstance(model, PeftModel) else nullcontext()
