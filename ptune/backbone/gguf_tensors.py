"""Unpacks a GGUF file's tensors when they are asked for, where transformers would unpack all of them beforehand."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import gguf
import numpy as np
import torch
from transformers import PreTrainedModel
from transformers import modeling_gguf_pytorch_utils as reading

# What transformers does to a tensor on its way, where each tensor of the file becomes one of the model.
_ONE_TO_ONE = (
    reading.TensorProcessor,
    reading.LlamaTensorProcessor,
    reading.Gemma2TensorProcessor,
    reading.NemotronTensorProcessor,
)


@dataclass(frozen=True)
class _Tensor:
    """A tensor that is read by indexing it, like a slice of safetensors."""

    stored: Any  # gguf.ReaderTensor, mapped from the file
    processor: Any
    dtype: torch.dtype | None

    def is_floating_point(self) -> bool:
        return True

    def __getitem__(self, _: Any) -> torch.Tensor:
        weights = gguf.dequantize(self.stored.data, self.stored.tensor_type)
        weights = self.processor.process(weights=weights, name=self.stored.name).weights
        return torch.from_numpy(np.copy(weights)).to(self.dtype)


@contextlib.contextmanager
def unpacked_when_asked_for() -> Iterator[None]:
    """Has `from_pretrained` unpack a GGUF file tensor by tensor, of architectures for which that is known to do."""
    own = reading.load_gguf_checkpoint

    def load(
        path: str,
        return_tensors: bool = False,
        model_to_load: PreTrainedModel | None = None,
        torch_dtype: torch.dtype | None = None,
    ) -> dict[str, Any]:
        reader = gguf.GGUFReader(path)
        architecture = reader.get_field("general.architecture").contents()
        kind = reading.TENSOR_PROCESSORS.get(architecture, reading.TensorProcessor)
        if not return_tensors or model_to_load is None or kind not in _ONE_TO_ONE:
            loaded: dict[str, Any] = own(path, return_tensors, model_to_load, torch_dtype)
            return loaded
        processor = kind(config=model_to_load.config.to_dict())
        names = reading.get_gguf_hf_weights_map(model_to_load, processor)
        tensors = (tensor for tensor in reader.tensors if tensor.name in names)
        return {"tensors": {names[one.name]: _Tensor(one, processor, torch_dtype) for one in tensors}}

    reading.load_gguf_checkpoint = load
    try:
        yield
    finally:
        reading.load_gguf_checkpoint = own
