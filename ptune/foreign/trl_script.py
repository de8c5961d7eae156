"""A recipe as a plain script of TRL's, which runs without ptune: supervised fine-tuning and DPO."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ptune.backbone.locate import Source, locate
from ptune.config.chat import Chat
from ptune.config.preference import Preference
from ptune.config.recipe import Recipe
from ptune.data.read import resolve
from ptune.data.readers.hub import PREFIX
from ptune.errors import RecipeError
from ptune.foreign import script_rows
from ptune.methods.full import Full
from ptune.methods.lora import Lora
from ptune.methods.peft_method import PeftMethod

LOSSES = {"dpo": "sigmoid", "ipo": "ipo", "robust": "robust", "hinge": "hinge", "apo_zero": "apo_zero"}
OPTIMIZERS = {
    "adamw": "adamw_torch", "adamw_8bit": "adamw_bnb_8bit", "paged_adamw": "paged_adamw_32bit",
    "paged_adamw_8bit": "paged_adamw_8bit", "adafactor": "adafactor", "lion": "lion_32bit", "lion_8bit": "lion_8bit",
}  # fmt: skip
SCHEDULES = {
    "cosine": "cosine",
    "linear": "linear",
    "constant": "constant_with_warmup",
    "wsd": "warmup_stable_decay",
}
INITS = {"default": True, "gaussian": "gaussian", "pissa": "pissa", "olora": "olora"}
_LARGEST_PASS = 4  # examples
_WRITTEN = {
    "name", "task.columns", "task.system", "task.train_on", "task.max_length", "task.label_smoothing", "task.loss_type", "task.loss", "task.beta",
    "task.sft_weight", "task.template", "backbone.model", "backbone.quantize", "backbone.cache", "backbone.dtype",
    "backbone.revision", "backbone.trust_remote_code", "data.files", "data.validation", "data.validation_share", "data.limit",
    "train.epochs", "train.max_steps", "train.lr", "train.optimizer", "train.betas", "train.eps", "train.batch_size",
    "train.schedule", "train.warmup", "train.decay", "train.weight_decay", "train.max_grad_norm", "train.seed",
    "train.gradient_checkpointing", "train.neftune_alpha", "train.validate_every", "train.save_every", "train.tracker",
    "train.keep_checkpoints",
}  # fmt: skip
"""Fields that the script holds; of all others it says that it does not."""


def trl_script(recipe: Recipe, source: str) -> str:
    """The script. source: what the recipe is called in it.

    Raises: RecipeError for a task, a loss or an optimiser without a counterpart in TRL; DataError for an unknown sample.
    """
    task = recipe.task
    if type(task) not in (Chat, Preference):
        raise RecipeError(
            f"ptune script is for the tasks Chat and Preference, not {type(task).__name__}: docs/coming-from.md has TRL's names for the others"
        )
    assert isinstance(task, Chat)
    if isinstance(task, Preference) and task.loss not in LOSSES:
        raise RecipeError(
            f"task.loss {task.loss!r} is in no trainer of TRL's that stays: its CPO and ORPO are experimental"
        )
    if recipe.train.optimizer not in OPTIMIZERS:
        raise RecipeError(
            f"train.optimizer {recipe.train.optimizer!r} is in no TrainingArguments: {', '.join(OPTIMIZERS)} are"
        )
    kind = "DPO" if isinstance(task, Preference) else "SFT"
    where = locate(recipe.backbone.model)
    parts = [
        _head(recipe, source, kind),
        _rows(recipe, task, kind),
        _model(recipe, where, task),
        _adapter(recipe),
    ]
    return "\n".join([*parts, _trainer(recipe, task, kind)])


def _head(recipe: Recipe, source: str, kind: str) -> str:
    missing = [f"#   {path}: {value!r}" for path, value in _not_written(recipe)]
    said = (
        ["#", "# Not in it, as TRL has no counterpart or ptune does it by itself:", *missing]
        if missing
        else []
    )
    imports = [
        "import json",
        "import math",
        "from typing import Any",
        "",
        "import torch",
        "from datasets import Dataset, load_dataset",
    ]
    if not isinstance(recipe.method, Full):
        imports.append(f"from peft import {_config_of(recipe)[0]}")
    models = [
        "AutoModelForCausalLM",
        "AutoTokenizer",
        *(["BitsAndBytesConfig"] if recipe.backbone.quantize != "none" else []),
    ]
    imports += [
        f"from transformers import {', '.join(models)}",
        f"from trl import {kind}Config, {kind}Trainer",
    ]
    return "\n".join(
        [
            f"# {source} as a script of TRL's (1.x). It runs without ptune: pip install trl peft datasets bitsandbytes",
            "#",
            "# Not the same: the order of rows and which are held out; batches are padded; gradients are clipped alone, ptune also",
            "# cuts spikes and goes back after a collapse. Each answer of a conversation is an example of its own here. A row's",
            "# weight counts only where it is 0.",
            *said,
            *imports,
        ]
    )  # fmt: skip


def _not_written(recipe: Recipe) -> list[tuple[str, Any]]:
    """Fields with values of their own that the script does not hold."""
    usual = type(recipe)(task=type(recipe.task)(), method=type(recipe.method)())
    found = []
    for part in ("task", "backbone", "data", "train"):
        spec, default = getattr(recipe, part), getattr(usual, part)
        for name in type(spec).model_fields:
            value = getattr(spec, name)
            if f"{part}.{name}" not in _WRITTEN and value != getattr(default, name):
                found.append((f"{part}.{name}", value))
    if isinstance(recipe.method, Lora):
        own = {"init": recipe.method.init not in INITS, "ends": bool(recipe.method.ends), "freeze_a": recipe.method.freeze_a,
               "merge_into": recipe.method.merge_into is not None}  # fmt: skip
        found += [(f"method.{name}", getattr(recipe.method, name)) for name, is_set in own.items() if is_set]
    return found


def _rows(recipe: Recipe, task: Chat, kind: str) -> str:
    of = "pairs_of" if kind == "DPO" else "examples_of"
    needed = ("messages_of", "asked_in", "led", of)
    functions = "\n\n".join(inspect.getsource(getattr(script_rows, name)) for name in needed)
    names = {name: column for column, name in task.columns.named.items()}
    share, seed = recipe.data.validation_share, recipe.train.seed
    validation = [f"valid = Dataset.from_list(read({_files(recipe.data.validation)!r}))"]
    if not recipe.data.validation:
        validation = [
            f"held_out = train.train_test_split(test_size={share}, seed={seed})",
            'train, valid = held_out["train"], held_out["test"]',
        ]
    if recipe.data.limit is not None:  # what is held out does not count against it
        validation.append(f"train = train.select(range(min({recipe.data.limit}, len(train))))")
    return f"""
ROLES = {script_rows.ROLES!r}
COLUMNS = {names!r}  # your name for a column -> the usual one
FORMATS = {{"jsonl": "json", "tsv": "csv", "txt": "text", "md": "text", "feather": "arrow"}}


{functions}

def read(files: list[str]) -> list[dict[str, Any]]:
    rows = []
    for file in files:
        if file.startswith("hub:"):
            name, _, split = file.removeprefix("hub:").partition("@")
            owner, repository, *config = name.split("/")
            table = load_dataset(f"{{owner}}/{{repository}}", *config, split=split or "train")
        else:
            ending = file.rpartition(".")[2]
            table = load_dataset(FORMATS.get(ending, ending), data_files=file, split="train")
        rows += [{{COLUMNS.get(name, name): value for name, value in row.items()}} for row in table]
    return [example for row in rows for example in {of}(row, {task.system!r}, {task.train_on == "last"})]


train = Dataset.from_list(read({_files(recipe.data.files)!r}))
{chr(10).join(validation)}
"""


def _files(files: tuple[Path, ...]) -> list[str]:
    return [str(file) if str(file).startswith(PREFIX) else str(resolve(file)) for file in files]


def _model(recipe: Recipe, where: Source, task: Chat) -> str:
    backbone = recipe.backbone
    place: dict[str, Any] = {} if where.gguf is None else {"gguf_file": where.gguf}
    if where.on_hub and backbone.revision:
        place["revision"] = backbone.revision
    if backbone.trust_remote_code:
        place["trust_remote_code"] = True
    given = "".join(f", {name}={value!r}" for name, value in place.items())
    dtype = (
        "torch.bfloat16 if BF16 else torch.float32" if backbone.dtype == "auto" else f"torch.{backbone.dtype}"
    )
    lines = [
        "BF16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported()",
        f"tokenizer = AutoTokenizer.from_pretrained({where.path!r}{given})",
    ]
    if task.template is not None:
        lines.append(f"tokenizer.chat_template = open({str(task.template)!r}, encoding='utf-8').read()")
    quantised = ""
    if backbone.quantize == "nf4":
        lines.append(
            "packed = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type='nf4', bnb_4bit_use_double_quant=True,"
            " bnb_4bit_compute_dtype=torch.bfloat16)"
        )
        quantised = ", quantization_config=packed"
    elif backbone.quantize == "int8":
        lines.append("packed = BitsAndBytesConfig(load_in_8bit=True)")
        quantised = ", quantization_config=packed"
    lines.append(
        f"model = AutoModelForCausalLM.from_pretrained({where.path!r}, dtype={dtype}{given}{quantised})"
    )
    return "\n".join(lines)


def _config_of(recipe: Recipe) -> tuple[str, dict[str, Any]]:
    """The name of PEFT's config, and its arguments. Raises: RecipeError for a method that is not PEFT's."""
    method = recipe.method
    if not isinstance(method, PeftMethod):
        raise RecipeError(
            f"method {type(method).__name__} is none of PEFT's: ptune script writes those, and Full"
        )
    place = {
        "target_modules": method.target_modules
        if isinstance(method.target_modules, str)
        else list(method.target_modules),
        "exclude_modules": list(method.exclude_modules) or None,
        "layers_to_transform": list(method.layers_to_transform) or None,
    }
    arguments: Mapping[str, Any] = method.fields()
    if isinstance(method, Lora):
        arguments = {
            "r": method.r, "lora_alpha": method.alpha, "lora_dropout": method.dropout, "use_rslora": method.rslora,
            "use_dora": method.dora, "lora_bias": method.lora_bias, "rank_pattern": method.rank_pattern,
            "alpha_pattern": method.alpha_pattern, "target_parameters": list(method.target_parameters) or None,
            "init_lora_weights": INITS.get(method.init, True),
        }  # fmt: skip
    own = {**arguments, **{name: value for name, value in place.items() if value is not None}}
    return method.peft_config.rpartition(":")[2], {**own, "task_type": "CAUSAL_LM"}


def _adapter(recipe: Recipe) -> str:
    if isinstance(recipe.method, Full):
        return "adapter = None  # every weight is trained"
    name, arguments = _config_of(recipe)
    return f"adapter = {name}(\n{_written(arguments)})"


def _trainer(recipe: Recipe, task: Chat, kind: str) -> str:
    train = recipe.train
    per_pass = max(size for size in range(1, _LARGEST_PASS + 1) if train.batch_size % size == 0)
    arguments: dict[str, Any] = {
        "output_dir": f"runs/{recipe.name}-trl",
        "num_train_epochs": train.epochs,
        "max_steps": train.max_steps or -1,
        "learning_rate": train.lr,
        "lr_scheduler_type": SCHEDULES[train.schedule],
        "optim": OPTIMIZERS[train.optimizer],
        "per_device_train_batch_size": per_pass,
        "gradient_accumulation_steps": train.batch_size // per_pass,
        "weight_decay": train.weight_decay,
        "max_grad_norm": train.max_grad_norm,
        "gradient_checkpointing": train.gradient_checkpointing,
        "max_length": task.max_length,
        "seed": train.seed,
        "report_to": train.tracker,
        "logging_steps": 1,
        "save_total_limit": train.keep_checkpoints,
    }
    if train.betas is not None:
        arguments |= {"adam_beta1": train.betas[0], "adam_beta2": train.betas[1]}
    if train.eps is not None:
        arguments["adam_epsilon"] = train.eps
    if train.neftune_alpha is not None:
        arguments["neftune_noise_alpha"] = train.neftune_alpha
    for every, what in ((train.validate_every, "eval"), (train.save_every, "save")):
        arguments |= (
            {f"{what}_strategy": "epoch"}
            if every is None
            else {f"{what}_strategy": "steps", f"{what}_steps": every}
        )
    arguments |= _of_pairs(task) if isinstance(task, Preference) else _of_targets(task)
    decay = (
        ""
        if train.schedule != "wsd"
        else f"    lr_scheduler_kwargs={{'num_decay_steps': math.ceil(steps * {train.decay})}},\n"
    )
    return f"""
steps = {train.max_steps or f"math.ceil(len(train) / {train.batch_size} * {train.epochs})"}
config = {kind}Config(
{_written(arguments)}    warmup_steps=math.ceil(steps * {train.warmup}),
{decay}    bf16=BF16,
)
trainer = {kind}Trainer(
    model=model, args=config, train_dataset=train, eval_dataset=valid, processing_class=tokenizer, peft_config=adapter
)
trainer.train()
trainer.save_model(config.output_dir)
"""


def _of_targets(task: Chat) -> dict[str, Any]:
    loss = {} if task.loss_type == "nll" else {"loss_type": task.loss_type}
    return {"label_smoothing_factor": task.label_smoothing, **loss}


def _of_pairs(task: Preference) -> dict[str, Any]:
    losses = [LOSSES[task.loss], *(["sft"] if task.sft else [])]
    weights = {"loss_weights": [1.0, task.sft]} if task.sft else {}
    return {"beta": task.strength, "label_smoothing": task.label_smoothing, "loss_type": losses, **weights}


def _written(arguments: Mapping[str, Any]) -> str:
    return "".join(f"    {name}={value!r},\n" for name, value in arguments.items())
