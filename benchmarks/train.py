"""Training speed and memory against TRL's SFTTrainer: python -m benchmarks.train   (10 minutes on 2 cores; needs trl)

--rounds 1 --only ptune tries whether it works, without TRL and without a result. --name N writes results/N.json, so that two
releases of TRL stand side by side.

SmolLM2-135M, LoRA r16 on all linear layers, four chat examples a step (benchmarks/data), loss on the answers. All sides
see the same tokens, targets, initial adapter, optimiser and learning rate, in the same order, on the same number of
threads, and take their steps in turns; the losses of the float32 sides must be equal within 1e-4 in every step.

trl default     what SFTConfig says if one says nothing: padding, bfloat16 autocast, gradient checkpointing
trl fp32, bf16  padding_free and no checkpointing, in float32 and in bfloat16 autocast: the faster one is TRL at its best
ptune           as it comes: in float32, so that `vs_trl_fp32` compares like with like
ptune bf16      --backbone.dtype bfloat16; the faster one of the two is ptune at its best
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.sides import Measured, Ratio, Side, alternate, interval, peak_bytes, ratio, reset_peak, write

if TYPE_CHECKING:
    from ptune.training.job import Job

DATA = Path(__file__).parent / "data" / "chat.jsonl"
BATCH, STEPS, THREADS = 4, 16, 2  # the first step warms up
LR, RANK, ALPHA = 5e-4, 16, 32
PACKAGES = ("ptune", "torch", "transformers", "peft", "accelerate", "trl")


def prepare(folder: Path) -> None:
    """Writes model/ (plain float32 transformers folder), examples.json (tokens and targets), adapter.safetensors."""
    import torch
    from safetensors.torch import save_file

    from ptune.backbone.load import load
    from ptune.backbone.tokenizer import transformers_tokenizer
    from ptune.config.recipe import Backbone
    from ptune.methods.lora import Lora
    from ptune.training.checkpoint import trained

    loaded = load(Backbone(dtype="float32"), device="cpu")
    loaded.model.save_pretrained(folder / "model")
    transformers_tokenizer(loaded.codec).save_pretrained(folder / "model")
    lines = DATA.read_text(encoding="utf-8").splitlines()[: BATCH * STEPS]
    examples = [loaded.codec.encode_example(json.loads(line)["messages"]) for line in lines]
    rows = [{"ids": example.ids, "targets": example.targets} for example in examples]
    (folder / "examples.json").write_text(json.dumps(rows), encoding="utf-8")
    torch.manual_seed(0)
    save_file(dict(trained(Lora(r=RANK, alpha=ALPHA).apply(loaded.model))), folder / "adapter.safetensors")


def ptune(folder: Path, checkpointing: bool, dtype: str) -> Iterator[Measured]:
    """ptune's own loop, one optimiser step at a time."""
    import torch
    from accelerate import Accelerator

    from ptune.backbone.load import load
    from ptune.codecs.chat import Example
    from ptune.config.recipe import Backbone, Recipe, Train
    from ptune.methods.lora import Lora
    from ptune.training.checkpoint import Checkpoints
    from ptune.training.job import Job
    from ptune.training.journal.metrics_log import Journal
    from ptune.training.loss.head import plain_head
    from ptune.training.loss.next_token import NextTokenObjective
    from ptune.training.preparation import applied, optimizer_for
    from ptune.training.rows.segments import packing

    torch.set_num_threads(THREADS)
    options = Train(
        lr=LR, batch_size=BATCH, schedule="constant", warmup=0.0, gradient_checkpointing=checkpointing
    )
    accelerator = Accelerator(cpu=True)
    recipe = Recipe(
        backbone=Backbone.model_validate({"model": str(folder / "model"), "dtype": dtype}),
        method=Lora(r=RANK, alpha=ALPHA),
        train=options,
    )
    backbone = load(recipe.backbone, device="cpu").model
    model = applied(recipe, backbone)
    _same_start(model, folder)
    examples = [
        Example(tuple(row["ids"]), tuple(row["targets"]))
        for row in json.loads((folder / "examples.json").read_text(encoding="utf-8"))
    ]
    name = f"metrics-{checkpointing}-{dtype}.jsonl"
    with packing(backbone) as packed:
        job = Job(
            train=options,
            accelerator=accelerator,
            model=model,
            optimizer=optimizer_for(model, options),
            objective=NextTokenObjective(
                packed, options.micro_batch_tokens, accelerator.device, plain_head(backbone)
            ),
            examples=examples,
            validation=[],
            journal=Journal(folder / name, accelerator),
            checkpoints=Checkpoints(folder / "checkpoints", keep=1),
        )
        yield from _steps(job)


def _steps(job: Job) -> Iterator[Measured]:
    """Each step of a training, measured."""
    from ptune.training.loop import optimizer_step

    for step in range(STEPS):
        batch = job.examples[step * BATCH : (step + 1) * BATCH]
        reset_peak()
        started_s = time.perf_counter()
        loss = optimizer_step(job, batch, step, STEPS)
        seconds = time.perf_counter() - started_s
        yield {"seconds": seconds, "loss": loss, "tokens": sum(map(len, batch)), "peak_bytes": peak_bytes()}


def trl(folder: Path, options: dict[str, Any]) -> Iterator[Measured]:
    """TRL's trainer, held before each of its steps until the next one is asked for."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    torch.set_num_threads(THREADS)
    rows = json.loads((folder / "examples.json").read_text(encoding="utf-8"))
    labels = [
        [token if wanted else -100 for token, wanted in zip(row["ids"], row["targets"], strict=True)]
        for row in rows
    ]
    config = SFTConfig(
        output_dir=str(folder / "trl"),
        per_device_train_batch_size=BATCH,
        max_steps=STEPS,
        learning_rate=LR,
        lr_scheduler_type="constant",
        train_sampling_strategy="sequential",
        dataset_kwargs={"skip_prepare_dataset": True},
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        dataloader_pin_memory=False,
        disable_tqdm=True,
        **options,
    )
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32),
        processing_class=AutoTokenizer.from_pretrained(folder / "model"),
        args=config,
        train_dataset=Dataset.from_dict({"input_ids": [row["ids"] for row in rows], "labels": labels}),
        peft_config=LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    _same_start(trainer.model, folder)
    steps = _Steps(trainer)

    class Held(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            steps.begin()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            steps.end()

    trainer.add_callback(Held())
    yield from steps.taken(rows)


class _Steps:
    """Turns the trainer's loop inside out: it runs in a thread of its own that is let go step by step."""

    def __init__(self, trainer: Any) -> None:
        import threading

        self._trainer, self._loss = trainer, 0.0
        self._go, self._done = threading.Semaphore(0), threading.Semaphore(0)
        plain = trainer.training_step

        def training_step(*arguments: Any, **named: Any) -> Any:
            loss = plain(*arguments, **named)
            self._loss = float(loss)
            return loss

        trainer.training_step = training_step
        self._thread = threading.Thread(target=self._train, daemon=True)

    def _train(self) -> None:
        import torch

        torch.set_num_threads(THREADS)  # a setting of each thread
        self._trainer.train()

    def begin(self) -> None:
        self._go.acquire()
        reset_peak()
        self._started_s = time.perf_counter()

    def end(self) -> None:
        self.seconds, self.peak = time.perf_counter() - self._started_s, peak_bytes()
        self._done.release()

    def taken(self, rows: list[dict[str, Any]]) -> Iterator[Measured]:
        self._thread.start()
        for step in range(STEPS):
            self._go.release()
            self._done.acquire()
            tokens = sum(len(row["ids"]) for row in rows[step * BATCH : (step + 1) * BATCH])
            yield {"seconds": self.seconds, "loss": self._loss, "tokens": tokens, "peak_bytes": self.peak}


def _same_start(model: Any, folder: Path) -> None:
    """Puts the same initial adapter into every side."""
    import torch
    from safetensors.torch import load_file

    saved = load_file(folder / "adapter.safetensors")
    current = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert saved.keys() == current.keys(), "the sides train different weights"
    with torch.no_grad():
        for name, parameter in current.items():
            parameter.copy_(saved[name])


def main() -> int:
    """Prints the table, writes results/train.json; 1 where a goal is missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--rounds", type=int, default=STEPS - 1, help=f"steps that are measured, below {STEPS}"
    )
    parser.add_argument("--only", default="", help="sides whose names contain this; then nothing is judged")
    parser.add_argument("--name", default="train", help="of the file in results/")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder)
        best = {"padding_free": True, "max_length": None, "gradient_checkpointing": False}
        sides: dict[str, Side] = {
            "ptune": functools.partial(ptune, folder, False, "float32"),
            "ptune bf16": functools.partial(ptune, folder, False, "bfloat16"),
            "ptune, checkpointing": functools.partial(ptune, folder, True, "float32"),
            "ptune bf16, checkpointing": functools.partial(ptune, folder, True, "bfloat16"),
            "trl default": functools.partial(trl, folder, {}),
            "trl fp32": functools.partial(trl, folder, {**best, "bf16": False}),
            "trl bf16": functools.partial(trl, folder, {**best, "bf16": True}),
        }
        sides = {name: side for name, side in sides.items() if chosen.only in name}
        found = alternate(sides, chosen.rounds, threads=THREADS)
    table(found)
    return 0 if chosen.only else report(found, chosen.name)


def table(found: dict[str, list[Measured]]) -> None:
    """Speed and peak of each side."""
    print(f"\n{'side':<22} {'tokens/s':>9} {'peak MiB':>9}")
    for name, steps in found.items():
        speed = statistics.median(step["tokens"] / step["seconds"] for step in steps)
        peak = max(step["peak_bytes"] for step in steps) / 2**20
        print(f"{name:<22} {speed:>9.0f} {peak:>9.0f}")


def report(found: dict[str, list[Measured]], kept_as: str) -> int:
    """The goals, each met where the worse end of its interval meets it."""
    seconds = {name: [step["seconds"] for step in steps] for name, steps in found.items()}
    fastest = min(("trl fp32", "trl bf16"), key=lambda name: statistics.median(seconds[name]))
    ours = min(("ptune", "ptune bf16"), key=lambda name: statistics.median(seconds[name]))
    exact = ("trl fp32", "ptune, checkpointing")
    drift = max(furthest(found["ptune"], found[name]) for name in exact)
    rounding = furthest(found["ptune"], found["ptune bf16"])
    rows: dict[str, tuple[Ratio, float | None, bool]] = {  # value, goal, whether more is better
        "tokens_per_s_vs_trl_default": (ratio(seconds["trl default"], seconds["ptune"]), 2.2, True),
        "tokens_per_s_vs_trl_best": (ratio(seconds[fastest], seconds[ours]), 1.9, True),
        "tokens_per_s_vs_trl_fp32": (ratio(seconds["trl fp32"], seconds["ptune"]), 1.4, True),
        "bf16_to_fp32": (ratio(seconds["ptune"], seconds["ptune bf16"]), None, True),
        "time_of_checkpointing": (ratio(seconds["ptune, checkpointing"], seconds["ptune"]), None, False),
        "peak_memory_vs_trl_best": (peaks(found["ptune"], found[fastest]), 0.65, False),
        "peak_memory_checkpointed_vs_trl_best": (
            peaks(found["ptune, checkpointing"], found[fastest]),
            0.3,
            False,
        ),
        "peak_memory_bf16_vs_trl_best": (peaks(found["ptune bf16"], found[fastest]), None, False),
        "peak_memory_bf16_checkpointed_vs_trl_best": (
            peaks(found["ptune bf16, checkpointing"], found[fastest]),
            0.3,
            False,
        ),
    }
    met = {
        name: None if goal is None else value.low >= goal if more else value.high <= goal
        for name, (value, goal, more) in rows.items()
    }
    print(f"TRL at its best here: {fastest}. Largest difference of losses in float32: {drift:.1e}")
    print(f"ptune at its best here: {ours}. Largest difference of its losses in bfloat16: {rounding:.1e}")
    for name, (value, goal, more) in rows.items():
        verdict = f"   goal {'≥' if more else '≤'} {goal}: {'met' if met[name] else 'MISSED'}"
        print(f"{name:<38} {value}{'' if goal is None else verdict}")
    document = {
        "command": f"python -m benchmarks.train{'' if kept_as == 'train' else f' --name {kept_as}'}",
        "threads": THREADS,
        "trl_best": fastest,
        "ptune_best": ours,
        "largest_loss_difference": drift,
        "largest_loss_difference_of_bfloat16": rounding,
        "rows": {
            name: {**asdict(value), "goal": goal, "met": met[name]} for name, (value, goal, _) in rows.items()
        },
        "steps": found,
    }
    print(write(kept_as, document, PACKAGES))
    return 0 if False not in met.values() and drift <= 1e-4 else 1


def furthest(here: list[Measured], there: list[Measured]) -> float:
    """The largest difference of two sides' losses in a step."""
    return max(abs(a["loss"] - b["loss"]) for a, b in zip(here, there, strict=True))


def peaks(above: list[Measured], below: list[Measured]) -> Ratio:
    """Ratio of the peaks of the whole runs; steps are what is resampled."""
    pairs = [(a["peak_bytes"], b["peak_bytes"]) for a, b in zip(above, below, strict=True)]

    def of(some: list[tuple[int, int]]) -> float:
        return max(a for a, _ in some) / max(b for _, b in some)

    return Ratio(of(pairs), *interval(pairs, of), len(pairs))


if __name__ == "__main__":
    sys.exit(main())
