"""The head of an image classifier as its own graph: everything after the body's hidden states.

timm models separate their head themselves. A transformers model is traced whole, with its hidden states as a second output,
and cut there, so that heads of any family (pooling, norms, several classifiers) need no code here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import onnx_ir
import torch
from onnx.utils import Extractor
from torch import Tensor, nn
from transformers import PreTrainedModel, TimmWrapperForImageClassification

from ptune.errors import BackboneError
from ptune.export.decoder.trace import DYNAMIC, one_line, onnx_of
from ptune.export.encoder.head import save_head
from ptune.export.vision.trace import hidden_of, named


class TimmHead(nn.Module):
    """The head of a timm model."""

    def __init__(self, model: TimmWrapperForImageClassification) -> None:
        super().__init__()
        self.model = model.timm_model

    def forward(self, hidden: Tensor) -> Tensor:
        """Logits [batch, labels]."""
        logits: Tensor = self.model.forward_head(hidden)
        return logits


class _Both(nn.Module):
    """A whole classifier that also returns its body's hidden states."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model
        self.seen: list[Tensor] = []
        model.base_model.register_forward_hook(self._see)

    def _see(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self.seen.append(output.last_hidden_state)

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and hidden states."""
        self.seen.clear()
        logits: Tensor = self.model(pixel_values=pixel_values).logits
        return logits, self.seen[0]


@torch.no_grad()
def save_image_head(model: PreTrainedModel, size: tuple[int, int], path: Path) -> None:
    """Writes the head of a float32 image classifier as one file. Raises: BackboneError with the reason.

    size: height and width of its images; model: may contain peft adapters.
    """
    model = model.eval()
    pixels = torch.zeros(3, 3, *size)
    if isinstance(model, TimmWrapperForImageClassification):
        hidden = hidden_of(model.base_model, pixels)
        save_head(TimmHead(model), (hidden,), ({0: DYNAMIC},), path, ["hidden"])
        return
    called = f"the head of {named(model)}"
    both = ["logits", "hidden"]
    graph = onnx_of(_Both(model), (pixels,), ({0: DYNAMIC},), ["pixel_values"], both, called, optimize=True)
    try:
        _read_batch_from_hidden(graph.graph)
        head = Extractor(onnx_ir.to_proto(graph)).extract_model(["hidden"], ["logits"])
        onnx.checker.check_model(head)
    except Exception as error:
        raise BackboneError(f"{called} cannot be exported: {one_line(error)}") from error
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx_ir.save(onnx_ir.from_proto(head), path)


def _read_batch_from_hidden(graph: onnx_ir.Graph) -> None:
    """Makes a head read the number of images from its own input; all other sizes are fixed."""
    hidden = next(value for value in graph.outputs if value.name == "hidden")
    for node, place in list(graph.inputs[0].uses()):
        if node.op_type == "Shape":
            node.replace_input_with(place, hidden)
