"""Memory of a bundle that is served: predicted from its files before it is opened, and this process's as it is."""

from __future__ import annotations

import ctypes
import functools
import gc
import os
import re
from collections.abc import Callable
from pathlib import Path

from ptune.engine.options import KV_DISK_QUEUE_BYTES, LIGHT, BatchOptions, EngineOptions
from ptune.errors import UsageError
from ptune.formats.bundle import NF4, Bundle
from ptune.formats.signature import Signature

PROCESS_BYTES = 350 * 2**20
"""What a server takes beside its models: its code, its buffers, what it computes with."""


_UNPACKED = 3
"""Times the largest weight that onnxruntime's arena, which grows in powers of two, keeps for unpacking weights in nf4."""


def opened_bytes(served: int, head: int, largest: int, *, nf4: bool) -> int:
    """Memory of exported weights in onnxruntime, and of what it unpacks as it computes, in bytes.

    served: bytes of their files. head: bytes of the output layer in float32, which an embedding shares or equals in size.
    largest: bytes of the largest other weight in float32.
    """
    mapped = nf4 and served > LIGHT  # large weights stay in their file
    return (
        packed_bytes(served, head, nf4=nf4) + (0 if mapped else served) + (_UNPACKED * largest if nf4 else 0)
    )


def packed_bytes(served: int, head: int, *, nf4: bool) -> int:
    """The part of these that is packed for products: all but the embedding, and of large weights in nf4 the head's alone."""
    return head if nf4 and served > LIGHT else served - head


def predicted_bytes(bundle: Bundle, options: BatchOptions) -> int:
    """What a bundle will take in a server, in bytes: opened weights, adapters, and all that sequences may take."""
    manifest = bundle.manifest
    profile = options.profile or manifest.default_profile
    files = manifest.graphs[profile].files if profile in manifest.graphs else {}
    served = sum(_size(bundle.folder / name) for name in (*files, *manifest.vision))
    folders = [bundle.adapter_path(name) for name in manifest.adapters]
    adapters = sum(_size(file) for folder in folders for file in folder.glob("*"))
    if options.adapter_bytes is not None:
        adapters = min(adapters, options.adapter_bytes)
    head = min(_head_bytes(bundle), served)
    opened = opened_bytes(served, head, _largest_bytes(bundle), nf4=profile == NF4)
    return opened + adapters + reserved_bytes(bundle, options)


def weights_bytes(bundle: Bundle, profile: str) -> int:
    """What the weights of a profile take at the least, in bytes: those packed for products. Their file is mapped."""
    served = sum(_size(bundle.folder / name) for name in bundle.manifest.graphs[profile].files)
    return packed_bytes(served, min(_head_bytes(bundle), served), nf4=profile == NF4)


def check_fits(bundle: Bundle, profile: str) -> None:
    """Raises: UsageError for weights that are more than the memory of this machine, or of this container."""
    needed, there = weights_bytes(bundle, profile), most_bytes()
    if needed <= there:
        return
    smaller = [name for name in bundle.manifest.graphs if weights_bytes(bundle, name) <= there]
    instead = f"--profile {smaller[0]}" if smaller else "export it in fewer bits (--profiles int4)"
    raise UsageError(
        f"{bundle.folder} in {profile} takes {needed / 1e9:.1f} GB of memory for its weights alone, predicted, and there are"
        f" {there / 1e9:.1f} GB in all: {instead}"
    )


def reserved_bytes(bundle: Bundle, options: BatchOptions) -> int:
    """What a bundle takes while it answers, beyond what it holds once it is open: a decoder's keys and values, and those on their way
    to disk."""
    if not isinstance(bundle.manifest.signature, Signature) or not isinstance(options, EngineOptions):
        return 0
    return options.kv_bytes + (0 if options.kv_disk is None else KV_DISK_QUEUE_BYTES)


def process_bytes() -> int | None:
    """Memory of this process's own, without mapped files; None where the system does not tell."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    found = re.search(r"RssAnon:\s+(\d+) kB", status)
    return None if found is None else int(found[1]) * 1024


def most_bytes(root: Path = Path("/")) -> int:
    """Memory that this process may ever have: the machine's, or its control group's limit, as in a container."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limit in ("sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            total = min(total, int((root / limit).read_text()))
        except (OSError, ValueError):  # no such group, or "max"
            continue
    return total


def ram_bytes(root: Path = Path("/")) -> int:
    """Memory that programs can still get: the machine's available memory, or less if a control group has a limit."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        match = re.search(r"MemAvailable:\s+(\d+) kB", (root / "proc/meminfo").read_text())
        total = total if match is None else int(match[1]) * 1024
    except OSError:  # not Linux
        pass
    for group in ("sys/fs/cgroup", "sys/fs/cgroup/memory"):
        names = ("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")
        for limit, used in names:
            try:
                free = int((root / group / limit).read_text()) - int((root / group / used).read_text())
            except (OSError, ValueError):  # no such group, or "max"
                continue
            total = min(total, max(free, 0))
    return total


def collect() -> None:
    """Frees what nothing but itself refers to, as a model in packed weights, which know their layers; then trims."""
    gc.collect()
    trim()


def trim() -> None:
    """Returns free pages of the C library's allocator to the system. Does nothing where it lacks the call (musl, macOS)."""
    if (call := _trim()) is not None:
        call(0)


@functools.cache
def _trim() -> Callable[[int], int] | None:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # another C library
        return None


def _head_bytes(bundle: Bundle) -> int:
    """Bytes of a decoder's output layer in float32; 0 of other models, and where the signature does not tell its width."""
    signature = bundle.manifest.signature
    if not isinstance(signature, Signature):
        return 0
    first = next(
        iter(signature.sockets), None
    )  # of the first layer's queries, which reads what the embedding gives
    width = first.in_features if signature.ends is None and first else getattr(signature.ends, "width", 0)
    return 4 * signature.vocab_size * width


def _largest_bytes(bundle: Bundle) -> int:
    """Bytes of a decoder's largest weight that takes adapters, in float32; 0 of other models."""
    signature = bundle.manifest.signature
    sockets = signature.sockets if isinstance(signature, Signature) else ()
    return max((4 * one.in_features * one.out_features for one in sockets), default=0)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # missing: opening the bundle says so
        return 0
