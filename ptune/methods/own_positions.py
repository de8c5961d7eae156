"""Which positions of a forward pass are a text's own, and not padding."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    import torch
    from torch import nn


class OwnPositions:
    """Within its block, what layers of a model are given at tokens of their texts.

    Encoders are told padding by `attention_mask`; a decoder beside an encoder ends in the padding of `decoder_input_ids`, and sees
    the encoder's positions in its cross-attention.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._of_source: torch.Tensor | None = None  # [rows, seq], true for tokens
        self._of_target: torch.Tensor | None = None
        self._decodes: torch.Tensor | None = None  # what the running decoder sees of the encoder
        self._handles: list[Any] = []

    def __enter__(self) -> Self:
        self._handles = [self._model.register_forward_pre_hook(self._note, with_kwargs=True)]
        config: Any = getattr(self._model, "config", None)
        if getattr(config, "is_encoder_decoder", False):
            base: Any = self._model
            self._pad = config.pad_token_id
            decoder = base.get_decoder()
            self._handles += [
                decoder.register_forward_pre_hook(self._begin, with_kwargs=True),
                decoder.register_forward_hook(self._end),
            ]
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def of(self, inputs: torch.Tensor) -> torch.Tensor:
        """[tokens, in] of inputs [rows, seq, in], or of any other inputs [..., in]."""
        own = self._of_source if self._decodes is None or inputs is self._decodes else self._of_target
        if own is None or own.shape != inputs.shape[:-1]:
            return inputs.flatten(0, -2)
        return inputs[own]

    def _note(self, _: nn.Module, __: tuple[Any, ...], given: dict[str, Any]) -> None:
        mask, written = given.get("attention_mask"), given.get("decoder_input_ids")
        self._of_source = None if mask is None else mask.bool()
        self._of_target = None
        if written is not None:
            self._of_target = (written != self._pad).flip(1).cumsum(1).flip(1) > 0
            self._of_target[:, 0] = True  # the start token, which is the padding token for some

    def _begin(self, _: nn.Module, __: tuple[Any, ...], given: dict[str, Any]) -> None:
        self._decodes = given.get("encoder_hidden_states")

    def _end(self, *_: object) -> None:
        self._decodes = None
