"""ptune.load: opens a bundle as a model of its kind."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, Unpack, cast

from ptune.api.chat import ChatModel, ChatOptions
from ptune.api.encoder import EncoderModel
from ptune.api.model import EncoderOptions
from ptune.api.seq2seq import Seq2SeqModel
from ptune.formats.bundle import Bundle
from ptune.kinds import DECODER, ENCODER, SEQ2SEQ, Kind, of_task

if TYPE_CHECKING:

    class Model(ChatModel, EncoderModel, Seq2SeqModel):
        """A bundle of any kind, for type checkers: it has the methods of all kinds.

        At run time it is a ChatModel, an EncoderModel or a Seq2SeqModel: check with `isinstance`, or use `ChatModel.open`
        and so on for an exact type.
        """

        engine: Any
        codec: Any
        open: Any

else:
    Model: TypeAlias = ChatModel | EncoderModel | Seq2SeqModel

MODELS: dict[Kind, Any] = {DECODER: ChatModel, ENCODER: EncoderModel, SEQ2SEQ: Seq2SeqModel}


class LoadOptions(ChatOptions, EncoderOptions, total=False):
    """Options of all kinds of bundles; an option that a kind lacks is refused."""


def load(path: str | Path | Bundle, **options: Unpack[LoadOptions]) -> Model:
    """Opens a bundle as a ChatModel, an EncoderModel (classifies, embeds, …) or a Seq2SeqModel, without torch.

    First compares this machine's numbers with the exporting one's. Close the model, or use it in a `with` block.
    options: for every kind `profile`, `threads`, `max_rows`, `max_waiting`, `adapter_bytes`, `replay_golden`; for a chat bundle
    also `kv_bytes`, `prefill_chunk`, `step_ms`, `num_speculative_tokens`, `draft_model`, `kv_cache_dtype`,
    `kv_disk`, `kv_disk_bytes`, `kernels`. See `ptune.engine.options`.

    Raises: FormatError, AdapterError, UsageError, ParityError.
    """
    bundle = path if isinstance(path, Bundle) else Bundle.open(path)
    model = MODELS[of_task(bundle.manifest.task)]
    return cast(Model, model.open(bundle.folder, **options))
