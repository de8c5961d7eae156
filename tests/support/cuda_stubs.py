"""Libraries in place of NVIDIA's, in which onnxruntime's CUDA provider loads, places nodes and copies memory; its kernels do nothing.

Their functions are those that the provider of an onnxruntime-gpu wheel asks for. Memory of the card is the machine's.
"""

from __future__ import annotations

import ctypes
import subprocess
from collections import defaultdict
from pathlib import Path

NVIDIA = ("libcu",)
BEGINNING = "#include <stdlib.h>\n#include <string.h>\n"
HANDLE = "(void **p) { static char handle[64]; *p = handle; return 0; }"
BODIES = {
    "cudaGetDeviceCount": "(int *n) { *n = 1; return 0; }",
    "cudaGetDevice": "(int *n) { *n = 0; return 0; }",
    "cudaMemGetInfo": "(size_t *a, size_t *b) { *a = *b = (size_t)24 << 30; return 0; }",
    "cudaMalloc": "(void **p, size_t n) { *p = calloc(1, n ? n : 1); return 0; }",
    "cudaMallocHost": "(void **p, size_t n) { *p = calloc(1, n ? n : 1); return 0; }",
    "cudaHostAlloc": "(void **p, size_t n, unsigned f) { *p = calloc(1, n ? n : 1); return 0; }",
    "cudaFree": "(void *p) { free(p); return 0; }",
    "cudaFreeHost": "(void *p) { free(p); return 0; }",
    "cudaMemcpy": "(void *a, const void *b, size_t n, int kind) { memmove(a, b, n); return 0; }",
    "cudaMemcpyAsync": "(void *a, const void *b, size_t n, int kind, void *s) { memmove(a, b, n); return 0; }",
    "cudaMemset": "(void *a, int value, size_t n) { memset(a, value, n); return 0; }",
    "cudaMemsetAsync": "(void *a, int value, size_t n, void *s) { memset(a, value, n); return 0; }",
    # Of cudaDeviceProp: shared memory and registers of a block, threads of a warp and a block, version 8.0, 8 multiprocessors.
    "cudaGetDeviceProperties": "(char *p, int d) { memset(p, 0, 1024); strcpy(p, \"stub\"); *(size_t *)(p + 296) = 49152;"
    " *(int *)(p + 304) = 65536; *(int *)(p + 308) = 32; *(int *)(p + 320) = 1024; *(int *)(p + 324) = 1024;"
    " *(int *)(p + 360) = 8; *(int *)(p + 384) = 8; return 0; }",
    **dict.fromkeys(
        ("cublasCreate_v2", "cublasLtCreate", "cudaStreamCreate", "cudaStreamCreateWithFlags"), HANDLE
    ),
    **dict.fromkeys(("cudaEventCreate", "cudaEventCreateWithFlags"), HANDLE),
}  # fmt: skip
POINTERS = {  # functions that return one
    "cudaGetErrorString": "const char *cudaGetErrorString(int e) { return \"stub\"; }",
    "cudaGetErrorName": "const char *cudaGetErrorName(int e) { return \"stub\"; }",
    "__cudaRegisterFatBinary": "void **__cudaRegisterFatBinary(void *p) { static void *handle; return &handle; }",
}  # fmt: skip


def preload(provider: Path, folder: Path) -> None:
    """Builds the libraries that a CUDA provider needs, and loads them in place of any that are installed."""
    wanted: dict[str, set[str]] = defaultdict(set)
    for line in _printed("nm", "-D", "--undefined-only", str(provider)).splitlines():
        name, _, library = line.split()[-1].partition("@")
        wanted[library.lstrip("@") or "libcuda.so.1"].add(name)  # the driver's have no version
    for line in _printed("readelf", "-d", str(provider)).splitlines():
        library = line.rpartition("[")[2].partition("]")[0]
        if "NEEDED" in line and library.startswith(NVIDIA):
            names = {name for name in wanted[library] if library != "libcuda.so.1" or name.startswith("cu")}
            ctypes.CDLL(str(_built(library, names, folder)), mode=ctypes.RTLD_GLOBAL)


def _built(library: str, names: set[str], folder: Path) -> Path:
    source, versions, built = (folder / f"{library}{end}" for end in (".c", ".map", ""))
    functions = [
        POINTERS.get(name) or f"int {name}{BODIES.get(name, '(void) { return 0; }')}" for name in names
    ]
    source.write_text("\n".join([BEGINNING, *sorted(functions), "int stub_of_a_library;", ""]))
    versions.write_text(f"{library} {{ global: *; }};\n")
    script = [] if library == "libcuda.so.1" else [f"-Wl,--version-script={versions}"]
    _printed("cc", "-w", "-shared", "-fPIC", f"-Wl,-soname,{library}", *script, "-o", str(built), str(source))
    return built


def _printed(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
