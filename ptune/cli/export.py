"""ptune export RUN"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypedDict

import tyro
from tyro.conf import Positional

from ptune.cli.parse import cores, listed, parse, say_next, shown
from ptune.cli.result import tell
from ptune.errors import UsageError
from ptune.formats.bundle import CacheType
from ptune.formats.gguf_export import ADAPTER_FILE, MODELFILE, GgufType
from ptune.formats.hop_log import hop_log as noted
from ptune.formats.onnx_adapter import SUFFIX

if TYPE_CHECKING:
    from ptune.config.recipe import Backbone
    from ptune.verify.proof import Proof


class Common(TypedDict):
    """Options that a run and a pretrained model share."""

    force: bool
    threads: int
    profiles: tuple[str, ...]
    sockets: tuple[str, ...]
    cache: CacheType


def run(arguments: list[str]) -> int:
    return parse(export, arguments, "export")


def export(
    source: Annotated[Positional[str], tyro.conf.arg(metavar="RUN|MODEL")],
    out: Path | None = None,
    name: str | None = None,
    merge: bool = False,
    force: bool = False,
    threads: int | None = None,
    quantize: Literal["none", "int8", "nf4"] = "none",
    revision: str | None = None,
    trust_remote_code: bool = False,
    profiles: str = "fp32",
    kv_cache_dtype: CacheType = "float32",
    sockets: str = "",
    anyway: bool = False,
    gguf: bool = False,
    gguf_type: GgufType = "auto",
    genai: bool = False,
    hop_log: Path | None = None,
) -> int:
    """Exports a run, or a pretrained model without any adapter, to an ONNX bundle, and proves it hop by hop.

    With --gguf: to GGUF files for llama.cpp and Ollama, proved in llama.cpp; with --genai: for onnxruntime-genai, proved there.
    A bundle that drifts from what was trained is refused, and nothing is left of it. A profile that does not say what fp32
    says is left out of the bundle, and the exit code is 1.

    Args:
        source: A run's folder; or a pretrained model, as `backbone.model` takes it.
        out: The bundle's folder; default: bundles/NAME.
        name: Name under which the adapter is served; default: the run's name.
        merge: Merge the adapter into the weights instead of serving it beside them; of images much faster, and the only adapter.
        force: Replace a bundle that exists.
        threads: Threads of onnxruntime; default: all cores.
        quantize: Of a MODEL: export the weights that its int8 or nf4 form stands for, as QLoRA trains on them.
        revision: Of a MODEL on the hub.
        trust_remote_code: Of a MODEL: run Python code that comes with it.
        profiles: `fp32,int8` writes a second graph, for `ptune serve --profile int8`; of images with --merge. A chat model may
            have `int4`, too, and where it trained in nf4 `nf4`, an eighth as large and slow; `nf4,int8` leaves fp32 out, which
            a large model has no memory for. It is served by the first that is named; `auto` measures here which of fp32, int8
            and int4 is the fastest that says what fp32 says.
        kv_cache_dtype: `int8`: also graphs of a chat model whose keys and values take a quarter of the memory, each unless it drifts.
        sockets: `head,embedding,tokens,biases,gains,turns`: which of these adapters may bring to a chat model: LoRA of the output
            head, LoRA of the embedding, trained tokens, biases, gains (DoRA, IA3), turned pairs of outputs (RoAd). What the run's own adapter brings is always among them.
        anyway: Export a RUN that its evaluation found no better than a baseline.
        gguf: Write what llama.cpp and Ollama read instead: a chat run's base and adapter (with --merge one model), and a Modelfile.
        gguf_type: Type of the GGUF's weights. `auto` keeps a base that came as GGUF as it is, and is F16 for all others.
        genai: Write a chat run's base for onnxruntime-genai instead, and its adapter as `.onnx_adapter` (with --merge one model).
        hop_log: File that takes a JSON line for each stage and for each hop as it is measured; it stays where the export is refused.
    """
    asked, ends = listed(profiles), listed(sockets)
    name, threads = name or Path(source).resolve().name, threads or cores()
    backbone = _backbone(source, quantize, revision, trust_remote_code)
    _check_options(gguf, genai, gguf_type, (asked, kv_cache_dtype, ends))
    out = out or Path("gguf" if gguf else "genai" if genai else "bundles") / name
    common = Common(force=force, threads=threads, profiles=asked, sockets=ends, cache=kv_cache_dtype)
    with noted(hop_log):
        if gguf:
            return _to_gguf(backbone, name, out, gguf_type, merge, force, threads, anyway)
        if genai:
            return _to_genai(backbone, name, out, merge, force, anyway)
        return _to_bundle(backbone, name, out, merge, anyway, common)


def _backbone(
    model: str, quantize: Literal["none", "int8", "nf4"], revision: str | None, trust: bool
) -> Backbone:
    from ptune.config.recipe import Backbone

    return Backbone(model=model, quantize=quantize, revision=revision, trust_remote_code=trust)


def _to_bundle(backbone: Backbone, name: str, out: Path, merge: bool, anyway: bool, common: Common) -> int:
    """backbone: names the run or the model."""
    from ptune import publish
    from ptune.formats.run import Run

    if (Path(backbone.model) / "run.json").is_file():
        run = Run.open(Path(backbone.model))
        proof = publish.export_run(run, out, name=name, merge=merge, anyway=anyway, **common)
    else:
        proof = publish.export_backbone(backbone, out, **common)
    return _told(proof, out)


def _check_options(gguf: bool, genai: bool, kind: GgufType, graphs: tuple[object, ...]) -> None:
    """graphs: the options of a bundle's. Raises: UsageError for options that do not go together."""
    if gguf and genai:
        raise UsageError("--gguf and --genai write for different engines: ask for one of them at a time")
    if not gguf and kind != "auto":
        raise UsageError(f"--gguf-type {kind} is about GGUF files: add --gguf")
    if (gguf or genai) and graphs != (("fp32",), "float32", ()):
        raise UsageError(
            "--profiles, --kv-cache-dtype and --sockets are about bundles: leave them out beside"
            f" {'--gguf' if gguf else '--genai'}"
        )


def _to_gguf(
    backbone: Backbone,
    name: str,
    out: Path,
    kind: GgufType,
    merge: bool,
    force: bool,
    threads: int,
    anyway: bool,
) -> int:
    """backbone: names the run or the model."""
    from ptune.cli.proof_table import show
    from ptune.formats.run import Run
    from ptune.publish import gguf

    folder = Path(backbone.model)
    if (folder / "run.json").is_file():
        run = Run.open(folder)
        proof = gguf.export_run(
            run, out, name=name, kind=kind, merge=merge, force=force, threads=threads, anyway=anyway
        )
    else:
        proof = gguf.export_backbone(backbone, out, kind=kind, force=force, threads=threads)
    show(proof)
    tell(gguf=out)
    print(f"gguf: {shown(out)}")
    if (out / ADAPTER_FILE).is_file():
        print("Ollama from 0.34.1 on is said to refuse ADAPTER: for these, export with --merge")
    say_next(f"ollama create {name} -f {shown(out / MODELFILE)}")
    return 0


def _to_genai(backbone: Backbone, name: str, out: Path, merge: bool, force: bool, anyway: bool) -> int:
    """backbone: names the run or the model."""
    from ptune.cli.proof_table import show
    from ptune.formats.run import Run
    from ptune.publish import genai

    folder = Path(backbone.model)
    if (folder / "run.json").is_file():
        proof = genai.export_run(Run.open(folder), out, name=name, merge=merge, force=force, anyway=anyway)
    else:
        proof = genai.export_backbone(backbone, out, force=force)
    show(proof)
    adapter = out / f"{name}{SUFFIX}"
    tell(genai=out, adapter=adapter if adapter.is_file() else None)
    print(f"onnxruntime-genai: {shown(out)}")
    if any(hop.name.startswith("tokenizer") and hop.top1 != 1 for hop in proof.hops):
        print(
            "its own tokenizer makes other tokens of some texts: give it those that tokenizer.json gives in tokenizers or transformers"
        )
    if adapter.is_file():
        print(f"adapter: {shown(adapter)}")
    return 0


def _told(proof: Proof, out: Path) -> int:
    """Shows an export's proof. Raises: ParityError where a profile was left out."""
    from ptune.cli.proof_table import show
    from ptune.errors import ParityError

    show(proof)
    tell(bundle=out)
    print(f"bundle: {shown(out)}")
    say_next(f"ptune serve {shown(out)}")
    if proof.refused:
        raise ParityError("; ".join(f"{out} is without {name}: {why}" for name, why in proof.refused.items()))
    return 0
