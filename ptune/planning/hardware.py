"""The memory of this machine, of a card by name, or as given by the user."""

from __future__ import annotations

import difflib
import re
from typing import Literal

from ptune.config.cards import GPUS
from ptune.errors import UsageError

GIB = 2**30
HEADROOM = 0.05
"""Share of the memory that a setting which ptune proposes leaves free."""

# Of NVIDIA's compute capability 7, which multiplies float16 but no bfloat16, and 6, which has units for neither.
_IN_FLOAT16 = {"RTX 2060", "RTX 2070", "RTX 2080", "RTX 2080 Ti", "T4", "V100"}
_IN_FLOAT32 = {"GTX 1080 Ti", "P100"}


def gpu_bytes(name: str) -> int:
    """Memory for programs on a card, given by name (with or without the maker's) or by size ('24GB' means 24 GiB).

    Raises: UsageError that names the nearest known card.
    """
    known = {_plain(gpu): gpu for gpu in GPUS}
    plain = _plain(name)
    if plain in known:
        return usable(GPUS[known[plain]] * GIB)
    if re.fullmatch(r"\d+(\.\d+)?gi?b?", plain):
        return usable(int(float(re.sub(r"[a-z]", "", name.lower())) * GIB))
    close = difflib.get_close_matches(plain, known, n=1, cutoff=0.5)
    hint = f"did you mean {known[close[0]]!r}? " if close else ""
    raise UsageError(f"no card {name!r} is known; {hint}Give its memory instead, as in --gpu 24GB")


def computes_in(name: str) -> Literal["bfloat16", "float16", "float32"]:
    """The type that a card trains fastest in, from its name as in `gpu_bytes`; of one given by its size, bfloat16."""
    plain = _plain(name)
    if plain in map(_plain, _IN_FLOAT16):
        return "float16"
    return "float32" if plain in map(_plain, _IN_FLOAT32) else "bfloat16"


def card_for(needed_bytes: int) -> tuple[str, int] | None:
    """A known card with bfloat16 that holds this and leaves `HEADROOM`, and its GiB; None where the largest does not.

    Of the cards with the least memory it is the one listed first.
    """
    known = [(size, gpu) for gpu, size in GPUS.items() if computes_in(gpu) == "bfloat16"]
    fitting = [pair for pair in known if proposable(usable(pair[0] * GIB)) >= needed_bytes]
    if not fitting:
        return None
    size, gpu = min(fitting, key=lambda pair: pair[0])
    return gpu, size


def usable(card_bytes: int) -> int:
    """Bytes of a card that programs can use; the driver keeps the rest."""
    return int(card_bytes * 0.98)


def proposable(memory_bytes: int) -> int:
    """What a proposed setting may take of this much memory: a prediction that is a little low must not fail."""
    return int(memory_bytes * (1 - HEADROOM))


def gpu_here() -> tuple[str, int] | None:
    """Name and free bytes of the first GPU."""
    import torch

    if not torch.cuda.is_available():
        return None
    free, _ = torch.cuda.mem_get_info(0)
    return torch.cuda.get_device_name(0), int(free)


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]|nvidia|geforce|tesla|gpu", "", name.lower())
