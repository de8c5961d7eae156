"""llama.cpp as a library: its C interface called straight, so that no server stands in between.

The library is the one inside the `xllamacpp` wheel (AVX2), or any libllama.so, as one that was built with GGML_NATIVE. Its
structs of parameters change from version to version. So they are taken from the library as bytes and given back; only the
first four numbers of a context's are set, after it was seen that they are where they have always been.

Settings: flash attention and the type of the KV cache (float16) as llama.cpp's own defaults say, physical batches of 512
tokens, logical ones of 2048, a cache of its own for every sequence.
"""

from __future__ import annotations

import ctypes
import importlib.util
import struct
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptune.errors import PtuneError, UsageError

BATCH = 2048
_ERROR = 4  # GGML_LOG_LEVEL_ERROR
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
    found = importlib.util.find_spec("xllamacpp")
    if found is None or not found.submodule_search_locations:
        return None
    return next(Path(found.submodule_search_locations[0]).glob("xllamacpp*.so"), None)


def required_library() -> Path:
    """The same. Raises: UsageError that says what to install."""
    library = wheel_library()
    if library is None:
        raise UsageError(
            "GGUF files are proved in llama.cpp itself, which is not installed; run: pip install 'ptune[gguf]'"
        )
    return library


def system_info(library: Path) -> str:
    """What the library was built to use of this processor."""
    return str(_loaded(library).llama_print_system_info().decode().strip(" |"))


def quantized(library: Path, weights: NDArray[np.float32], kind: int) -> NDArray[np.uint8]:
    """Weights [rows, in] in a type of ggml's, as bytes [rows, bytes of a row], by llama.cpp's own rounding.

    kind: the type's number. `in` is a whole number of its blocks.
    """
    lib, (rows, columns) = _loaded(library), weights.shape
    weights = np.ascontiguousarray(weights, np.float32)
    out = np.empty((rows, lib.ggml_row_size(kind, columns)), np.uint8)
    lib.ggml_quantize_chunk(kind, weights.ctypes.data, out.ctypes.data, 0, rows, columns, None)
    return out


def _loaded(library: Path) -> Any:
    if library == wheel_library():
        import xllamacpp  # noqa: F401  the library is a Python module; alone it does not load

    return _declared(ctypes.CDLL(str(library)))


class Llama:
    """A model in a context for `sequences` of at most `tokens` each."""

    def __init__(
        self,
        library: Path,
        model: Path,
        threads: int,
        sequences: int,
        tokens: int,
        adapter: Path | None = None,
    ) -> None:
        """adapter: a LoRA in GGUF, whose update every sequence gets. Of no sequences the tokenizer alone is used.

        Raises: PtuneError with what llama.cpp says.
        """
        self._lib = _loaded(library)
        self._said: list[str] = []
        self._log = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(self._hear)
        self._lib.llama_log_set(self._log, None)
        self._lib.llama_backend_init()
        self._context: Any = None
        self._batch: Any = None
        self._model: Any = self._lib.llama_model_load_from_file(
            str(model).encode(), self._lib.llama_model_default_params()
        )
        if not self._model:
            raise self._refused(model)
        self._vocabulary = self._lib.llama_model_get_vocab(self._model)
        self.vocab = self._lib.llama_vocab_n_tokens(self._vocabulary)
        if sequences:
            self._begin(threads, sequences, tokens, adapter)

    def _begin(self, threads: int, sequences: int, tokens: int, adapter: Path | None) -> None:
        parameters = self._lib.llama_context_default_params()
        first = struct.unpack_from("<4I", bytes(parameters.bytes))
        if first != _FIRST:
            raise PtuneError(f"llama.cpp: a context's parameters begin with {first}, not {_FIRST}")
        sizes = (sequences * tokens, BATCH, 512, sequences)
        struct.pack_into("<4I", parameters.bytes, 0, *sizes)
        self._context = self._lib.llama_init_from_model(self._model, parameters)
        if not self._context:
            raise self._refused("the model")
        self._lib.llama_set_n_threads(self._context, threads, threads)
        if adapter is not None:
            loaded = self._lib.llama_adapter_lora_init(self._model, str(adapter).encode())
            if not loaded:
                raise self._refused(adapter)
            one, scale = (ctypes.c_void_p * 1)(loaded), (ctypes.c_float * 1)(1.0)
            if self._lib.llama_set_adapters_lora(self._context, one, 1, scale):
                raise self._refused(adapter)
        self._batch = self._lib.llama_batch_init(BATCH, 0, 1)

    def _hear(self, level: int, text: bytes, _data: int) -> None:
        """llama.cpp's log: what it calls an error."""
        if level == _ERROR:
            self._said.append(text.decode(errors="replace").strip())

    def _refused(self, what: Path | str) -> PtuneError:
        return PtuneError(f"llama.cpp does not load {what}: {'; '.join(self._said[:2]) or 'it says nothing'}")

    def close(self) -> None:
        """Gives the memory back."""
        if self._context:
            self._lib.llama_batch_free(self._batch)
            self._lib.llama_free(self._context)
        if self._model:
            self._lib.llama_model_free(self._model)  # adapters with it
        self._context = self._model = None

    def tokenize(self, text: str, *, special: bool = True, whole: bool = False) -> list[int]:
        """Tokens of a text. special: special tokens are recognised in it; whole: with what the tokenizer puts around a text."""
        encoded = text.encode()
        room = len(encoded) + 8
        ids = (ctypes.c_int32 * room)()
        count = self._lib.llama_tokenize(self._vocabulary, encoded, len(encoded), ids, room, whole, special)
        if count < 0:
            raise PtuneError(f"llama.cpp makes more than {room} tokens of {text[:40]!r}")
        return list(ids[:count])

    def ends(self, token: int) -> bool:
        """Whether llama.cpp ends an answer at this token by itself."""
        return bool(self._lib.llama_vocab_is_eog(self._vocabulary, token))

    def clear(self) -> None:
        """Forgets all sequences. The cache's bytes stay: zeros in all of it would take longer than a short answer."""
        self._lib.llama_memory_clear(self._lib.llama_get_memory(self._context), False)

    def compute(self, rows: Sequence[tuple[int, int, int, bool]]) -> list[Any]:
        """Computes tokens, at most BATCH: (token, position, sequence, whether its logits are wanted).

        Returns the wanted logits, views of [vocab] that hold until the next call.
        """
        batch = self._batch
        for index, (token, position, sequence, wanted) in enumerate(rows):
            batch.token[index], batch.pos[index] = token, position
            batch.n_seq_id[index], batch.seq_id[index][0] = 1, sequence
            batch.logits[index] = wanted
        batch.n_tokens = len(rows)
        if code := self._lib.llama_decode(self._context, batch):
            raise PtuneError(f"llama_decode failed with {code}")
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
        ("llama_batch_free", None, _Batch),
        ("llama_free", None, pointer),
        ("llama_model_free", None, pointer),
        ("llama_adapter_lora_init", pointer, pointer, ctypes.c_char_p),
        (
            "llama_set_adapters_lora",
            number,
            pointer,
            ctypes.POINTER(pointer),
            ctypes.c_size_t,
            ctypes.POINTER(ctypes.c_float),
        ),
        (
            "llama_tokenize",
            number,
            pointer,
            ctypes.c_char_p,
            number,
            ctypes.POINTER(number),
            number,
            ctypes.c_bool,
            ctypes.c_bool,
        ),
        ("llama_vocab_is_eog", ctypes.c_bool, pointer, number),
        ("ggml_row_size", ctypes.c_size_t, ctypes.c_int, ctypes.c_int64),
        (
            "ggml_quantize_chunk",
            ctypes.c_size_t,
            ctypes.c_int,
            pointer,
            pointer,
            ctypes.c_int64,
            ctypes.c_int64,
            ctypes.c_int64,
            pointer,
        ),
    ):
        function = getattr(lib, str(name))
        function.restype, function.argtypes = result, arguments
    return lib
