"""Exports a run or a pretrained chat model for onnxruntime-genai, and proves it in onnxruntime-genai itself.

The folder is one that `onnxruntime_genai.Model` opens: its model builder's graph in float32, settings and tokenizer; with places
for LoRA on every linear layer of the blocks, so that it takes adapters of other runs, too. NAME.onnx_adapter is the run's own,
and genai.json holds every file's hash and every hop.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from peft import PeftModel
from safetensors import safe_open

from ptune.backbone.load import published_config
from ptune.backbone.locate import locate
from ptune.backbone.vision_language import sees_images
from ptune.config.recipe import Backbone
from ptune.engine.adapters.peft_config import PEFT_PREFIX
from ptune.errors import UsageError
from ptune.export.genai.build import build, require_genai
from ptune.export.genai.places import Places, open_places
from ptune.export.merge import with_plain_weights
from ptune.formats.bundle import BASE, Hop
from ptune.formats.genai_export import GRAPH, RECORD, GenaiExport
from ptune.formats.hop_log import note_hops
from ptune.formats.onnx_adapter import SUFFIX, factor_of, write_onnx_adapter
from ptune.formats.parity_json import WEIGHTS
from ptune.formats.run import Run
from ptune.formats.whole_write import whole_folder, write_json
from ptune.parity import Array, compare, liveness
from ptune.publish.figures import refuse_drift
from ptune.publish.other_engine import (
    Exported,
    chat_run,
    check_chat_model,
    opened,
    pretrained,
    refuse_other_methods,
)
from ptune.publish.steps import check_place, report_progress
from ptune.verify.genai import Genai, same_texts, same_tokens
from ptune.verify.limits import LIVENESS, MAX_ABS_LOGPROB
from ptune.verify.proof import Proof
from ptune.verify.reference import Factors, lora_layers, peft_factors

OPTION, MODELS, ADAPTERS = "--genai", "onnxruntime-genai's models", "adapters of onnxruntime-genai"


def export_run(
    run: Run, out: Path, *, name: str, merge: bool = False, force: bool = False, anyway: bool = False
) -> Proof:
    """Exports a finished chat run to the folder `out`. merge: its adapter goes into the weights, and the graph takes none.

    Raises: UsageError for what an adapter there cannot hold; BackboneError for a model that cannot be built; ParityError where
        a hop drifts beyond its limit (nothing is left at `out`).
    """
    require_genai()
    check_place(out, force, RECORD)
    finished = chat_run(run, OPTION, MODELS, anyway)
    _check_sight(finished.backbone())
    if run.has_adapter and not merge:
        refuse_other_methods(run, OPTION, ADAPTERS)
        _check_names(run.adapter_path / WEIGHTS)
    return export_model(opened(finished, name, merge), out, places=not merge)


def export_backbone(backbone: Backbone, out: Path, *, force: bool = False) -> Proof:
    """Exports a pretrained chat model, which takes adapters."""
    require_genai()
    check_place(out, force, RECORD)
    check_chat_model(backbone, OPTION, MODELS)
    _check_sight(backbone)
    return export_model(pretrained(backbone, out.name), out)


def export_model(model: Exported, out: Path, *, places: bool = True) -> Proof:
    """Writes the folder `out`, proves it and moves it into place. places: whether the graph takes adapters. Raises: ParityError."""
    torch_model, codec = model.loaded.model, model.loaded.codec
    with whole_folder(out) as part:
        with_plain_weights(torch_model)
        report_progress("onnxruntime-genai's model builder")
        build(torch_model, codec, part, places=places)
        torch_model.requires_grad_(False)
        fits = open_places(part / GRAPH) if places else {}
        file = None if model.adapter is None else part / f"{model.name}{SUFFIX}"
        torch_side = model.in_torch(lambda wrapped: _write(file, wrapped, fits))
        report_progress("onnxruntime-genai")
        genai = Genai(part)
        here = [*map(genai.log_probs, model.probes)]
        base = _base(model, genai, torch_side[0], here)
        proof = Proof(tuple(base), _adapters(model, part, file, torch_side, here))
        refuse_drift(proof)
        record = GenaiExport(**model.recorded(part, proof, "onnxruntime-genai", "onnxruntime"))
        write_json(part / RECORD, record.model_dump(mode="json"))
    return proof


def _write(file: Path | None, wrapped: PeftModel, places: Places) -> None:
    """Writes the adapter of a model that has it. Raises: UsageError where the graph has no place for it."""
    assert file is not None
    factors = peft_factors(lora_layers(wrapped), str(wrapped.active_adapter))
    _check_places(factors, places)
    write_onnx_adapter(file, factors)


def _base(model: Exported, genai: Genai, there: Sequence[Array], here: Sequence[Array]) -> list[Hop]:
    """The hops of the graph without an adapter. there, here: log-probabilities in torch and in onnxruntime-genai."""
    codec = model.loaded.codec
    hops = [compare("torch → onnxruntime-genai", there, here, max_abs_logprob=MAX_ABS_LOGPROB)]
    hops.append(same_tokens(genai, codec, model.texts))
    if codec.template is not None:
        hops.append(same_texts(genai, codec, model.asked))
    if model.adapter is None:
        hops = [*model.earlier, *hops]
    note_hops(BASE, hops)
    return hops


def _adapters(
    model: Exported,
    folder: Path,
    file: Path | None,
    torch_side: tuple[list[Array], list[Array] | None],
    before: Sequence[Array],
) -> dict[str, tuple[Hop, ...]]:
    """The hops of the graph with the adapter, by the adapter's name. before: log-probabilities there without it."""
    base, with_adapter = torch_side
    if file is None or with_adapter is None:
        return {}
    after = [*map(Genai(folder, file).log_probs, model.probes)]
    title = "torch + peft → onnxruntime-genai + adapter"
    hops = (
        *model.earlier,
        compare(title, with_adapter, after, max_abs_logprob=MAX_ABS_LOGPROB),
        liveness("adapter − base in onnxruntime-genai", (base, with_adapter), (before, after), LIVENESS),
    )
    note_hops(model.name, hops)
    return {model.name: hops}


def _check_sight(backbone: Backbone) -> None:
    """Refuses a model that sees images, whose text alone would be written, before its weights are read."""
    if sees_images(published_config(backbone, locate(backbone.model))):
        raise UsageError(
            f"--genai: {backbone.model} sees images, and only models of text are written for onnxruntime-genai"
        )


def _check_names(path: Path) -> None:
    """Refuses what is no factor of a linear layer in a block, before weights are read."""
    with safe_open(path, "np") as file:
        names = [name.removeprefix(PEFT_PREFIX) for name in file.keys()]  # noqa: SIM118  # it is no dict
    for name in names:
        if factor_of(name) is None or name.startswith("lm_head."):
            raise UsageError(f"--genai: the adapter brings {name}, which {ADAPTERS} cannot hold: add --merge")


def _check_places(factors: Factors, places: Places) -> None:
    """Refuses an adapter of layers that the builder writes otherwise than transformers has them."""
    for layer, (a, b) in factors.items():
        if places.get(layer) != (a.shape[0], b.shape[1]):
            raise UsageError(
                f"--genai: the adapter changes {layer}, for which onnxruntime-genai's graph of this model has no place: add --merge"
            )
