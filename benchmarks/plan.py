"""How close `ptune plan` comes: predicted before any step, measured by training, on a fixed grid of 96 settings.

    python -m benchmarks.plan [--only llama] [--work FOLDER]      -> benchmarks/results/plan.json, of one or all models

3 models of different shape with random weights x rank 8, 64 x examples of 128, 384 tokens x 1, 3 examples a step x
checkpointing off, on x fp32, nf4. Every setting is trained by `ptune.fine_tune.train` in a process of its own: load,
3 steps, validation, checkpoints, save and reload. Measured is the most that memory holds meanwhile, less what it holds after imports,
before the model loads: in fp32 of all pages (VmHWM), since weights that nobody converts are views of their file; in nf4 of the
process's own (RssAnon, looked at every 2 ms), since the file that is quantised is mapped, and the system takes its pages back.
All predictions are made before, in another process, which reads no weights.

One thread, and no more than one process at a time: threads change the peak by little, but where others use the
cores too, two threads that wait for each other take ten times as long. What was measured is kept in FOLDER, so an
interrupted run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

from benchmarks.goals import host
from benchmarks.sides import peak_bytes, write

PACKAGES = ("ptune", "torch", "transformers", "peft", "bitsandbytes", "safetensors")
THREADS = 1
CONTEXT = 2048
STEPS = 3
EVERY_S = 0.002  # between two looks at memory

SPECIAL = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    # grouped queries, gated MLP, its own head
    "llama": ("LlamaConfig", {
        "vocab_size": 32768, "hidden_size": 640, "intermediate_size": 1792, "num_hidden_layers": 10,
        "num_attention_heads": 10, "num_key_value_heads": 5, "tie_word_embeddings": False,
    }),
    # normalised queries and keys, a large vocabulary whose embedding is also the head
    "qwen3": ("Qwen3Config", {
        "vocab_size": 65536, "hidden_size": 768, "intermediate_size": 2304, "num_hidden_layers": 10,
        "num_attention_heads": 12, "num_key_value_heads": 6, "head_dim": 64, "tie_word_embeddings": True,
    }),
    # LayerNorm, biases, one matrix for queries, keys and values, GELU, attention beside the MLP
    "neox": ("GPTNeoXConfig", {
        "vocab_size": 50304, "hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 10,
        "num_attention_heads": 8,
    }),
}  # fmt: skip


class Setting(NamedTuple):
    """One cell of the grid."""

    model: str
    rank: int
    length: int
    batch: int
    checkpointing: bool
    base: str

    @property
    def name(self) -> str:
        ckpt = "checkpointing" if self.checkpointing else "plain"
        return f"{self.model}-r{self.rank}-{self.length}x{self.batch}-{ckpt}-{self.base}"


GRID = [
    Setting(*cell)
    for cell in itertools.product(MODELS, (8, 64), (128, 384), (1, 3), (False, True), ("fp32", "nf4"))
]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help="part of a setting's name, e.g. llama-r8")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "ptune-benchmark-plan")
    parser.add_argument("--child", choices=("build", "predict", "measure"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    chosen = [setting for setting in GRID if options.only in setting.name]
    if options.child is not None:
        {"build": build, "predict": predict, "measure": measure}[options.child](options.work, chosen)
        return 0
    options.work.mkdir(parents=True, exist_ok=True)
    _child("build", options)
    _child("predict", options)
    predicted = json.loads((options.work / "predicted.json").read_text())
    for number, setting in enumerate(chosen, start=1):
        kept = options.work / f"{setting.name}.measured.json"
        if not kept.is_file():
            _child("measure", options, setting.name)
        net = json.loads(kept.read_text())["net"]
        error = predicted[setting.name] / net - 1
        print(f"{number}/{len(chosen)} {setting.name}: {predicted[setting.name] / 2**20:.0f} predicted, "
              f"{net / 2**20:.0f} MiB measured, {error:+.1%}", flush=True)  # fmt: skip
    report(chosen, predicted, options)
    return 0


def _child(task: str, options: argparse.Namespace, only: str | None = None) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": str(THREADS), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "benchmarks.plan", "--child", task, "--work", str(options.work)]
    done = subprocess.run(
        [*command, "--only", options.only if only is None else only],
        env=environment, capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"{task} {only or ''} failed:\n{done.stderr[-3000:]}")


def build(work: Path, chosen: Sequence[Setting]) -> None:
    """The models, with random weights and a tokenizer."""
    import torch
    import transformers

    for name in {setting.model for setting in chosen}:
        folder = work / name
        if (folder / "tokenizer.json").is_file():
            continue
        kind, values = MODELS[name]
        config = getattr(transformers, kind)(**SPECIAL, **{"max_position_embeddings": CONTEXT} | values)
        torch.manual_seed(0)
        transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
        tokenizer(folder)


def tokenizer(folder: Path, context: int = CONTEXT) -> None:
    """Writes a tokenizer of one token a word."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    special = ["<pad>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]
    words = [*special, "user", "assistant", "w1", "w2"]
    vocabulary = {word: index for index, word in enumerate(words)}
    plain = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=plain, pad_token="<pad>", bos_token="<s>", eos_token="</s>",
        additional_special_tokens=special[3:], model_max_length=context,
    )  # fmt: skip
    fast.chat_template = (
        "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    fast.save_pretrained(folder)


def recipe_of(setting: Setting, work: Path) -> Any:
    from ptune.config.chat import Chat
    from ptune.config.recipe import Backbone, Data, Recipe, Train
    from ptune.methods.lora import Lora

    return Recipe(
        name=setting.name,
        task=Chat(max_length=CONTEXT),
        backbone=Backbone(
            model=str(work / setting.model),
            quantize="nf4" if setting.base == "nf4" else "none",
            dtype="float32",
        ),
        method=Lora(r=setting.rank),
        data=Data(files=(work / f"{setting.name}.train.jsonl",), validation=(work / f"{setting.name}.val.jsonl",)),
        train=Train(
            max_steps=STEPS, batch_size=setting.batch, gradient_checkpointing=setting.checkpointing,
            validate_every=STEPS,
        ),
    )  # fmt: skip


def predict(work: Path, chosen: Sequence[Setting]) -> None:
    from ptune.planning import predict as plan

    found = {}
    for setting in chosen:
        lengths = [setting.length] * max(2, setting.batch)
        found[setting.name] = plan(recipe_of(setting, work), lengths, validation=[setting.length]).peak_bytes
    (work / "predicted.json").write_text(json.dumps(found))


def measure(work: Path, chosen: Sequence[Setting]) -> None:
    """Trains one setting; everything that training imports is imported before the model loads."""
    from ptune.fine_tune import train

    (setting,) = chosen
    recipe = recipe_of(setting, work)
    write_examples(recipe, setting)
    with tempfile.TemporaryDirectory(dir=work) as folder, Looking() as own:
        baseline = peak_bytes()
        train(recipe, Path(folder) / "run")
        peak = peak_bytes()
    kept = {
        "baseline": baseline,
        "peak": peak,
        "net": peak - baseline if setting.base == "fp32" else own.gained,
    }
    (work / f"{setting.name}.measured.json").write_text(json.dumps(kept))


def write_examples(recipe: Any, setting: Setting) -> None:
    """The files that `recipe_of` names."""
    train_rows = range(max(2, setting.batch))
    for path, rows in ((recipe.data.files[0], train_rows), (recipe.data.validation[0], [128])):
        lines = [json.dumps({"messages": _messages(setting.length, number)}) + "\n" for number in rows]
        path.write_text("".join(lines))


def _messages(length: int, number: int) -> list[dict[str, str]]:
    """A question and an answer of `length` tokens together, template included; each number another text."""
    words = length - 6  # two times <|im_start|>, role, <|im_end|>
    question, answer = words // 2, words - words // 2
    changed = [f"w{1 + (number >> bit) % 2}" for bit in range(8)]
    return [
        {"role": "user", "content": " ".join([*changed, *["w1"] * (question - len(changed))])},
        {"role": "assistant", "content": " ".join(["w2"] * answer)},
    ]


class Looking:
    """with Looking() as own: …; own.gained: the most bytes of its own that this process has held more than at the beginning."""

    def __enter__(self) -> Self:
        self.gained, self._before, self._done = 0, own_bytes(), threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._done.wait(EVERY_S):
            self.gained = max(self.gained, own_bytes() - self._before)


def own_bytes() -> int:
    """What this process has written itself (RssAnon)."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) * 1024


def report(chosen: Sequence[Setting], predicted: dict[str, int], options: argparse.Namespace) -> None:
    rows = []
    for setting in chosen:
        net = json.loads((options.work / f"{setting.name}.measured.json").read_text())["net"]
        error = predicted[setting.name] / net - 1
        rows.append(
            {**setting._asdict(), "predicted": predicted[setting.name], "measured": net, "error": error}
        )
    errors = [abs(row["error"]) for row in rows]
    result = {
        "command": f"python -m benchmarks.plan{options.only and f' --only {options.only}'}",
        "median_error": statistics.median(errors),
        "worst_error": max(errors),
        "settings": rows,
        "threads": THREADS,
        "host": {**host(), "libc": os.confstr("CS_GNU_LIBC_VERSION")},
    }
    print(
        f"{len(rows)} settings: median error {result['median_error']:.1%}, worst {result['worst_error']:.1%}"
    )
    if len(chosen) == len([one for one in GRID if one.model in {setting.model for setting in chosen}]):
        write("plan", result, PACKAGES)


if __name__ == "__main__":
    raise SystemExit(main())
