"""ptune: fine-tune a model on your own hardware and serve exactly the adapter you trained."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ptune.tasks.chat.infer import load as load

__version__ = "0.1.0"
__all__ = ["__version__", "load"]


def __getattr__(name: str) -> Any:
    """`ptune.load` is imported on first use, so that `import ptune` stays light."""
    if name == "load":
        from ptune.tasks.chat.infer import load

        return load
    raise AttributeError(f"module 'ptune' has no attribute {name!r}")
