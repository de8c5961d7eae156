"""What `ptune plan` predicts for a 7B on cards of 24, 12 and 8 GB, and on 16 GB of memory without one: python -m benchmarks.card

The model has the shape of Qwen2.5-7B-Instruct, as it was published; `plan` reads its config and no weight. Nothing here was
measured on a GPU. Writes results/card.json.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.sides import write

PACKAGES = ("ptune", "torch", "transformers", "peft", "bitsandbytes")
RECIPE = "chat_qlora_nf4"
CHECKPOINTED = "--train.gradient-checkpointing"
MACHINES = {
    "RTX 4090": ("--gpu", "RTX 4090"),
    "RTX 3060": ("--gpu", "RTX 3060"),
    "RTX 4060": ("--gpu", "RTX 4060"),
    "no card": ("--plan.memory", "16GB", "--backbone.dtype", "bfloat16"),  # "auto" would measure this machine
}
SHAPE = {
    "vocab_size": 152064, "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
    "num_attention_heads": 28, "num_key_value_heads": 4, "max_position_embeddings": 32768, "rope_theta": 1e6,
    "rms_norm_eps": 1e-6, "tie_word_embeddings": False, "architectures": ["Qwen2ForCausalLM"], "dtype": "bfloat16",
}  # fmt: skip


def main() -> int:
    """0 where the file is written."""
    from transformers import Qwen2Config

    with tempfile.TemporaryDirectory() as folder:
        Qwen2Config(**SHAPE).save_pretrained(folder)
        model = Path(folder)
        rows = {name: on(machine, model, CHECKPOINTED) for name, machine in MACHINES.items()}
        rows["RTX 4090, no checkpointing"] = on(MACHINES["RTX 4090"], model)
    print(json.dumps(rows, indent=1))
    about = {"command": "python -m benchmarks.card", "recipe": RECIPE, "machines": MACHINES, "shape": SHAPE}
    print(write("card", {**about, "rows": rows}, PACKAGES))
    return 0


def on(machine: tuple[str, ...], model: Path, *options: str) -> dict[str, Any]:
    """What a training needs there, in GB, what is proposed where that is too much, and what each command takes with it."""
    found = planned(machine, model, *options)
    changes = [word for change in found["changes"] or [] for word in change.split()]
    fitting = planned(machine, model, *options, *changes) if changes else found
    return {
        "options": [*options],
        "needed_gb": found["needed_bytes"] / 1e9,
        "there_gb": found["memory_bytes"] / 1e9,
        "fits": found["fits"],
        "changes": found["changes"] or [],
        "needed_with_changes_gb": fitting["needed_bytes"] / 1e9,
        "commands": {
            need["command"]: {
                "memory_gb": need["main_memory"] / 1e9, "card_gb": need["card"] / 1e9, "disk_gb": need["disk"] / 1e9
            }
            for need in found["commands"]
        },
    }  # fmt: skip


def planned(machine: tuple[str, ...], model: Path, *options: str) -> dict[str, Any]:
    """The document of `ptune plan`."""
    command = [sys.executable, "-m", "ptune", "plan", RECIPE, "--backbone.model", str(model), "--json"]
    done = subprocess.run([*command, *machine, *options], capture_output=True, text=True)
    if done.returncode > 1:
        raise SystemExit(done.stderr)
    document: dict[str, Any] = json.loads(done.stdout)
    return document


if __name__ == "__main__":
    sys.exit(main())
