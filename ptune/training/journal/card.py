"""The model card of a run: Markdown with the YAML header that model hubs read."""

from __future__ import annotations

from pathlib import PurePath
from typing import Any

import yaml

from ptune.config.recipe import Recipe
from ptune.config.tasks import task_of
from ptune.formats.run import RunRecord
from ptune.formats.task_names import CHAT
from ptune.methods.peft_method import PeftMethod
from ptune.progress import duration

_HUB_NAMES = {
    "f1_macro": "f1",
    "f1_micro": "f1",
    "mae": "mae",
    "rmse": "rmse",
    "r2": "r_squared",
    "pearson": "pearsonr",
}
"""Figures that the `evaluate` library calls by another name."""


def card(
    record: RunRecord, recipe: Recipe, data: dict[str, Any], evaluation: dict[str, Any] | None = None
) -> str:
    """The card of a run, with figures if it has been evaluated. `data` is the content of data.json."""
    header: dict[str, Any] = {
        "base_model": record.base.source,
        "license": record.base.licence,
        "library_name": "peft" if isinstance(recipe.method, PeftMethod) else "transformers",
        "pipeline_tag": task_of(recipe.task).hub,
        "tags": ["ptune", record.method.lower()],
    }
    if evaluation is not None and "metrics" in evaluation:
        header["model-index"] = [_index(recipe, evaluation)]
    return "\n".join(
        [
            "---",
            yaml.safe_dump(header, sort_keys=False, allow_unicode=True).strip(),
            "---",
            f"# {recipe.name}",
            "",
            f"`{record.base.source}` ({record.base.architecture}, {record.base.parameters:,} parameters)"
            f" tuned with {_method(recipe)} by ptune.",
            "",
            *_kept_layers(record),
            *_figures(evaluation),
            "## Training data",
            "",
            *_files(data),
            "",
            "## Training",
            "",
            f"- {record.steps} steps of {recipe.train.batch_size} examples, {duration(record.seconds)} on"
            f" {record.instruction_set}, {record.threads} threads, {record.processes} process(es)",
            f"- {recipe.train.optimizer}, learning rate {recipe.train.lr:g}{_of_head(recipe)}, {recipe.train.schedule},"
            f" seed {recipe.train.seed}",
            f"- kept: step {record.best_step or record.steps}",
            *[f"- {sentence}" for sentence in record.troubles()],
            *[
                f"- {hop.name}: max |Δ log p| {hop.max_abs_logprob:.1e} over {hop.prompts} prompts"
                for hop in record.hops
            ],
            f"- made with {', '.join(f'{name} {version}' for name, version in record.versions.items())}",
            "",
            "`recipe.yaml` reruns this training.",
            "",
            *_held_to(record, recipe),
            "## Base",
            "",
            f"- licence: {record.base.licence}",
            f"- quantisation: {record.base.quantize}, other weights {record.base.dtype}",
            f"- SHA-256 of the base's weights, as trained on: `{record.base.hash}`",
            "",
            *_new_tokens(record, recipe),
        ]
    )


def _of_head(recipe: Recipe) -> str:
    return "" if recipe.train.head_lr is None else f" (the head's: {recipe.train.head_lr:g})"


def _kept_layers(record: RunRecord) -> list[str]:
    """What plain PEFT has to know of a base that lacks layers."""
    if not record.base.keep_layers:
        return []
    kept = ", ".join(map(str, record.base.keep_layers))
    return [
        f"Its base has only the layers {kept} of that model (from 0): take the others out before loading the adapter with plain"
        " PEFT, or let `ptune merge` write the whole.",
        "",
    ]


def _held_to(record: RunRecord, recipe: Recipe) -> list[str]:
    """How a server that serves a chat adapter is held to it."""
    method = recipe.method
    if not (isinstance(method, PeftMethod) and method.plain) or task_of(recipe.task).name != CHAT:
        return []
    return [
        "## Is a server right?",
        "",
        "`adapter/parity.json` (`ptune export RUN` writes it) holds what this adapter answers in torch, token by token.",
        "`ptune verify RUN --url http://HOST:PORT/v1` holds any OpenAI-compatible server to it and says what is wrong.",
        "",
    ]


def _new_tokens(record: RunRecord, recipe: Recipe) -> list[str]:
    """A section on loading an adapter with new tokens in plain PEFT: the base first needs a row for each."""
    tokens = recipe.backbone.new_tokens
    if not tokens or not isinstance(recipe.method, PeftMethod):
        return []
    return [
        "## New tokens",
        "",
        f"{', '.join(f'`{token}`' for token in tokens)}: their rows of the embedding are in the adapter, and the"
        " tokenizer with them is saved beside it. With plain PEFT:",
        "",
        "```python",
        'tokenizer = AutoTokenizer.from_pretrained("adapter")',
        f'model = AutoModelForCausalLM.from_pretrained("{record.base.source}")',
        "rows = model.get_input_embeddings().num_embeddings",
        "model.resize_token_embeddings(max(rows, len(tokenizer)))",
        'model = PeftModel.from_pretrained(model, "adapter")',
        "```",
        "",
        "ptune serves it merged: `ptune export RUN --merge`.",
        "",
    ]


def _method(recipe: Recipe) -> str:
    options = ", ".join(f"{name}={value}" for name, value in recipe.method.model_dump(mode="json").items())
    return f"{type(recipe.method).__name__}({options})"


def _files(data: dict[str, Any]) -> list[str]:
    """One line per file: split, name, rows and fingerprint."""
    return [
        f"- {file['split']}: {file['path']}, {file['rows']} rows, SHA-256 `{file['sha256'][:16]}…`"
        for file in data["files"]
    ]


def _figures(evaluation: dict[str, Any] | None) -> list[str]:
    if evaluation is None:
        return []
    if "metrics" in evaluation:
        return _classified(evaluation)
    if "rewards" in evaluation:
        return _rewarded(evaluation)
    before, after = evaluation["before"], evaluation["after"]
    rows = [
        f"| {title} | {before[name]:{form}} | {after[name]:{form}} |"
        for title, name, form in (
            ("loss a token", "loss", ".3f"),
            ("perplexity", "perplexity", ".2f"),
            ("token accuracy", "token_accuracy", ".1%"),
        )
    ]
    return [
        f"## Results on {evaluation['examples']} held-out examples ({evaluation['split']})",
        "",
        "| | base | tuned |",
        "|---|---|---|",
        *rows,
        *_pairs(evaluation),
        *_judged(evaluation),
        "",
    ]


def _rewarded(evaluation: dict[str, Any]) -> list[str]:
    """The rewards of a reinforcement run."""
    sides = [evaluation["rewards"][side] for side in ("base", "tuned")]
    rows = []
    for title, name in (("reward, greedy", "reward"), ("reward, sampled", "reward_sampled")):
        cells = [f"{side[name]['value']:.3f}" for side in sides]
        rows.append(f"| {title} | {' | '.join(cells)} |")
    return [
        f"## Results on {evaluation['examples']} held-out prompts ({evaluation['split']})",
        "",
        "| | base | tuned |",
        "|---|---|---|",
        *rows,
        "",
    ]


def _pairs(evaluation: dict[str, Any]) -> list[str]:
    """The rows of a preference run."""
    if "pairs" not in evaluation:
        return []
    of_base, of_tuned = (evaluation["pairs"][side]["likelier"]["value"] for side in ("base", "tuned"))
    gained = evaluation["pairs"]["tuned"]["preferred"]["value"]
    return [
        f"| better answer likelier, a token | {of_base:.1%} | {of_tuned:.1%} |",
        f"| better answer gained more than the worse | – | {gained:.1%} |",
    ]


def _judged(evaluation: dict[str, Any]) -> list[str]:
    """The rows of a run on judged answers."""
    tuned = evaluation.get("judged", {}).get("tuned", {})
    titles = {
        "told_apart": "desirable answer gained more than undesirable one",
        "gained": "desirable answers that gained",
        "lost": "undesirable answers that lost",
    }
    return [
        f"| {title} | – | {tuned[name]['value']:.1%} |" for name, title in titles.items() if name in tuned
    ]


def _classified(evaluation: dict[str, Any]) -> list[str]:
    """A table of a classifier's headline figures beside those of its baselines."""
    sides = {**evaluation["sides"], **evaluation["baselines"]}
    rows = []
    for name in evaluation["headline"]:
        low, high = evaluation["intervals"].get(name, (None, None))
        cells = [_number(side["metrics"].get(name)) for side in sides.values()]
        rows.append(f"| {name} | {_number(low)} to {_number(high)} | {' | '.join(cells)} |")
    first = next(iter(sides))
    return [
        f"## Results on {evaluation['examples']} held-out rows ({evaluation['split']})",
        "",
        f"| | 95 % interval of {first} | {' | '.join(sides)} |",
        "|---|---|" + "---|" * len(sides),
        *rows,
        "",
    ]


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _index(recipe: Recipe, evaluation: dict[str, Any]) -> dict[str, Any]:
    """One entry of the header's model-index."""
    names = ", ".join(PurePath(file["path"]).name for file in evaluation["files"])
    return {
        "name": recipe.name,
        "results": [
            {
                "task": {"type": evaluation["task"]},
                "dataset": {"type": "file", "name": names, "split": evaluation["split"]},
                "metrics": [
                    {
                        "type": _HUB_NAMES.get(name, name),
                        "name": name,
                        "value": round(evaluation["metrics"][name], 6),
                    }
                    for name in evaluation["headline"]
                ],
            }
        ],
    }
