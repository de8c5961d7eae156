"""parity.json in an adapter's folder: written where it is missing, or is of other factors or of another base."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from transformers import PreTrainedModel

from ptune.codecs.adapter_tokens import codec_of_record
from ptune.codecs.chat import ChatCodec
from ptune.engine.adapters.folder import write_record
from ptune.engine.adapters.lora import load_adapter
from ptune.formats.bundle import BaseIdentity, Bundle
from ptune.formats.parity_json import FILE, WEIGHTS, current_parity, write_parity
from ptune.formats.whole_write import sha256_of
from ptune.verify.decoder.plain_ends import with_rows
from ptune.verify.parity_reference import HeldPrompt, measured, prompts_of


def leave_parity(
    folder: Path,
    model: PreTrainedModel,
    codec: ChatCodec,
    base: BaseIdentity,
    prompts: Sequence[HeldPrompt],
    vocab: int | None = None,
) -> bool:
    """Writes FOLDER/parity.json where it is not there yet. Returns whether it did.

    vocab: tokens that the adapter knows, if more than the base.
    """
    if not (folder / WEIGHTS).is_file() or current_parity(folder, base) is not None:
        return False
    with with_rows(model, vocab):
        parity = measured(model, folder, codec, base, prompts)
    if parity is not None:
        write_parity(folder, parity)
    return parity is not None


def leave_in_bundle(bundle: Bundle, name: str, model: PreTrainedModel) -> None:
    """The same for an adapter that is in a bundle; its record vouches for the file. None for gains, which peft's LoRA has not."""
    record, folder = bundle.adapter(name), bundle.adapter_path(name)
    if load_adapter(folder, bundle.decoder).gains:
        return
    codec = codec_of_record(ChatCodec.open(bundle.codec_path), record)
    prompts = prompts_of(codec, [])
    if leave_parity(folder, model, codec, bundle.manifest.base, prompts, record.vocab_size):
        files = {**record.files, FILE: sha256_of(folder / FILE)}
        write_record(bundle, record.model_copy(update={"files": files}))
