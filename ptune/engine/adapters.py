"""LoRA adapters as peft saves them (https://huggingface.co/docs/peft), as factors that the graph takes as inputs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ptune.engine.peft_config import MERGE, LoraConfig, read_config
from ptune.engine.safetensors import read_tensors
from ptune.errors import AdapterError, FormatError
from ptune.formats.signature import Signature, Socket

Factor = npt.NDArray[np.float32]

_FACTOR = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<factor>[AB])(?:\.[^.]+)?\.weight")
_KINDS = (  # other tensors that an adapter's file may hold, by what their names contain
    ("lora_magnitude_vector", f"DoRA magnitudes; {MERGE}"),
    ("lora_embedding_", f"LoRA of an embedding; {MERGE}"),
    ("token_adapter", f"embeddings of single tokens; {MERGE}"),
    ("modules_to_save", f"whole trained modules; {MERGE}"),
    (".bias", f"trained biases (bias is not 'none'); {MERGE}"),
)
_ENDS = (
    "lm_head",
    "embed_out",
    "embed_tokens",
    "wte",
)  # a decoder's first and last layers, which have no socket


@dataclass(frozen=True, eq=False)
class Adapter:
    """One adapter's factors by socket: A [in, r] and B [r, out], with the scale already in B."""

    name: str
    rank: int  # the largest of its sockets
    factors: dict[str, tuple[Factor, Factor]]
    bytes: int


def load_adapter(folder: Path, signature: Signature) -> Adapter:
    """Reads a folder that peft's `save_pretrained` wrote.

    Raises: AdapterError that lists everything about it that does not fit the base or cannot be served.
    """
    try:
        config, problems = read_config(folder)
        tensors = read_tensors(_weights_file(folder))
    except FormatError as error:
        raise AdapterError(str(error)) from None
    misfits = Misfits(problems)
    modules = _paired(tensors, misfits)
    _check(modules, config, signature, misfits)
    misfits.raise_for(folder)
    factors = {module: _scaled(pair, config.scale(module)) for module, pair in modules.items()}
    return Adapter(
        name=folder.name,
        rank=max(a.shape[1] for a, _ in factors.values()),
        factors=factors,
        bytes=sum(a.nbytes + b.nbytes for a, b in factors.values()),
    )


class Misfits:
    """What is wrong with an adapter: each reason once, with the names it concerns."""

    def __init__(self, reasons: list[str]) -> None:
        self._names: dict[str, list[str]] = {reason: [] for reason in reasons}

    def add(self, reason: str, name: str) -> None:
        self._names.setdefault(reason, []).append(name)

    def raise_for(self, folder: Path) -> None:
        """Raises: AdapterError where there is anything wrong."""
        if self._names:
            lines = "".join(f"\n  - {reason}{_listed(names)}" for reason, names in self._names.items())
            raise AdapterError(f"the adapter {folder} cannot be served:{lines}")


def _listed(names: list[str], most: int = 8) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f": {', '.join(names[:most])}{more}" if names else ""


def _weights_file(folder: Path) -> Path:
    path = folder / "adapter_model.safetensors"
    if not path.is_file() and (folder / "adapter_model.bin").is_file():
        raise AdapterError(
            f"{folder} has its weights in adapter_model.bin, a pickle, which may run code when it is opened; "
            "save it again with peft's save_pretrained(..., safe_serialization=True)"
        )
    return path


def _paired(tensors: dict[str, Factor], misfits: Misfits) -> dict[str, dict[str, Factor]]:
    """Module -> {"A": [r, in], "B": [out, r]}."""
    modules: dict[str, dict[str, Factor]] = {}
    for name, tensor in tensors.items():
        found = _FACTOR.fullmatch(name)
        if found is None:
            kind = next(
                (kind for part, kind in _KINDS if part in name), f"tensors that are no LoRA factors; {MERGE}"
            )
            misfits.add(f"it holds {kind}", name)
        elif found["factor"] in modules.setdefault(found["module"], {}):
            misfits.add("it holds the same factor twice, under different adapter names", name)
        else:
            modules[found["module"]][found["factor"]] = tensor
    if not modules:
        misfits.add("it holds no LoRA factors", "adapter_model.safetensors")
    return modules


def _check(
    modules: dict[str, dict[str, Factor]], config: LoraConfig, signature: Signature, misfits: Misfits
) -> None:
    """Compares the file's modules with what the base offers and with what adapter_config.json says."""
    sockets = {socket.name: socket for socket in signature.sockets}
    for module in modules:
        if module in sockets:
            _check_pair(sockets[module], modules[module], config, misfits)
        elif module.rpartition(".")[2] in _ENDS:
            misfits.add(f"LoRA of the output head or of an embedding is not served; {MERGE}", module)
        else:
            misfits.add("the base has no linear layer of this name", module)
    for module in sockets:
        if module not in modules and config.target_modules is not None and config.targets(module):
            misfits.add("adapter_config.json targets these, but their factors are missing", module)


def _check_pair(socket: Socket, pair: dict[str, Factor], config: LoraConfig, misfits: Misfits) -> None:
    if not config.targets(socket.name):
        misfits.add(
            "adapter_config.json does not target these, so peft would ignore their factors", socket.name
        )
    rank = config.rank(socket.name)
    for factor, shape in (("A", (rank, socket.in_features)), ("B", (socket.out_features, rank))):
        tensor = pair.get(factor)
        if tensor is None:
            misfits.add(f"lora_{factor} is missing", socket.name)
        elif tensor.shape != shape:
            misfits.add(f"lora_{factor} is {list(tensor.shape)}, the base needs {list(shape)}", socket.name)
        elif not np.isfinite(tensor).all():
            misfits.add(f"lora_{factor} has values that are not finite", socket.name)


def _scaled(pair: dict[str, Factor], scale: float) -> tuple[Factor, Factor]:
    a, b = pair["A"].T, pair["B"].T * np.float32(scale)
    return np.ascontiguousarray(a), np.ascontiguousarray(b)
