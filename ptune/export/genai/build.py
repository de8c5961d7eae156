"""onnxruntime-genai's own model builder, in a process of its own: a transformers folder → a graph and its settings.

The builder writes LoRA into a graph as constants, where it is given an adapter. It is given one of rank 1 on every linear layer,
whose factors then become inputs (ptune/export/genai/places.py).
"""

from __future__ import annotations

import importlib.util
import subprocess
from collections.abc import Collection
from pathlib import Path
from tempfile import TemporaryDirectory

from peft import LoraConfig, get_peft_model
from transformers import PreTrainedModel

from ptune.backbone.tokenizer import save_folder
from ptune.child import module_command
from ptune.codecs.chat import ChatCodec
from ptune.errors import BackboneError, UsageError
from ptune.formats.genai_export import SETTINGS
from ptune.formats.whole_write import read_json, write_json

PACKAGE = "onnxruntime_genai"
QUIET = 3  # onnxruntime warns of every input that has a default


def require_genai() -> None:
    """Raises: UsageError that says what to install."""
    if importlib.util.find_spec(PACKAGE) is None:
        raise UsageError(
            "--genai proves what it writes in onnxruntime-genai itself, which is not installed: pip install '.[genai]'"
        )


def build(model: PreTrainedModel, codec: ChatCodec, out: Path, *, places: bool) -> None:
    """Writes the folder `out` in float32. places: whether linear layers take adapters.

    Raises: BackboneError with what the builder said, for a model that it cannot build.
    """
    with TemporaryDirectory(dir=out.parent, prefix=f"{out.name}.") as rest:
        plain, adapter = Path(rest) / "model", Path(rest) / "adapter"
        save_folder(model, codec, plain)
        options = ["-i", plain, "-o", out, "-p", "fp32", "-e", "cpu", "-c", Path(rest) / "cache"]
        if places:
            _save_adapter(model, adapter)
            options += ["--extra_options", f"adapter_path={adapter}"]
        command = module_command(f"{PACKAGE}.models.builder", *map(str, options))
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        kind = model.config.model_type
        said = (done.stderr.strip() or done.stdout.strip() or "nothing").splitlines()[-1]
        raise BackboneError(
            f"onnxruntime-genai's model builder cannot build a {kind}, it says: {said.replace(str(plain), kind)}"
        )
    _settle(out / SETTINGS, codec.eos_ids)


def _save_adapter(model: PreTrainedModel, folder: Path) -> None:
    wrapped = get_peft_model(model, LoraConfig(r=1, target_modules="all-linear", task_type="CAUSAL_LM"))
    try:
        wrapped.save_pretrained(folder)
    finally:
        wrapped.unload()


def _settle(path: Path, ends: Collection[int]) -> None:
    """Answers end where the codec's do. The builder takes one end from a config, and a chat template's is often another."""
    settings = read_json(path)
    if ends:
        settings["model"]["eos_token_id"] = sorted(ends)
    settings["model"]["decoder"]["session_options"]["log_severity_level"] = QUIET
    write_json(path, settings)
