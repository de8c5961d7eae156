"""ptune: fine-tune a model on your own hardware and serve exactly the adapter you trained."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

__version__ = "0.1.0"
__all__ = ["__version__", "load"]


def load(path: str | Path, **options: Any) -> Any:
    """Opens a bundle for use: a `ptune.tasks.chat.infer.ChatModel`, of what classifies an `EncoderModel`, or of an
    encoder-decoder a `Seq2SeqModel`.

    options: of the engine's `open`.

    Raises: FormatError, AdapterError, UsageError, ParityError.
    """
    from ptune.formats.bundle import Bundle
    from ptune.kinds import imported, of_task

    kind = of_task(Bundle.open(path).manifest.task)
    return imported(kind.model)(path, **options)
