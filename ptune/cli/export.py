"""ptune export RUN"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypedDict

import tyro
from tyro.conf import Positional

from ptune.cli.parse import cores, listed, parse, say_next, shown
from ptune.cli.result import tell
from ptune.formats.bundle import CacheType

if TYPE_CHECKING:
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
) -> int:
    """Exports a run, or a pretrained model without any adapter, to an ONNX bundle, and proves it hop by hop.

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
    """
    from ptune import publish
    from ptune.config.recipe import Backbone
    from ptune.formats.run import Run

    folder = Path(source)
    asked, ends = listed(profiles), listed(sockets)
    name = name or folder.resolve().name
    out = out or Path("bundles") / name
    common = Common(
        force=force, threads=threads or cores(), profiles=asked, sockets=ends, cache=kv_cache_dtype
    )
    if (folder / "run.json").is_file():
        run = Run.open(folder)
        proof = publish.export_run(run, out, name=name, merge=merge, anyway=anyway, **common)
    else:
        backbone = Backbone(
            model=source, quantize=quantize, revision=revision, trust_remote_code=trust_remote_code
        )
        proof = publish.export_backbone(backbone, out, **common)
    return _told(proof, out)


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
