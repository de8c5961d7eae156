"""Vectors that a prompt-learning adapter puts before every text. They have no targets, and shift the positions of the text's."""

from __future__ import annotations

from peft import PeftModel
from torch import nn

_IN_THE_CACHE = ("PREFIX_TUNING", "CARTRIDGE")  # as keys and values, which are no positions of the output


def learns_prompt(model: nn.Module) -> bool:
    """Whether the active adapter stands before a text instead of beside layers."""
    own = _own(model)
    return isinstance(own, PeftModel) and own.active_peft_config.is_prompt_learning


def one_text_a_row(model: nn.Module) -> bool:
    """Whether examples cannot share a row, as the active adapter stands before a text, or acts from a place in it on."""
    own = _own(model)
    invoked = isinstance(own, PeftModel) and getattr(own.active_peft_config, "alora_invocation_tokens", None)
    return learns_prompt(model) or bool(invoked)


def virtual_tokens(model: nn.Module) -> int:
    """How many positions of the model's output come before those of its input."""
    own = _own(model)
    if not isinstance(own, PeftModel) or not learns_prompt(own) or _switched_off(own):
        return 0
    config = own.active_peft_config
    return 0 if config.peft_type in _IN_THE_CACHE else int(config.num_virtual_tokens)


def _switched_off(model: PeftModel) -> bool:
    """Whether peft's `disable_adapter` has put the base's forward in place of the model's."""
    return getattr(model.forward, "__self__", model) is not model


def _own(model: nn.Module) -> nn.Module:
    """The model without the wrapper for several processes."""
    inner = getattr(model, "module", None)
    return inner if isinstance(inner, PeftModel) else model
