"""llama.cpp as a library: its C interface called straight, so that no server stands between it and the clock.

The library is the one inside the `xllamacpp` wheel (AVX2), or any libllama.so, as one that was built with GGML_NATIVE. Its
structs of parameters change from version to version. So they are taken from the library as bytes and given back; only the
first four numbers of a context's are set, after it was seen that they are where they have always been.

Settings: flash attention and the type of the KV cache (float16) as llama.cpp's own defaults say, physical batches of 512
tokens, logical ones of 2048, a cache of its own for every sequence.
"""

from __future__ import annotations

import ctypes
import struct
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

BATCH = 2048
_FIRST = (512, 2048, 512, 1)  # defaults of n_ctx, n_batch, n_ubatch, n_seq_max


class _Parameters(ctypes.Structure):
    """At least as large as any of the library's structs."""

    _fields_ = (("bytes", ctypes.c_ubyte * 1024),)


class _Batch(ctypes.Structure):
    _fields_ = (
        ("n_tokens", ctypes.c_int32),
        ("token", ctypes.POINTER(ctypes.c_int32)),
        ("embd", ctypes.POINTER(ctypes.c_float)),
        ("pos", ctypes.POINTER(ctypes.c_int32)),
        ("n_seq_id", ctypes.POINTER(ctypes.c_int32)),
        ("seq_id", ctypes.POINTER(ctypes.POINTER(ctypes.c_int32))),
        ("logits", ctypes.POINTER(ctypes.c_int8)),
    )


def wheel_library() -> Path | None:
    """The library inside the xllamacpp wheel, where that is installed."""
    import importlib.util

    found = importlib.util.find_spec("xllamacpp")
    if found is None or not found.submodule_search_locations:
        return None
    return next(Path(found.submodule_search_locations[0]).glob("xllamacpp*.so"), None)


def system_info(library: Path) -> str:
    """What the library was built to use of this processor."""
    return str(_loaded(library).llama_print_system_info().decode().strip(" |"))


def _loaded(library: Path) -> Any:
    if library == wheel_library():
        import xllamacpp  # noqa: F401  the library is a Python module; alone it does not load

    return _declared(ctypes.CDLL(str(library)))


class Llama:
    """A model in a context for `sequences` of at most `tokens` each."""

    def __init__(self, library: Path, model: Path, threads: int, sequences: int, tokens: int) -> None:
        self._lib = _loaded(library)
        self._silent = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(_ignore)
        self._lib.llama_log_set(self._silent, None)
        self._lib.llama_backend_init()
        loaded = self._lib.llama_model_load_from_file(
            str(model).encode(), self._lib.llama_model_default_params()
        )
        parameters = self._lib.llama_context_default_params()
        first = struct.unpack_from("<4I", bytes(parameters.bytes))
        if first != _FIRST:
            raise SystemExit(f"{library}: a context's parameters begin with {first}, not {_FIRST}")
        struct.pack_into("<4I", parameters.bytes, 0, sequences * tokens, BATCH, 512, sequences)
        self._context = self._lib.llama_init_from_model(loaded, parameters)
        if not loaded or not self._context:
            raise SystemExit(f"llama.cpp does not load {model}")
        self._lib.llama_set_n_threads(self._context, threads, threads)
        self.vocab = self._lib.llama_vocab_n_tokens(self._lib.llama_model_get_vocab(loaded))
        self._batch = self._lib.llama_batch_init(BATCH, 0, 1)

    def clear(self) -> None:
        """Forgets all sequences. The cache's bytes stay: zeros in all of it would take longer than a short answer."""
        self._lib.llama_memory_clear(self._lib.llama_get_memory(self._context), False)

    def compute(self, rows: Sequence[tuple[int, int, int, bool]]) -> list[Any]:
        """Computes tokens, at most BATCH: (token, position, sequence, whether its logits are wanted).

        Returns the wanted logits, views of [vocab] that hold until the next call.
        """
        import numpy as np

        batch = self._batch
        for index, (token, position, sequence, wanted) in enumerate(rows):
            batch.token[index], batch.pos[index] = token, position
            batch.n_seq_id[index], batch.seq_id[index][0] = 1, sequence
            batch.logits[index] = wanted
        batch.n_tokens = len(rows)
        if code := self._lib.llama_decode(self._context, batch):
            raise SystemExit(f"llama_decode failed with {code}")
        return [
            np.ctypeslib.as_array(self._lib.llama_get_logits_ith(self._context, index), (self.vocab,))
            for index, row in enumerate(rows)
            if row[3]
        ]

    def greedy(
        self, prompts: Sequence[Sequence[int]], new_tokens: int
    ) -> tuple[list[list[int]], list[list[float]]]:
        """Continues prompts together, whatever the tokens say of an end; tokens and the times at which they came."""
        self.clear()
        answers: list[list[int]] = [[] for _ in prompts]
        times: list[list[float]] = [[] for _ in prompts]
        waiting = [
            (token, position, sequence, position == len(prompt) - 1)
            for sequence, prompt in enumerate(prompts)
            for position, token in enumerate(prompt)
        ]
        for start in range(0, len(waiting), BATCH):
            part = waiting[start : start + BATCH]
            ended = [sequence for _, _, sequence, last in part if last]
            _take(ended, self.compute(part), answers, times)
        for step in range(new_tokens - 1):
            row = [
                (answers[sequence][-1], len(prompt) + step, sequence, True)
                for sequence, prompt in enumerate(prompts)
            ]
            _take(range(len(prompts)), self.compute(row), answers, times)
        return answers, times

    def logits(self, ids: Sequence[int]) -> Any:
        """Logits [tokens, vocab] of one sequence."""
        import numpy as np

        self.clear()
        found = [
            np.stack(self.compute([(token, start + index, 0, True) for index, token in enumerate(part)]))
            for start, part in ((start, ids[start : start + 256]) for start in range(0, len(ids), 256))
        ]
        return np.concatenate(found)


def _take(
    sequences: Sequence[int], logits: Sequence[Any], answers: list[list[int]], times: list[list[float]]
) -> None:
    for sequence, row in zip(sequences, logits, strict=True):
        answers[sequence].append(int(row.argmax()))
    now_s = time.perf_counter()
    for sequence in sequences:
        times[sequence].append(now_s)


def _ignore(_level: int, _text: bytes, _data: int) -> None:
    """llama.cpp's log."""


def _declared(lib: Any) -> Any:
    """The functions that are used, with their types."""
    pointer, number = ctypes.c_void_p, ctypes.c_int32
    for name, result, *arguments in (
        ("llama_log_set", None, pointer, pointer),
        ("llama_backend_init", None),
        ("llama_model_default_params", _Parameters),
        ("llama_context_default_params", _Parameters),
        ("llama_model_load_from_file", pointer, ctypes.c_char_p, _Parameters),
        ("llama_init_from_model", pointer, pointer, _Parameters),
        ("llama_set_n_threads", None, pointer, number, number),
        ("llama_model_get_vocab", pointer, pointer),
        ("llama_vocab_n_tokens", number, pointer),
        ("llama_get_memory", pointer, pointer),
        ("llama_memory_clear", None, pointer, ctypes.c_bool),
        ("llama_batch_init", _Batch, number, number, number),
        ("llama_decode", number, pointer, _Batch),
        ("llama_get_logits_ith", ctypes.POINTER(ctypes.c_float), pointer, number),
        ("llama_print_system_info", ctypes.c_char_p),
    ):
        function = getattr(lib, str(name))
        function.restype, function.argtypes = result, arguments
    return lib
