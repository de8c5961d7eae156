"""What a combined adapter has kept of each part: the base, the part and the combination on the text that the part's run held out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from peft import PeftModel
from rich.table import Table

from ptune.backbone.kind import kind_of_run
from ptune.backbone.load import load
from ptune.config.recipe import Recipe
from ptune.errors import BackboneError, DataError
from ptune.evaluation.figures import Figures, figures
from ptune.evaluation.held_out import HeldOut, held_out
from ptune.formats.run import Run
from ptune.kinds import DECODER
from ptune.progress import say
from ptune.training.layers.lora_product import with_lora_products

COMBINED = "combined"


@dataclass(frozen=True)
class Judged:
    """Figures on one part's held-out examples, those of `ptune evaluate`."""

    part: str
    split: str
    examples: int
    base: Figures
    own: Figures
    combined: Figures


def judge(combined: Path, runs: Mapping[str, tuple[Run, Path]]) -> Iterator[Judged]:
    """Measures a combined adapter beside each of its parts that is a run: its name -> the run and its PEFT folder.

    A run whose data is gone, or that is no causal language model, is left out, and that is said.
    Raises: BackboneError if the base holds other weights than they were trained on.
    """
    opened = {name: held for name, (run, _) in runs.items() if (held := _held_out(name, run)) is not None}
    if not opened:
        return
    run, _ = runs[next(iter(opened))]
    recipe, record = Recipe.load(run.recipe_path), run.finished_record()
    loaded = load(recipe.backbone)
    if loaded.identity.hash != record.base.hash:
        raise BackboneError(
            f"{recipe.backbone.model} no longer holds the weights that {run.folder} was trained on"
        )
    model = PeftModel.from_pretrained(loaded.model, str(combined), adapter_name=COMBINED)
    for name in opened:
        model.load_adapter(str(runs[name][1]), adapter_name=_key(name))
    with_lora_products(model)
    for name, held in opened.items():

        def of(adapter: str, held: HeldOut = held, name: str = name) -> Figures:
            label = f"held-out loss of {name}, {adapter}"
            return figures(label, model, loaded.model, held.examples, recipe.train.micro_batch_tokens)

        with model.disable_adapter():
            base = of("base")
        sides = []
        for adapter in (_key(name), COMBINED):
            model.set_adapter(adapter)
            sides.append(of("combined" if adapter == COMBINED else "own"))
        yield Judged(name, held.split, len(held.examples), base, *sides)


def _key(name: str) -> str:
    """The name of a part among peft's adapters, which takes no dots."""
    return "part " + name.replace(".", "_")


def _held_out(name: str, run: Run) -> HeldOut | None:
    if kind_of_run(run, Recipe.load(run.recipe_path)) is not DECODER:
        say(f"{name} is no causal language model: its share is not measured")
        return None
    try:
        return held_out(run)
    except DataError as error:
        say(f"{name} is not measured: {error}")
        return None


def table(judged: list[Judged]) -> Table:
    """Loss a token: the base, the part's own adapter, the combined one, and the share of the part's gain that it keeps."""
    found = Table(title="loss a token on what each part's run held out")
    for column in ("", "examples", "base", "the part's own", "combined", "gain kept"):
        found.add_column(column, justify="right" if column else "left")
    for one in judged:
        losses = [side["loss"] for side in (one.base, one.own, one.combined)]
        found.add_row(
            one.part, str(one.examples), *[f"{loss:.3f}" for loss in losses], f"{kept(one):.0%}" if losses[1] < losses[0] else "–"
        )  # fmt: skip
    return found


def kept(one: Judged) -> float:
    """The share of a part's gain in loss that the combination keeps."""
    return (one.base["loss"] - one.combined["loss"]) / (one.base["loss"] - one.own["loss"])
