"""One peer's trainer, held before each of its steps: PYTHON benchmarks/train_peer_side.py PEER FOLDER VARIANT

Run by the peer's own Python, without ptune. FOLDER is what `benchmarks.train.prepare` wrote; VARIANT is one of VARIANTS in
train_peers.py as JSON. Each peer is started through its own entry point, so that its own way to load a model,
its trainer and its patches are on; only `transformers.Trainer.train`, which all of them end in, is wrapped: it takes the
same initial adapter, waits for the line "next" on stdin before each step, and writes one JSON line on stdout after it
(seconds, loss, tokens, peak_bytes). Whatever the peer prints goes to stderr.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, TextIO

Variant = dict[str, Any]
Row = dict[str, list[int]]
BATCH, STEPS = 4, 16  # as in train.py, which test_train_peers.py holds
LR, RANK, ALPHA = 5e-4, 16, 32
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
MULTIPLE = 8  # LLaMA-Factory pads to it, but not the positions of packed rows


def examples(folder: Path) -> list[Row]:
    """Tokens and labels of each example."""
    rows = json.loads((folder / "examples.json").read_text(encoding="utf-8"))
    return [
        {
            "input_ids": row["ids"],
            "attention_mask": [1] * len(row["ids"]),
            "labels": [t if wanted else -100 for t, wanted in zip(row["ids"], row["targets"], strict=True)],
        }
        for row in rows
    ]


def packed(rows: list[Row]) -> list[Row]:
    """One row for each step: its examples one after another, numbered in the mask from 1, as both peers pack."""
    found = []
    for start in range(0, len(rows), BATCH):
        row: Row = {"input_ids": [], "attention_mask": [], "position_ids": [], "labels": []}
        for number, example in enumerate(rows[start : start + BATCH], start=1):
            length = len(example["input_ids"])
            row["input_ids"] += example["input_ids"]
            row["attention_mask"] += [number] * length
            row["position_ids"] += range(length)
            row["labels"] += example["labels"]
        more = -len(row["input_ids"]) % MULTIPLE
        for name, filler in (("input_ids", 0), ("attention_mask", 0), ("position_ids", 0), ("labels", -100)):
            row[name] += [filler] * more
        found.append(row)
    return found


def reset_peak() -> None:
    """Starts the count of this process's peak memory anew (Linux)."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_bytes() -> int:
    """Peak resident memory of this process since `reset_peak`."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


class Held:
    """The steps of a trainer, each let go by a line on stdin and told of by a line on stdout."""

    def __init__(self, tokens: list[int], told: TextIO) -> None:
        self._tokens, self._told, self._loss = tokens, told, 0.0
        self._step = 0

    def hold(self, trainer: Any) -> None:
        """Puts callbacks round the trainer's steps, and reads the loss where it is made."""
        from transformers import TrainerCallback

        plain, held = trainer.training_step, self

        def training_step(*arguments: Any, **named: Any) -> Any:
            loss = plain(*arguments, **named)
            self._loss = float(loss)
            return loss

        class Callback(TrainerCallback):
            def on_step_begin(self, *_: Any, **__: Any) -> None:
                held.begin()

            def on_step_end(self, *_: Any, **__: Any) -> None:
                held.end()

        trainer.training_step = training_step
        trainer.add_callback(Callback())

    def begin(self) -> None:
        """Waits to be let go. The process ends where nobody asks any more."""
        if sys.stdin.readline().strip() != "next":
            os._exit(0)
        reset_peak()
        self._started_s = time.perf_counter()

    def end(self) -> None:
        """Writes what the step took."""
        seconds = time.perf_counter() - self._started_s
        measured = {
            "seconds": seconds,
            "loss": self._loss,
            "tokens": self._tokens[self._step],
            "peak_bytes": peak_bytes(),
        }
        self._step += 1
        print(json.dumps(measured), file=self._told, flush=True)


def hold_training(folder: Path, held: Held, instead: list[Row] | None) -> None:
    """From now on a transformers trainer starts from the folder's adapter and takes its steps when it is asked.

    instead: rows in place of those that the trainer was given.
    """
    import torch
    from transformers import Trainer

    plain = Trainer.train

    def train(trainer: Any, *arguments: Any, **named: Any) -> Any:
        same_start(trainer.model, folder)
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
        print(f"{type(trainer).__name__} of {type(trainer).__module__}, {trainer.optimizer}", file=sys.stderr)
        held.hold(trainer)
        if instead:
            from datasets import Dataset

            trainer.train_dataset = Dataset.from_list(instead)
        return plain(trainer, *arguments, **named)

    Trainer.train = train


def same_start(model: Any, folder: Path) -> None:
    """Puts the initial adapter of all sides into the model."""
    import torch
    from safetensors.torch import load_file

    saved = load_file(folder / "adapter.safetensors")
    current = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if saved.keys() != current.keys():
        raise RuntimeError(f"it trains other weights: {sorted(saved.keys() ^ current.keys())[:4]}")
    with torch.no_grad():
        for name, parameter in current.items():
            parameter.copy_(saved[name])


def arguments(folder: Path, variant: Variant) -> dict[str, Any]:
    """What all three call the same, since it goes on to transformers."""
    return {
        "output_dir": str(folder / "out"),
        "max_steps": STEPS,
        "learning_rate": LR,
        "weight_decay": 0.0,
        "gradient_accumulation_steps": 1,
        "logging_steps": 1,
        "save_strategy": "no",
        "bf16": variant["dtype"] == "bfloat16",
        "dataloader_pin_memory": False,
    }


def unsloth(folder: Path, rows: list[Row], variant: Variant) -> None:
    """Its notebooks' way on its CPU backend, which takes no packing: FastLanguageModel and TRL's trainer as it patches it."""
    os.environ["UNSLOTH_CPU_COMPILE"] = str(int(variant["compiled"]))
    import torch
    from unsloth import FastLanguageModel  # isort: skip (it patches the packages below)
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    model, tokenizer = FastLanguageModel.from_pretrained(
        str(folder / "model"),
        dtype=getattr(torch, variant["dtype"]),
        load_in_4bit=False,
        use_gradient_checkpointing=False,
    )
    model = FastLanguageModel.get_peft_model(
        model, r=RANK, lora_alpha=ALPHA, target_modules=LINEAR, use_gradient_checkpointing=False
    )
    SFTTrainer(
        model=model,
        processing_class=tokenizer,
        train_dataset=Dataset.from_list(
            [{name: row[name] for name in ("input_ids", "labels")} for row in rows]
        ),
        args=SFTConfig(
            per_device_train_batch_size=BATCH,
            train_sampling_strategy="sequential",
            lr_scheduler_type="constant",
            dataset_kwargs={"skip_prepare_dataset": True},
            max_length=None,
            gradient_checkpointing=False,
            report_to=[],
            **arguments(folder, variant),
        ),
    ).train()


def llamafactory(folder: Path, rows: list[Row], variant: Variant) -> None:
    """`llamafactory-cli train` with `tokenized_path`; packed: as its neat_packing makes the rows."""
    from datasets import Dataset, DatasetDict
    from llamafactory.train.tuner import run_exp

    tokenized = folder / "tokenized"
    nothing = {"images": None, "videos": None, "audios": None}
    DatasetDict({"train": Dataset.from_list([{**row, **nothing} for row in rows])}).save_to_disk(tokenized)
    run_exp(
        {
            "model_name_or_path": str(folder / "model"),
            "stage": "sft",
            "do_train": True,
            "finetuning_type": "lora",
            "lora_rank": RANK,
            "lora_alpha": ALPHA,
            "lora_target": "all",
            "dataset": "none",  # asked for, and not read where the rows are tokenized
            "tokenized_path": str(tokenized),
            "template": "empty",
            "disable_shuffling": True,
            "neat_packing": variant["packed"],
            "flash_attn": "sdpa",
            "disable_gradient_checkpointing": True,
            "use_cpu": True,
            "per_device_train_batch_size": 1 if variant["packed"] else BATCH,
            "lr_scheduler_type": "constant",
            "optim": "adamw_torch_fused",
            "report_to": "none",
            **arguments(folder, variant),
        }
    )


def axolotl(folder: Path, rows: list[Row], variant: Variant) -> None:
    """`axolotl train` with a pretokenized data set, which is its `type:` without a name.

    packed: rows as its sample_packing makes them for SDPA, put into its trainer: it would choose itself what goes together.
    kernels: its LoRA kernels for attention, which are plain torch; the one for the MLP is Triton.
    use_cpu: transformers' argument, without which bfloat16 is refused, and which no field of its config sets.
    """
    if variant["use_cpu"]:
        use_cpu()
    from axolotl.cli.args import TrainerCliArgs
    from axolotl.cli.config import load_cfg
    from axolotl.cli.train import do_train

    data, config = folder / "rows.jsonl", folder / "axolotl.yaml"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    config.write_text(
        json.dumps(  # YAML, too
            {
                "base_model": str(folder / "model"),
                "datasets": [{"path": str(data), "ds_type": "json", "type": None}],
                "dataset_prepared_path": str(folder / "prepared"),
                "shuffle_merged_datasets": False,
                "curriculum_sampling": True,
                "sequence_len": 8192,
                "pad_to_sequence_len": False,
                "sample_packing": False,
                "val_set_size": 0,
                "adapter": "lora",
                "lora_r": RANK,
                "lora_alpha": ALPHA,
                "lora_dropout": 0.0,
                "lora_target_modules": LINEAR,
                "micro_batch_size": 1 if variant["packed"] else BATCH,
                "lr_scheduler": "constant",
                "optimizer": "adamw_torch_fused",
                "gradient_checkpointing": False,
                "attn_implementation": "sdpa",
                "lora_mlp_kernel": False,  # Triton
                "lora_qkv_kernel": variant["kernels"],
                "lora_o_kernel": variant["kernels"],
                "tf32": False,
                **arguments(folder, variant),
            }
        ),
        encoding="utf-8",
    )
    do_train(load_cfg(str(config)), TrainerCliArgs())


def use_cpu() -> None:
    """Assigns `use_cpu` to whatever arguments transformers is given from now on."""
    from transformers import TrainingArguments

    plain = TrainingArguments.__post_init__

    def post_init(given: Any) -> None:
        given.use_cpu = True
        plain(given)

    TrainingArguments.__post_init__ = post_init


def main() -> None:
    """Trains as it is told, one line for each step."""
    # This folder has a kernels.py and others that would stand before packages of that name.
    sys.path[:] = [
        entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).resolve().parent
    ]
    peer, name, said = sys.argv[1:]
    variant: Variant = {
        "compiled": False,
        "packed": False,
        "kernels": False,
        "use_cpu": False,
        **json.loads(said),
    }
    told = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    rows = examples(Path(name))
    steps = range(0, len(rows), BATCH)
    held = Held([sum(len(row["input_ids"]) for row in rows[at : at + BATCH]) for at in steps], told)
    instead = None
    if variant["packed"] and peer == "llamafactory":
        rows = packed(rows)
    elif variant["packed"]:
        # Its packing drops the mask, and has the attention read the positions.
        instead = [{key: row[key] for key in row if key != "attention_mask"} for row in packed(rows)]
    if peer == "unsloth":
        importlib.import_module(peer)  # it patches transformers, and is to come first
    folder = Path(
        tempfile.mkdtemp(prefix=peer, dir=name)
    )  # for what the peer writes; whoever made FOLDER removes it
    for shared in ("model", "adapter.safetensors"):
        (folder / shared).symlink_to(Path(name).resolve() / shared)
    hold_training(folder, held, instead)
    {"unsloth": unsloth, "llamafactory": llamafactory, "axolotl": axolotl}[peer](folder, rows, variant)


if __name__ == "__main__":
    main()
