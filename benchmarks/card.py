"""What `ptune plan` predicts for a 7B on a card of 24 GB: python -m benchmarks.card      (a minute)

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
RECIPE, CARD = "chat_qlora_nf4", "RTX 4090"
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
        plain = planned(Path(folder))
        rows = {
            "as it is": plain,
            "as proposed": planned(Path(folder), *plain["changes"]),
            "checkpointing": planned(Path(folder), "--train.gradient-checkpointing"),
        }
    print(json.dumps(rows, indent=1))
    about = {"command": "python -m benchmarks.card", "recipe": RECIPE, "card": CARD, "shape": SHAPE}
    print(write("card", {**about, "rows": rows}, PACKAGES))
    return 0


def planned(model: Path, *options: str) -> dict[str, Any]:
    """GB that a training needs and that the card has, and what is proposed where it has not enough."""
    command = [sys.executable, "-m", "ptune", "plan", RECIPE, "--backbone.model", str(model), "--gpu", CARD]
    words = [word for option in options for word in option.split()]
    done = subprocess.run([*command, *words, "--json"], capture_output=True, text=True)
    if done.returncode > 1:
        raise SystemExit(done.stderr)
    found = json.loads(done.stdout)
    needed, there = found["needed_bytes"] / 1e9, found["memory_bytes"] / 1e9
    return {"needed_gb": needed, "card_gb": there, "fits": found["fits"], "changes": found["changes"] or []}


if __name__ == "__main__":
    sys.exit(main())
