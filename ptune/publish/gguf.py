"""Exports a run or a pretrained chat model to GGUF for llama.cpp and Ollama, and proves every file in llama.cpp itself.

base.gguf (or NAME.gguf, merged), adapter.gguf, Modelfile, parity.json (of an adapter) and gguf.json, which holds every file's hash
and every hop. A base that came as GGUF stays byte for byte, unless the run has a chat template of its own, or its
tokenizer another way of splitting text than the file names.
"""

from __future__ import annotations

import re
import shutil
from collections import Counter
from functools import partial
from pathlib import Path

from peft import PeftModel
from safetensors.numpy import load_file

from ptune.backbone.load import published_config
from ptune.backbone.locate import Source, locate
from ptune.codecs.chat import ChatCodec
from ptune.codecs.served_template import served_template
from ptune.config.recipe import Backbone
from ptune.errors import ParityError
from ptune.export.gguf.adapter import layers_of, write_adapter
from ptune.export.gguf.families import context_of, family_of
from ptune.export.gguf.modelfile import modelfile, pieces_of
from ptune.export.gguf.pre_tokenizer import pre_tokenizer
from ptune.export.gguf.rounding import FOUR_BITS
from ptune.export.gguf.vocabulary import HARD, vocabulary_of
from ptune.export.gguf.write import Facts, copy_with, write_model
from ptune.export.merge import with_plain_weights
from ptune.formats.bundle import BASE, Hop
from ptune.formats.gguf_export import ADAPTER_FILE, BASE_FILE, MODELFILE, RECORD, GgufExport, GgufType
from ptune.formats.hop_log import note_hops, note_stage
from ptune.formats.parity_json import WEIGHTS, current_parity, write_parity
from ptune.formats.run import Run
from ptune.formats.whole_write import whole_folder, write_json
from ptune.llama_cpp.library import Llama, quantized, required_library
from ptune.progress import say
from ptune.publish.figures import refuse_drift
from ptune.publish.other_engine import (
    Exported,
    chat_run,
    check_chat_model,
    opened,
    pretrained,
    refuse_other_methods,
)
from ptune.publish.steps import check_place
from ptune.verify.llama_cpp import (
    Files,
    adapter_alive,
    llama_hop,
    llama_log_probs,
    other_tokens,
    rounding_hop,
    same_prompts,
    same_tokens,
)
from ptune.verify.proof import Proof
from ptune.verify.reference import lora_layers

_OF_PHI3 = ("<unk>", "<s>", "</s>", "<|endoftext|>")  # which llama.cpp then looks for
ROUNDED = "float32 →"
OPTION, MODELS = "--gguf", "GGUF"


def export_run(
    run: Run,
    out: Path,
    *,
    name: str,
    kind: GgufType = "auto",
    merge: bool = False,
    force: bool = False,
    threads: int,
    anyway: bool = False,
) -> Proof:
    """Exports a finished chat run to the folder `out`.

    merge: the adapter goes into the weights, in float32, before they are rounded.
    Raises: UsageError for what llama.cpp cannot hold, before any weight is read; ParityError where a hop drifts beyond its
        limit (nothing is left at `out`).
    """
    required_library()
    check_place(out, force, RECORD)
    finished = chat_run(run, OPTION, MODELS, anyway)
    backbone = finished.backbone()
    _check(backbone)
    if run.has_adapter and not merge:
        _check_adapter(run)
    model = opened(finished, name, merge)
    kept = _kept(backbone) if run.has_adapter and not merge else None
    return export_model(model, out, kind, threads, kept)


def export_backbone(
    backbone: Backbone, out: Path, *, kind: GgufType = "auto", force: bool = False, threads: int
) -> Proof:
    """Exports a pretrained chat model, to which adapters may be added in llama.cpp."""
    required_library()
    check_place(out, force, RECORD)
    check_chat_model(backbone, OPTION, MODELS)
    _check(backbone)
    return export_model(pretrained(backbone, out.name), out, kind, threads, _kept(backbone))


def _check(backbone: Backbone) -> None:
    """Refuses a family, before its weights are read."""
    family_of(published_config(backbone, locate(backbone.model)).get_text_config())


def _check_adapter(run: Run) -> None:
    """Refuses adapters that are no plain LoRA, before weights are read."""
    refuse_other_methods(run, OPTION, "llama.cpp's adapters")
    tensors = load_file(run.adapter_path / WEIGHTS)
    layers_of(
        tensors,
        dict.fromkeys((key.removeprefix("base_model.model.").rsplit(".", 2)[0] for key in tensors), 1.0),
    )


def _kept(backbone: Backbone) -> Path | None:
    """The file of a base that came as GGUF, where the reference has its very weights."""
    source: Source = locate(backbone.model)
    rounded = backbone.quantize != "none" or backbone.dtype not in ("auto", "float32")
    if source.gguf is None or rounded or backbone.keep_layers:
        return None
    return Path(source.path) / source.gguf


def export_model(
    model: Exported, out: Path, wanted: GgufType, threads: int, same: Path | None = None
) -> Proof:
    """Writes the folder `out`, proves it and moves it into place. same: a GGUF file that has the reference's very weights.

    Raises: ParityError.
    """
    kept = same if wanted == "auto" else None
    kind = (_kind_of(kept) if kept else "F16") if wanted == "auto" else wanted
    base = BASE_FILE if model.adapter is not None else f"{out.name}.gguf"
    with whole_folder(out) as part:
        files = Files(part / base, part / ADAPTER_FILE if model.adapter else None, kind)
        context = context_of(model.loaded.model.config.get_text_config(), model.loaded.codec.context)
        hops = _written(model, files, kept, context, threads)
        codec = model.loaded.codec
        pieces = pieces_of(codec)
        adapter = ADAPTER_FILE if files.adapter else None
        (part / MODELFILE).write_text(modelfile(codec, base, adapter, context, pieces), encoding="utf-8")
        proof = Proof.of(hops)
        _record(part, model, kind, proof)
        _refuse_drift(proof, kind)
    return proof


def _refuse_drift(proof: Proof, kind: str) -> None:
    """Raises: ParityError; where rounding the weights alone is too much, with a larger type as the way out."""
    try:
        refuse_drift(proof)
    except ParityError as error:
        if not any(hop.name.startswith(ROUNDED) for hop in proof.drifted):
            raise
        instead = "Q8_0 or F16" if kind in FOUR_BITS else "F16"
        raise ParityError(
            f"{error}. Rounding to {kind} loses this much, a small update merged into 4 bits all of it: take --gguf-type"
            f" {instead}, or leave an adapter unmerged"
        ) from None


def _written(
    model: Exported, files: Files, kept: Path | None, context: int, threads: int
) -> dict[str, list[Hop]]:
    """Writes the files and measures every hop, the base's under `base`."""
    library, probes, name = required_library(), model.probes, model.name
    torch_model, codec = model.loaded.model, model.loaded.codec
    hops: dict[str, list[Hop]] = {BASE: [], name if model.adapter else BASE: [*model.earlier]}
    note_hops(name if model.adapter else BASE, model.earlier)
    write = partial(_write_adapter, files.adapter, model)
    with_plain_weights(torch_model)
    torch_model.requires_grad_(False)
    if kept is not None:
        say(f"keeping {kept.name}")
        _keep(kept, files.base, model)
        torch_base, torch_adapted = model.in_torch(write)
    else:
        before = model.in_torch()
        say(f"writing {files.base.name} in {files.kind}")
        note_stage(f"writing {files.base.name} in {files.kind}")
        vocabulary = vocabulary_of(codec, torch_model.get_input_embeddings().weight.shape[0])
        pre = pre_tokenizer(codec, vocabulary, library)
        facts = Facts(_named(name, codec), model.loaded.identity.licence, context)
        write_model(files.base, torch_model, vocabulary, pre, facts, files.kind, partial(quantized, library))
        torch_base, torch_adapted = model.in_torch(write)
        hops[BASE].append(
            rounding_hop(f"{ROUNDED} {files.kind}, in torch", before[0], torch_base, files.kind)
        )
        if torch_adapted is not None and before[1] is not None:
            title = f"{ROUNDED} {files.kind} base, in torch + peft"
            hops[name].append(rounding_hop(title, before[1], torch_adapted, files.kind))
    _note(hops)
    say("  llama.cpp")
    note_stage("llama.cpp")
    here = llama_log_probs(library, files.base, None, probes, threads)
    hops[BASE].append(llama_hop("torch → llama.cpp", torch_base, here, files.kind))
    if torch_adapted is not None:
        there = llama_log_probs(library, files.base, files.adapter, probes, threads)
        hops[name].append(llama_hop("torch + peft → llama.cpp + adapter", torch_adapted, there, files.kind))
        hops[name].append(adapter_alive((torch_base, torch_adapted), (here, there), files.kind))
    _note(hops)
    hops[BASE].append(same_tokens(library, files.base, codec, model.texts))
    if codec.template is not None:
        hops[name if model.adapter else BASE].append(same_prompts(files, codec, model.asked, threads))
    _note(hops)
    return hops


def _note(hops: dict[str, list[Hop]]) -> None:
    for name, measured in hops.items():
        note_hops(name, measured)


def _write_adapter(path: Path | None, model: Exported, wrapped: PeftModel) -> None:
    """The scales are peft's own, of its loaded layers."""
    assert path is not None
    assert model.adapter is not None
    active = str(wrapped.active_adapter)
    scales = {layer: float(one.scaling[active]) for layer, one in lora_layers(wrapped).items()}
    config = wrapped.get_base_model().config.get_text_config()
    layers = layers_of(load_file(model.adapter / WEIGHTS), scales)
    write_adapter(path, layers, config, family_of(config), model.name)


def _keep(source: Path, target: Path, model: Exported) -> None:
    """Copies a GGUF file; with the run's own chat template and way of splitting text, where these are others."""
    from gguf import GGUFReader

    codec, library = model.loaded.codec, required_library()
    changed: dict[str, str] = {}
    there = GGUFReader(source).get_field("tokenizer.chat_template")
    template = served_template(codec)
    if template is not None and (there is None or there.contents() != template):
        changed["tokenizer.chat_template"] = template
    llama = Llama(library, source, 1, 0, 0)
    if other_tokens(llama, codec, HARD):
        vocabulary = vocabulary_of(codec, llama.vocab)
        changed["tokenizer.ggml.pre"] = pre_tokenizer(codec, vocabulary, library)
        said = f"{source.name} names another way of splitting text than the tokenizer of the training has"
        say(f"{said}; {target.name} says {changed['tokenizer.ggml.pre']}")
    llama.close()
    if changed:
        copy_with(source, target, changed)
    else:
        shutil.copyfile(source, target)


def _kind_of(file: Path) -> str:
    """The type of most of a GGUF file's matrices."""
    from gguf import GGUFReader

    kinds = Counter(one.tensor_type.name for one in GGUFReader(file).tensors if len(one.shape) > 1)
    return str(kinds.most_common(1)[0][0])


def _named(name: str, codec: ChatCodec) -> str:
    """A name by which llama.cpp treats special tokens as the tokenizer does.

    Spaces behind them are cut off in models whose name says Phi-3, as in that tokenizer, and in no others.
    """
    plain = re.sub("(ph)(i)", r"\1-\2", name, flags=re.IGNORECASE)
    cut = any(one.rstrip for one in codec.tokenizer.get_added_tokens_decoder().values())
    known = all(codec.tokenizer.token_to_id(token) is not None for token in _OF_PHI3)
    return f"Phi-3 {plain}" if cut and known else plain


def _record(folder: Path, model: Exported, kind: str, proof: Proof) -> None:
    """gguf.json, and parity.json with these hops beside an adapter."""
    if model.adapter is not None and (parity := current_parity(model.adapter)) is not None:
        write_parity(folder, parity.model_copy(update={"hops": tuple(proof.hops)}))
    record = GgufExport(type=kind, **model.recorded(folder, proof, "gguf", "xllamacpp"))
    write_json(folder / RECORD, record.model_dump(mode="json"))
