"""codec.json, beside tokenizer.json and chat_template.jinja in the folder of a chat codec."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

from ptune.formats.bundle import FORMAT
from ptune.formats.request_defaults import NO_DEFAULTS, RequestDefaults


class CodecRecord(BaseModel):
    """codec.json"""

    model_config = ConfigDict(frozen=True, extra="ignore")
    format: int = FORMAT
    special_tokens: dict[str, str]
    eos_ids: tuple[int, ...]
    context: int | None = None
    system: str | None = None
    defaults: RequestDefaults = NO_DEFAULTS
    vision: dict[str, Any] | None = None  # ptune.codecs.vision.Vision, of models that see images
