"""An adapter's folder in an encoder's bundle: PEFT's own files, the graph of its head, and adapter.json.

The adapter of a run that trained the encoder's own weights is only a head, without PEFT files.
"""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path

from ptune.codecs.labels import Problem
from ptune.config.tasks import of_kind
from ptune.engine.adapters.fold.fold import as_pairs
from ptune.engine.adapters.folder import check_name, copy_adapter, write_record
from ptune.engine.adapters.lora import load_adapter, of_head, weights_of
from ptune.engine.adapters.source import head_of
from ptune.engine.encoder.engine import HEAD
from ptune.errors import AdapterError
from ptune.export.encoder.parts import save_head
from ptune.formats.bundle import AdapterRecord, Bundle, hashes
from ptune.formats.task_names import TEXT_CLASSIFICATION, TOKEN_CLASSIFICATION
from ptune.formats.whole_write import disk_errors, read_json
from ptune.publish.base_weights import base_weights
from ptune.tasks.encoder.facts import NAME, Facts
from ptune.verify.encoder.torch_side import EncoderReference, merged
from ptune.verify.reference import adapted

_FOREIGN = {"SEQ_CLS": TEXT_CLASSIFICATION, "TOKEN_CLS": TOKEN_CLASSIFICATION}


def facts_of(adapter: Path, bundle: Bundle) -> Facts:
    """Reads an adapter's task and labels from the file of ptune's training, else from peft's config.

    Raises: AdapterError if it was trained on another body, or its task is unknown.
    """
    base = bundle.manifest.base
    if not (adapter / NAME).is_file():
        return _foreign(adapter, bundle)
    note = read_json(adapter / NAME)
    if note.get("task") not in {task.name for task in of_kind("encoder")}:
        raise AdapterError(f"{adapter} is an adapter for {note.get('task')!r}; this bundle is an encoder's")
    facts = Facts.open(adapter)
    if facts.base != base.hash:
        raise AdapterError(
            f"{adapter} was trained on another base ({facts.base[:12]}, {facts.quantize}) "
            f"than this bundle's ({base.hash[:12]}, {base.quantize})"
        )
    return facts


def refuse_socketless(bundle: Bundle) -> None:
    """Raises: AdapterError if a bundle's body has no sockets."""
    if not bundle.encoder.sockets:
        raise AdapterError(
            f"{bundle.folder} takes no adapters: its body was exported without places for them, since a run's adapter was "
            "merged into it (--merge) or the body was trained itself. Export a run of LoRA without --merge, and add to that"
        )


def _foreign(adapter: Path, bundle: Bundle) -> Facts:
    """Facts of an adapter without ptune's file: as many labels as its head has outputs, with transformers' names."""
    kind = read_json(adapter / "adapter_config.json").get("task_type")
    if kind not in _FOREIGN or bundle.encoder.modality != "text":
        raise AdapterError(
            f"{adapter} does not say what it is for (task_type {kind!r}): it needs SEQ_CLS or TOKEN_CLS, or the "
            f"{NAME} that ptune's training writes"
        )
    outputs = [
        tensor.shape[0]
        for name, tensor in weights_of(adapter).items()
        if of_head(name, bundle.encoder.prefix, head_of(adapter))
        and "lora_" not in name
        and name.endswith(".weight")
        and tensor.ndim == 2
    ]
    if not outputs:
        raise AdapterError(f"{adapter} holds no head: train it with modules_to_save")
    labels = tuple(f"LABEL_{index}" for index in range(min(outputs)))
    problem: Problem = "tags" if kind == "TOKEN_CLS" else "regression" if len(labels) == 1 else "single"
    return Facts(task=_FOREIGN[kind], base=bundle.manifest.base.hash, labels=labels, problem=problem)


def install_encoder(bundle: Bundle, adapter: Path | None, name: str, reference: EncoderReference) -> None:
    """Puts an adapter into a bundle, checked socket by socket, still unmeasured.

    adapter: a PEFT folder; None if `reference` holds the trained weights itself. The reference is used up.
    Raises: UsageError for an invalid name; AdapterError that lists everything that does not fit.
    """
    check_name(name)
    place, facts, rank, folded = bundle.adapter_path(name), reference.facts, 0, None
    model = reference.model
    if adapter is not None:
        weights = model.state_dict()
        inside = tuple(f"{module}." for module in reference.head)
        head = {key: tuple(tensor.shape) for key, tensor in weights.items() if key.startswith(inside)}
        sockets = {f"{bundle.encoder.prefix}{socket.name}": socket for socket in bundle.encoder.sockets}
        with as_pairs(adapter, sockets, base_weights(bundle, lambda: reference.model)) as (folder, folded):
            rank = load_adapter(folder, bundle.encoder, head).rank
            shutil.rmtree(place, ignore_errors=True)  # possibly left by an interrupted call
            with disk_errors(place):
                copy_adapter(folder, place, folded)
        model = merged(adapted(model, adapter))
    else:
        shutil.rmtree(place, ignore_errors=True)
    with disk_errors(place):
        facts.save(place)
        save_head(model, place / HEAD, reference.size)
    prefix = f"adapters/{name}"
    files = {file.removeprefix(f"{prefix}/"): value for file, value in hashes(bundle.folder, prefix).items()}
    record = AdapterRecord(
        name=name,
        task=facts.task,
        files=files,
        rank=rank,
        folded=folded,
        base=facts.base if adapter is None or (adapter / NAME).is_file() else None,
        labels=facts.labels,
        problem=facts.problem,
        step_separator=facts.step_separator,
        max_length=facts.max_length,
        preprocessing=facts.preprocessing,
        embedding=facts.embedding,
        added=datetime.now(UTC).date().isoformat(),
    )
    write_record(bundle, record)
