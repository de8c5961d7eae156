"""Keeps the packed weights of large models on disk, since quantising them takes minutes: 29 million weights a second and core.

A model has a folder, named by a hash of its files and of everything else that its packed weights depend on:
$PTUNE_CACHE/weights/KEY (`ptune.formats.cache`). It holds safetensors as transformers reads them, and the hash by which a
damaged one is noticed. Loaded weights are views of these files: the system takes their memory back when it needs it.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from bitsandbytes.nn import Linear4bit, Linear8bitLt
from safetensors.torch import save_file
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D
from transformers.utils.hub import cached_file

from ptune.backbone.identity import weights_hash
from ptune.backbone.locate import Source
from ptune.backbone.packed_folder import settings_of
from ptune.backbone.quantize import Quantization
from ptune.config.recipe import Backbone
from ptune.engine.memory import collect
from ptune.errors import FormatError, PtuneError, in_one_line
from ptune.formats.cache import code_hash, key_of, place_for
from ptune.formats.whole_write import read_json, whole_folder, write_json
from ptune.progress import say

WORTH_BYTES = 512 << 20  # weights in smaller files are quantised each time, in seconds
KEPT = 2  # models
_RECORD = "packed.json"
_SHARD_BYTES = 256 << 20
_WEIGHTS = (".safetensors", ".bin", ".gguf")

Read = Callable[[str, dict[str, Any]], PreTrainedModel]


def packed(
    spec: Backbone,
    kind: Quantization,
    source: Source,
    config: PretrainedConfig,
    dtype: torch.dtype,
    read: Read,
    quantized: Callable[[], PreTrainedModel],
    streamed: bool = False,
) -> tuple[PreTrainedModel, str]:
    """The quantised model of `spec` and the hash of its weights, from the cache if it is there.

    read: reads a model from a folder of packed weights, with these settings (`settings_of`).
    quantized: reads and quantises the published weights. streamed: into a file of its own, where they stay.
    """
    files = _files(spec, source)
    weights_bytes = sum(path.stat().st_size for path in files if path.suffix in _WEIGHTS)
    if not spec.cache or weights_bytes < WORTH_BYTES:
        return _hashed(quantized())
    with place_for(_key(spec, source, config, dtype, files), "weights", KEPT) as place:
        found = None if place is None else _found(place, kind, read)
        if found is not None:
            return found
        model, sha256 = _hashed(quantized())
        if place is None or not _keep(model, sha256, place) or streamed:
            return model, sha256
        del model  # from here on its weights are views of the kept files, as in later commands
        collect()
        _forget_peak()
        return _found(place, kind, read) or _hashed(quantized())


def _forget_peak() -> None:
    """Begins this process's peak of memory anew, where the system lets one (Linux).

    Quantising had the published files mapped, whose pages the system takes back when it needs them. A plan does not count these, and
    the peak is shown beside it.
    """
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _hashed(model: PreTrainedModel) -> tuple[PreTrainedModel, str]:
    return model, weights_hash(model)


def _found(place: Path, kind: Quantization, read: Read) -> tuple[PreTrainedModel, str] | None:
    """What the cache holds, if it is whole."""
    if not place.is_dir():
        return None
    try:
        record = read_json(place / _RECORD)
        say(f"taking packed weights from {place}")
        model = read(str(place), settings_of(kind, record["kept"]))
        sha256 = weights_hash(model)
        if sha256 != record["hash"]:
            raise FormatError("its weights have another hash")
    except Exception as error:  # damage can end in any of the readers' own exceptions
        reason = in_one_line(error)
        say(f"{place} cannot be used and is made anew: {reason}")
        return None
    with contextlib.suppress(OSError):
        place.touch()  # marks it as used now
    return model, sha256


def _keep(model: PreTrainedModel, sha256: str, place: Path) -> bool:
    """Writes a model to the cache; a full disk is no error. Returns whether it is there."""
    linears = (nn.Linear, Conv1D)
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, linears)}
    kept = [name for name, layer in layers.items() if not isinstance(layer, Linear4bit | Linear8bitLt)]
    try:
        with whole_folder(place) as part:
            index: dict[str, str] = {}
            for number, shard in enumerate(_shards(model)):
                file = f"model-{number:05d}.safetensors"
                save_file(shard, part / file, metadata={"format": "pt"})
                index |= dict.fromkeys(shard, file)
            described = {"metadata": {}, "weight_map": index}
            (part / "model.safetensors.index.json").write_text(json.dumps(described), encoding="utf-8")
            if getattr(model, "generation_config", None) is not None:
                model.generation_config.save_pretrained(part)
            write_json(part / _RECORD, {"hash": sha256, "kept": kept})
            size = sum(file.stat().st_size for file in part.iterdir())
    except PtuneError as error:
        say(f"the packed weights are not kept: {error}")
        return False
    say(
        f"keeping packed weights for the next command: {size / 1e9:.1f} GB in {place} (--backbone.no-cache: none)"
    )
    return True


def _shards(model: nn.Module) -> Iterator[dict[str, torch.Tensor]]:
    """A model's tensors in parts of some size; a tied weight once, under the first of its names."""
    shard: dict[str, torch.Tensor] = {}
    seen: set[int] = set()
    for name, tensor in model.state_dict(keep_vars=True).items():
        if isinstance(tensor, nn.Parameter):
            if id(tensor) in seen:
                continue
            seen.add(id(tensor))
        shard[name] = _narrow(tensor.data).contiguous()
        if sum(one.nbytes for one in shard.values()) >= _SHARD_BYTES:
            yield shard
            shard = {}
    if shard:
        yield shard


def _narrow(tensor: torch.Tensor) -> torch.Tensor:
    """A float32 matrix in bfloat16 if it loses nothing, as those that were published in it."""
    if tensor.dtype != torch.float32 or tensor.ndim < 2:
        return tensor
    rows = tensor.split(4096)
    if all(torch.equal(part.bfloat16().float(), part) for part in rows):
        return tensor.bfloat16()
    return tensor


def _key(
    spec: Backbone, source: Source, config: PretrainedConfig, dtype: torch.dtype, files: list[Path]
) -> str:
    """A key over the model's files by size and time, the options, and the code that reads and packs them."""
    looks = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    options = [source.gguf, spec.quantize, str(dtype), spec.context, spec.revision, spec.trust_remote_code]
    code = [code_hash("backbone"), *map(version, ("bitsandbytes", "transformers", "torch"))]
    return key_of([looks, options, config.to_dict(), code])


def _files(spec: Backbone, source: Source) -> list[Path]:
    """The files that a model is read from, as far as they are on this machine."""
    folder = Path(source.path)
    if source.on_hub:
        at = cached_file(
            source.path, "config.json", revision=spec.revision, _raise_exceptions_for_missing_entries=False
        )
        if at is None:
            return []
        folder = Path(at).parent
    if source.gguf is not None:
        return [folder / source.gguf]
    with contextlib.suppress(OSError):
        return sorted(path for path in folder.iterdir() if path.is_file())
    return []
