"""The request body of the Open Inference Protocol. Strict, as in `schemas`: no field is dropped in silence."""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import AfterValidator, Field, model_validator

from ..encoders.retrieval_schemas import MAX_TEXTS, Cut
from ..fields.known_fields import Request
from ..fields.message import no_nul
from ..responses.items import Part


def _elements(data: Any) -> list[str]:
    """The elements of a tensor of texts, nested as its shape is, or flat."""
    if isinstance(data, str):
        return [no_nul(data)]
    if not isinstance(data, list):
        raise ValueError("must hold strings")
    return [element for inner in data for element in _elements(inner)]


class InferParameters(Part):
    """`parameters` of a request."""

    truncate_prompt_tokens: Cut | None = None
    binary_data_output: bool = False

    @model_validator(mode="after")
    def _json_alone(self) -> InferParameters:
        if self.binary_data_output:
            raise ValueError("binary_data_output: answers are JSON here; leave it out")
        return self


class InputParameters(Part):
    """`parameters` of a tensor: what clients say of texts."""

    content_type: Annotated[str, Field(pattern="^str$")] = "str"


class InputTensor(Part):
    """A tensor of texts."""

    name: Annotated[str, Field(max_length=256)]
    shape: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1, max_length=2)]
    datatype: str = Field(max_length=16)
    parameters: InputParameters = InputParameters()
    data: Annotated[Any, AfterValidator(_elements)]  # of str, in the end

    @model_validator(mode="after")
    def _one_text_a_row(self) -> InputTensor:
        if self.datatype != "BYTES":
            raise ValueError(f"datatype: texts are BYTES (is {self.datatype[:16]!r})")
        if self.shape[1:] not in ([], [1]):
            raise ValueError(f"shape: must be [texts] or [texts, 1] (is {self.shape})")
        if math.prod(self.shape) != len(self.data):
            raise ValueError(f"shape {self.shape} is not that of {len(self.data)} elements of data")
        if not 1 <= len(self.data) <= MAX_TEXTS:
            raise ValueError(f"data: must hold 1 to {MAX_TEXTS} texts (holds {len(self.data)})")
        return self


class OutputName(Part):
    """A tensor that is asked for."""

    name: Annotated[str, Field(max_length=256)]
    parameters: InferParameters = InferParameters()


class InferRequest(Request):
    """POST /v2/models/{model}/infer"""

    id: Annotated[str, Field(max_length=256)] | None = None
    parameters: InferParameters = InferParameters()
    inputs: Annotated[list[InputTensor], Field(min_length=1, max_length=2)]
    outputs: list[OutputName] = Field(default=[], max_length=8)
