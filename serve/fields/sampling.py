"""Types of the fields that say how an answer's tokens are chosen: their bounds, once for every API."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from pydantic import Field

Temperature: TypeAlias = Annotated[float, Field(ge=0, le=2)]
TopP: TypeAlias = Annotated[float, Field(gt=0, le=1)]
TopK: TypeAlias = Annotated[int, Field(ge=-1)]
"""0 and, as in vLLM, -1: off."""
MinP: TypeAlias = Annotated[float, Field(ge=0, le=1)]
RepetitionPenalty: TypeAlias = Annotated[float, Field(gt=0, le=10)]
Penalty: TypeAlias = Annotated[float, Field(ge=-2, le=2)]
Seed: TypeAlias = Annotated[int, Field(ge=-(2**63), lt=2**63)]
MaxTokens: TypeAlias = Annotated[int, Field(ge=1)]
Caller: TypeAlias = Annotated[str, Field(max_length=1024)]
"""Selects the adapter of an alias with a canary."""
