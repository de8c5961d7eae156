"""The request body of OpenAI's Batch API."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from ..fields.known_fields import Request
from ..files.stored_file import KEPT_S
from ..responses.items import Part

MAX_WINDOW_H = 720


def _window(window: str) -> str:
    if not re.fullmatch("[0-9]{1,3}h", window) or not 1 <= int(window[:-1]) <= MAX_WINDOW_H:
        raise ValueError(f'must be hours from "1h" to "{MAX_WINDOW_H}h", such as "24h"')
    return window


class ExpiresAfter(Part):
    """`output_expires_after`: how long the files of answers are kept."""

    anchor: Literal["created_at"]
    seconds: int = Field(ge=3600, le=KEPT_S)


class BatchRequest(Request):
    """POST /v1/batches"""

    input_file_id: str = Field(min_length=1, max_length=256)
    endpoint: str = Field(max_length=256)
    completion_window: Annotated[str, AfterValidator(_window)]
    metadata: dict[
        Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]
    ] | None = Field(default=None, max_length=16)  # fmt: skip
    output_expires_after: ExpiresAfter | None = None

    @property
    def window_s(self) -> int:
        """Within how many seconds the batch is to be completed."""
        return int(self.completion_window[:-1]) * 3600

    @property
    def outputs_kept_s(self) -> int:
        """How many seconds the files of answers are kept."""
        return KEPT_S if self.output_expires_after is None else self.output_expires_after.seconds
