"""What transformers calls keys and values: `cache`; in older versions, and in a model's own code, `past_key_values`."""

from __future__ import annotations

import inspect
from typing import Any

from torch import nn


def cache_argument(model: nn.Module) -> str:
    """The name by which `model` takes a cache."""
    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"


def cache_in(output: Any) -> Any:
    """The cache in what a model returned."""
    return output.cache if hasattr(output, "cache") else output.past_key_values
