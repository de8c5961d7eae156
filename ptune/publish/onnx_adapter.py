"""A `.onnx_adapter` as a PEFT folder, so that everything which reads adapters reads it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from ptune.engine.adapters.peft_config import PEFT_PREFIX
from ptune.engine.adapters.source import CONFIG, WEIGHTS
from ptune.errors import AdapterError, FormatError
from ptune.formats.onnx_adapter import SUFFIX, read_onnx_adapter
from ptune.formats.whole_write import write_json


@contextmanager
def as_peft_folder(adapter: Path) -> Iterator[Path]:
    """Yields a folder as it is, and of a `.onnx_adapter` one that has its name for as long as the block lasts.

    Raises: AdapterError for a file that holds anything else than LoRA of linear layers.
    """
    if adapter.suffix != SUFFIX:
        yield adapter
        return
    with TemporaryDirectory(prefix="ptune-") as place:
        folder = Path(place) / adapter.stem
        write_peft_folder(adapter, folder)
        yield folder


def write_peft_folder(file: Path, folder: Path) -> None:
    """Writes adapter_config.json and adapter_model.safetensors: the same factors, transposed; their scale, in B already, is 1.

    Raises: AdapterError.
    """
    try:
        pairs = read_onnx_adapter(file)
    except FormatError as error:
        raise AdapterError(str(error)) from None
    folder.mkdir(parents=True)
    tensors = {
        f"{PEFT_PREFIX}{layer}.lora_{side}.weight": np.ascontiguousarray(factor.T)
        for layer, pair in pairs.items()
        for side, factor in zip("AB", pair, strict=True)
    }
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    write_json(folder / CONFIG, _config({layer: a.shape[1] for layer, (a, _) in pairs.items()}))


def _config(ranks: dict[str, int]) -> dict[str, Any]:
    """The most frequent rank is `r`; patterns name the layers of others by their whole names."""
    common = Counter(ranks.values()).most_common(1)[0][0]
    others = {f"^{layer}": rank for layer, rank in ranks.items() if rank != common}
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": None,
        "bias": "none",
        "inference_mode": True,
        "r": common,
        "lora_alpha": common,
        "rank_pattern": others,
        "alpha_pattern": others,
        "target_modules": sorted(ranks),
    }
