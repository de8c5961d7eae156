"""Which methods work on which models, quantised or not, and how they are served: python -m benchmarks.methods   (10 minutes on one core)

Tiny models with random weights of eight architectures, as the tests have them. A method trains a few steps on one batch, whose loss
must fall; what it saved is read by plain PEFT, or by transformers where the whole model is saved, which must give the same logits.
How an adapter is served is what `ptune train` says before it begins; then it is made into that form, and its logits are compared with
those that were trained: as pairs of factors (folded), or within the base's weights (merged). What ONNX Runtime adds to that is
measured for each bundle when it is exported.

A cell that is not so says why, in the words that a user of ptune is told. Writes results/methods.json; the table of docs/methods.md is
made of it by `python -m benchmarks.figures`.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.sides import write

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))  # the tiny models are the tests'

PACKAGES = ("ptune", "torch", "transformers", "peft", "bitsandbytes")
STEPS, LR = 8, 3e-3
EXACT, NEARLY = (
    1e-6,
    1e-3,
)  # of logits some units long: read again; in another form, or beside dequantised weights
ARCHITECTURES = {
    "llama": "Llama", "qwen3": "Qwen3", "gemma3": "Gemma 3", "gpt2": "GPT-2", "bert": "BERT", "t5": "T5", "vit": "ViT",
    "resnet": "ResNet",
}  # fmt: skip
QUANTISED = ("llama", "qwen3", "gemma3")  # whose layers are those that ptune quantises
MARKS = {"beside": "B", "folded": "F", "merged": "M", "whole": "W", "no": "N"}
_SCALED: dict[str, tuple[str, ...]] = {
    "target_modules": ("k_proj", "v_proj", "down_proj"),
    "feedforward_modules": ("down_proj",),
}
NAMED: dict[tuple[str, str], dict[str, Any]] = {
    ("gemma3", "Ia3"): _SCALED,
    ("qwen3", "Ia3"): _SCALED,
    ("resnet", "Ia3"): {"target_modules": ("convolution",)},
    ("vit", "Ia3"): {"target_modules": ("k_proj", "v_proj", "fc2"), "feedforward_modules": ("fc2",)},
}
"""Where PEFT knows no layers for a model's type."""


def rows_of_methods() -> dict[str, Any]:
    """All methods and forms, by the name of their row."""
    from support.every_method import ALL

    from ptune.methods.bitfit import BitFit
    from ptune.methods.freeze import FreezeExceptLast
    from ptune.methods.full import Full

    adapters = {name: method for name, method in ALL.items() if name != "Lora patterns"}
    return {**adapters, "BitFit": BitFit(), "FreezeExceptLast": FreezeExceptLast(layers=1), "Full": Full()}


def cell(name: str, method: Any, family: str, quantize: str, place: Path) -> dict[str, Any]:
    """One method on one model."""
    from ptune.errors import PtuneError

    method = method.model_copy(update=NAMED.get((family, name), {}))
    try:
        return _tried(method, family, quantize, place)
    except (PtuneError, ValueError) as error:
        return {"works": False, "why": _in_words(error, method, family)}


def _tried(method: Any, family: str, quantize: str, place: Path) -> dict[str, Any]:
    """Raises: PtuneError, or ValueError of a recipe, that says what cannot be."""
    from support.every_method import begun, logits, loss_of, trained

    from ptune.methods.peft_method import PeftMethod

    recipe = recipe_of(method, family, quantize, place)
    start = begun(method, made(family, quantize), family)
    before = float(loss_of(logits(start, family)))
    adapted = trained(method, made(family, quantize), family, STEPS, LR)
    live = logits(adapted, family)
    after = float(loss_of(live))
    saved = place / "saved"
    of_peft = isinstance(method, PeftMethod)
    adapted.save_pretrained(saved, **({"save_embedding_layers": False} if of_peft else {}))
    again = logits(read_again(saved, family, quantize, of_peft), family)
    reload = float((again - live).abs().max())
    how, difference = served(recipe, adapted, live, saved, family, quantize)
    limit = EXACT if quantize == "none" else NEARLY
    works = after < before and reload <= limit and (difference is None or difference <= NEARLY)
    found = {
        "works": works,
        "loss": [before, after],
        "reload": reload,
        "served": how,
        "difference": difference,
    }
    return found if works else {**found, "why": _why(found, limit)}


def made(family: str, quantize: str) -> Any:
    """The base, the same whenever it is made."""
    from support.every_method import FAMILIES

    from ptune.backbone.quantize import quantize as quantised

    model = FAMILIES[family]()
    if quantize != "none":
        quantised(model, quantize)  # type: ignore[arg-type]
    return model.requires_grad_(False)


def plain_base(family: str, quantize: str) -> Any:
    """The base with plain weights, dequantised."""
    from ptune.backbone.float32 import in_float32
    from ptune.export.merge import with_plain_weights

    model = made(family, quantize)
    if quantize != "none":
        in_float32(model)
        with_plain_weights(model)
    return model


def read_again(saved: Path, family: str, quantize: str, of_peft: bool) -> Any:
    """What plain PEFT, or transformers, reads."""
    from peft import PeftModel

    if of_peft:
        return PeftModel.from_pretrained(plain_base(family, quantize), str(saved))
    return type(made(family, "none")).from_pretrained(saved)


def recipe_of(method: Any, family: str, quantize: str, place: Path) -> Any:
    """A recipe of the method for that model. Raises: ValueError that says what does not go together."""
    from support.seq2seq_models import build_seq2seq

    from ptune.config.chat import Chat
    from ptune.config.classification import ImageClassification, TextClassification
    from ptune.config.recipe import Backbone, Recipe
    from ptune.config.translation import Translation

    task: Any = {"bert": TextClassification, "vit": ImageClassification, "resnet": ImageClassification}.get(
        family, Chat
    )()
    backbone = Backbone(quantize=quantize)  # type: ignore[arg-type]
    if family == "t5":
        task = Translation()
        backbone = Backbone(model=str(build_seq2seq(place / "model", "t5")))
    return Recipe(task=task, method=method, backbone=backbone)


def served(
    recipe: Any, adapted: Any, live: Any, saved: Path, family: str, quantize: str
) -> tuple[str, float | None]:
    """How ptune serves what was trained, and by how much its logits differ in that form; None: the file is served as it is."""
    from support.every_method import logits

    from ptune.errors import AdapterError
    from ptune.methods.peft_method import PeftMethod
    from ptune.training.preparation import how_served

    if not isinstance(recipe.method, PeftMethod):
        return "whole", None
    told = how_served(recipe)
    if told is None and not (recipe.method.folds and not recipe.method.plain):
        return "beside", None
    if told is None:
        try:
            return "folded", _difference(folded(saved, family, quantize), live, family)
        except AdapterError:  # of convolutions
            told = "served merged"
    if "served merged" not in told:
        return "no", None
    return "merged", float((logits(merged(saved, family, quantize), family) - live).abs().max())


def _difference(model: Any, live: Any, family: str) -> float:
    from support.every_method import logits

    return float((logits(model, family) - live).abs().max())


def merged(saved: Path, family: str, quantize: str) -> Any:
    """The base with the adapter in its weights."""
    from peft import PeftModel

    from ptune.export.merge import mergeable_here, merged_of_any
    from ptune.export.merge import merged as merged_lora

    model = PeftModel.from_pretrained(plain_base(family, quantize), str(saved))
    here = mergeable_here(model.peft_config["default"])
    return (merged_lora if here else merged_of_any)(model)[0]


def folded(saved: Path, family: str, quantize: str) -> Any:
    """The base with the adapter as LoRA pairs, read by PEFT."""
    import torch
    from peft import PeftModel
    from transformers.pytorch_utils import Conv1D

    from ptune.engine.adapters.fold.fold import as_pairs
    from ptune.engine.adapters.fold.layer import Base
    from ptune.formats.signature import Socket

    base = plain_base(family, quantize)
    layers = {
        name: layer
        for name, layer in base.named_modules()
        if isinstance(layer, torch.nn.Linear | Conv1D | torch.nn.Conv2d)
        and layer is not base.get_output_embeddings()
    }
    sockets = {}
    for name, layer in layers.items():
        outer, inner = layer.weight.shape[:2]
        size = (outer, inner) if isinstance(layer, Conv1D) else (inner, outer)
        kernel = tuple(layer.weight.shape[2:]) or None
        sockets[name] = Socket(name=name, in_features=size[0], out_features=size[1], kernel=kernel)

    def weight(name: str) -> Any:
        held = layers[name].weight.detach()
        return (held.T if isinstance(layers[name], Conv1D) else held).contiguous().numpy()

    with as_pairs(saved, sockets, Base(weight, quantize != "none")) as (folder, _):
        return PeftModel.from_pretrained(plain_base(family, quantize), str(folder))


def _why(found: Mapping[str, Any], limit: float) -> str:
    before, after = found["loss"]
    if after >= before:
        return f"the loss of its batch does not fall: {before:.3g} to {after:.3g}"
    if found["reload"] > limit:
        return f"read again, its logits differ by {found['reload']:.1g}"
    return f"{found['served']}, its logits differ by {found['difference']:.1g}"


def _in_words(error: Exception, method: Any, family: str) -> str:
    """What a user is told, but for the names of this method and this model, and what to use instead."""
    from ptune.config.recipe import Recipe
    from ptune.config.wrong_field import explain

    told = explain(error, Recipe) if hasattr(error, "errors") else str(error)  # type: ignore[arg-type]
    told = re.sub(
        r"^recipe: |^method:? | \(is [^)]*\)$|^backbone.quantize '\w+': |[:;] (or )?use .*$", "", told
    )
    told = re.sub(r"^backbone.quantize '\w+' needs method Lora: ", "", told)
    told = re.sub(rf"\bmethod {type(method).__name__}\b|\b{type(method).__name__}\b", "the method", told)
    for name in (type(made(family, "none")).__name__, type(made(family, "none").base_model).__name__):
        told = told.replace(name, "the model")
    return told.removeprefix("the method: ").strip()


def table(rows: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    """Markdown: a row a method, a column an architecture, then what each footnote says."""
    notes: dict[str, int] = {}
    lines = [
        f"| method | {' | '.join(ARCHITECTURES.values())} | read again | as served |",
        f"|---|{'---|' * (len(ARCHITECTURES) + 2)}",
    ]
    for name, families in rows.items():
        cells = " | ".join(_shown(families[family], notes) for family in ARCHITECTURES)
        lines.append(
            f"| {_named(name)} | {cells} | {_largest(families, 'reload')} | {_largest(families, 'difference')} |"
        )
    told = "\n".join(f"{number}. {why}" for why, number in notes.items())
    return "\n".join(lines) + f"\n\n{told}"


def _named(name: str) -> str:
    method, _, form = name.partition(" ")
    return f"`{method}`{f' {form}' if form else ''}"


def _shown(bases: Mapping[str, Mapping[str, Any]], notes: dict[str, int]) -> str:
    plain = bases["none"]
    if not plain["works"]:
        return _noted(plain, notes)
    shown = MARKS[plain["served"]]
    for kind, digit in (("int8", "8"), ("nf4", "4")):
        if kind in bases and bases[kind]["works"]:
            shown += f" {digit}"
        elif kind in bases and "quantised" not in bases[kind]["why"]:  # those are told above the table
            shown += f" {_noted(bases[kind], notes)}"
    return shown


def _noted(found: Mapping[str, Any], notes: dict[str, int]) -> str:
    return f"– ({notes.setdefault(found['why'], len(notes) + 1)})"


def _largest(families: Mapping[str, Mapping[str, Mapping[str, Any]]], key: str) -> str:
    values = [found[key] for found in _cells(families) if found.get(key) is not None]
    return "" if not values else "0" if not max(values) else f"{max(values):.0e}".replace("e-0", "e-")


def _cells(families: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Iterator[Mapping[str, Any]]:
    return (found for bases in families.values() for found in bases.values() if found["works"])


def main() -> int:
    """Tries all; prints what does not work."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--only", nargs="+", metavar="METHOD", help="print these and write nothing")
    chosen = options.parse_args()
    rows: dict[str, dict[str, dict[str, Any]]] = {}
    for name, method in rows_of_methods().items():
        if chosen.only and name not in chosen.only:
            continue
        for family in ARCHITECTURES:
            for quantize in ("none", "int8", "nf4") if family in QUANTISED else ("none",):
                with tempfile.TemporaryDirectory() as place:
                    found = cell(name, method, family, quantize, Path(place))
                rows.setdefault(name, {}).setdefault(family, {})[quantize] = found
                if not found["works"] or chosen.only:
                    print(name, family, quantize, found, flush=True)
    if not chosen.only:
        write("methods", {"command": "python -m benchmarks.methods", "rows": rows}, PACKAGES)
    return 0


if __name__ == "__main__":
    sys.exit(main())
