"""Which device computes: the CPU, or a card that the driver and onnxruntime know. Refusals say what is missing."""

from __future__ import annotations

import ctypes
import logging
import sys
from dataclasses import dataclass
from importlib.util import find_spec

import onnxruntime

from ptune.engine.device import Device
from ptune.engine.onnx_graph import LEAST_ONNXRUNTIME
from ptune.engine.options import CPU, CUDA, EngineOptions
from ptune.errors import UsageError
from ptune.formats.bundle import FLOAT_CACHE, INT8, Bundle

PROVIDER = "CUDAExecutionProvider"
DRIVER = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
# Products of float32 stay in float32, where TF32 would round their inputs to 11 bits; memory is taken as it is needed.
OPTIONS = (("device_id", "0"), ("use_tf32", "0"), ("arena_extend_strategy", "kSameAsRequested"))
_NAME_BYTES = 256

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Card:
    """A graphics card."""

    name: str
    memory_bytes: int


def device_for(bundle: Bundle, profile: str, options: EngineOptions) -> Device | None:
    """The device that `options` ask for; None for the CPU. Raises: UsageError where it cannot serve this profile."""
    if options.device == CPU:
        return None
    card = first_card()
    why = refusal(bundle, profile, options, card)
    if not why and card is not None:
        _log.warning("computing on %s: never tried by ptune's tests, which have no GPU", card.name)
        return Device("cuda", PROVIDER, OPTIONS, card.name)
    if options.device == CUDA:
        raise UsageError(f"--device cuda: {why}")
    _log.warning("computing on the CPU: %s", why)
    return None


def refusal(bundle: Bundle, profile: str, options: EngineOptions, card: Card | None) -> str:
    """Why a bundle's profile cannot be computed on a card, as a clause; empty where it can."""
    needed = ".".join(map(str, LEAST_ONNXRUNTIME))
    if profile == INT8:
        others = [name for name in bundle.manifest.graphs if name != INT8]
        instead = f"--profile {others[0]}" if others else "export it with --profiles int4"
        return f"onnxruntime has no kernels for the int8 profile's products on CUDA: {instead}"
    if options.kv_cache_dtype != FLOAT_CACHE:
        return f"keys and values are in float16 there, not in {options.kv_cache_dtype}: leave --kv-cache-dtype out"
    if options.kernels in ("own", "exact"):
        return f"--kernels {options.kernels}: own operators compute on the CPU"
    if options.draft_model is not None:
        return "a draft model computes on the CPU only: leave --draft-model out"
    if options.kv_disk is not None:
        return "keys and values on a card are not written to disk: leave --kv-disk out"
    if PROVIDER not in onnxruntime.get_available_providers():
        return (
            f"the onnxruntime {onnxruntime.__version__} that is installed has no CUDA provider: pip uninstall onnxruntime, then"
            f" pip install 'onnxruntime-gpu>={needed}'"
        )
    if find_spec("onnx_ir") is None:
        return "the package onnx_ir is needed to prepare the graph: pip install onnx-ir"
    if card is None:
        return f"{DRIVER} finds no card"
    return _too_large(bundle, profile, options, card)


def _too_large(bundle: Bundle, profile: str, options: EngineOptions, card: Card) -> str:
    weights = sum((bundle.folder / name).stat().st_size for name in bundle.manifest.graphs[profile].files)
    if weights + options.kv_bytes <= card.memory_bytes:
        return ""
    return (
        f"weights of {weights / 1e9:.1f} GB and --kv-gb {options.kv_bytes / 2**30:g} are more than the"
        f" {card.memory_bytes / 1e9:.1f} GB of {card.name}: a smaller --kv-gb, or a profile in 4 bits"
    )


def first_card(driver: str = DRIVER) -> Card | None:
    """The first card that NVIDIA's driver knows, which CUDA_VISIBLE_DEVICES may choose; None where there is none, or no driver."""
    try:
        library = ctypes.CDLL(driver)
        count, device = ctypes.c_int(), ctypes.c_int()
        name, memory_bytes = ctypes.create_string_buffer(_NAME_BYTES), ctypes.c_size_t()
        if library.cuInit(0) or library.cuDeviceGetCount(ctypes.byref(count)) or not count.value:
            return None
        if library.cuDeviceGet(ctypes.byref(device), 0):
            return None
        library.cuDeviceGetName(name, _NAME_BYTES, device)
        library.cuDeviceTotalMem_v2(ctypes.byref(memory_bytes), device)
    except (OSError, AttributeError):  # no driver, or one of another kind
        return None
    return Card(name.value.decode(errors="replace"), memory_bytes.value)
