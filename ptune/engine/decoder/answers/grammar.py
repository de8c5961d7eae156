"""Masks of the tokens that may come next, so that an answer has the requested form.

A grammar is Lark's with llguidance's additions (https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md);
`ptune.codecs.structured_output` writes them. It is compiled once; each sequence then walks through it. The mask of a sequence's next
token is computed on a thread of its own while the graph runs.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from concurrent.futures import TimeoutError as TooLate
from copy import copy
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from ptune.errors import RequestError

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLParserLimits, LLTokenizer

Bools = npt.NDArray[np.bool_]

MAX_BYTES = 1 << 18
COMPILE_LIMIT_S = 10  # of compiling, once it has begun
TURN_LIMIT_S = 30  # of waiting for it: few grammars are compiled at a time
SMALL_BYTES = 1 << 13  # of grammars that larger ones do not hold up
SLOW_S = 0.005  # of computing a mask, from which on the masks of its grammar do not hold up those of others
KEPT = 128  # compiled grammars

_masks = ThreadPoolExecutor(max_workers=2, thread_name_prefix="ptune-mask")
_slow_masks = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ptune-slow-mask")
_small = ThreadPoolExecutor(max_workers=2, thread_name_prefix="ptune-grammar")
_large = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ptune-large-grammar")


class Grammar:
    """A compiled grammar over one vocabulary."""

    def __init__(self, matcher: LLMatcher, vocab_size: int) -> None:
        self.matcher = matcher
        self.vocab_size = vocab_size
        self.slow = False  # whether one of its masks has taken long

    def walk(self) -> Walk:
        """Starts one sequence's walk through the grammar."""
        return Walk(self)


class Walk:
    """Position of one sequence in its grammar. Used by one thread at a time."""

    def __init__(self, grammar: Grammar) -> None:
        self._grammar = grammar
        self._next: Future[Bools] = self._pool.submit(self._begin)

    def allowed(self) -> Bools:
        """Tokens [vocab] that may come now; those that end an answer are among them where it may end. Waits for it.

        Raises: RequestError where the grammar has become too large, or no token goes on.
        """
        return self._next.result()

    def ready(self, wait_s: float = 0.0) -> bool:
        """Whether `allowed` would not wait any longer. Waits for that a little."""
        return self._next.done() or bool(wait_s and wait([self._next], wait_s).done)

    def when_ready(self, call: Callable[[], None]) -> None:
        """Calls a function when `allowed` would not wait any longer: at once, or on another thread."""
        self._next.add_done_callback(lambda _: call())

    def advance(self, token: int) -> None:
        """Records the chosen token, and starts to compute the mask after it."""
        self._next = self._pool.submit(self._after, token)

    @property
    def _pool(self) -> ThreadPoolExecutor:
        return _slow_masks if self._grammar.slow else _masks

    def _begin(self) -> Bools:
        self._matcher = self._grammar.matcher.deep_copy()
        return self._mask()

    def _after(self, token: int) -> Bools:
        self._matcher.consume_token(token)
        return self._mask()

    def _mask(self) -> Bools:
        vocab_size = self._grammar.vocab_size
        bits = np.zeros(-(-vocab_size // 32), np.uint32)
        began_s = time.thread_time()
        if not self._matcher.is_error():
            self._matcher.unsafe_compute_mask_ptr(bits.ctypes.data, bits.nbytes)
        self._grammar.slow = self._grammar.slow or time.thread_time() - began_s > SLOW_S
        if self._matcher.is_error():
            raise _refusal(self._reason())
        return np.unpackbits(bits.view(np.uint8), bitorder="little", count=vocab_size).view(np.bool_)

    def _reason(self) -> str:
        said = _first_line(self._matcher.get_error())
        if said.startswith("NoExtension"):
            return "the model's vocabulary cannot write what the grammar asks for"
        return f"the grammar became too complex on the way: {said}"


class _Compiling(NamedTuple):
    """A grammar that is compiled, or will be."""

    begun: threading.Event
    grammar: Future[Grammar]


class Grammars:
    """Compiles grammars for one vocabulary, and keeps the latest.

    tokens: the bytes of each token, [vocab]; empty where a token writes nothing.
    special: tokens that are no text; a grammar allows them only by number.
    encode: the model's own tokens of a text. What a grammar leaves no choice about is written in them, as the model would.
    """

    def __init__(
        self,
        tokens: Sequence[bytes],
        special: Collection[int],
        encode: Callable[[str], Sequence[int]] = lambda _: (),
    ) -> None:
        self._tokens = tokens
        self._special = sorted(special)
        self._encode = encode
        self._compiled: OrderedDict[tuple[str, frozenset[int]], _Compiling] = OrderedDict()
        self._tokenizers: dict[frozenset[int], LLTokenizer] = {}
        self._lock, self._making = threading.Lock(), threading.Lock()

    def compile(self, source: str, ends: frozenset[int]) -> Grammar:
        """A grammar whose answers one of the tokens `ends` ends. Waits; any thread but the engine's may call it.

        Raises: RequestError where it is too large, not valid, or takes too long; with status 503 where others take too long.
        """
        if not ends:
            raise _refusal("this model has no token that ends an answer, so none can be given a form")
        if len(source.encode()) > MAX_BYTES:
            raise _refusal(f"the grammar is {len(source.encode())} bytes long; at most {MAX_BYTES}")
        key = (source, ends)
        with self._lock:
            compiling = self._compiled.get(key)
            if compiling is None:
                begun = threading.Event()
                pool = _small if len(source.encode()) <= SMALL_BYTES else _large
                done = pool.submit(self._compile, source, ends, begun)
                compiling = self._compiled[key] = _Compiling(begun, done)
                while len(self._compiled) > KEPT:
                    self._compiled.popitem(last=False)
            self._compiled.move_to_end(key)
        if not compiling.begun.wait(TURN_LIMIT_S):
            raise RequestError(
                "the grammars of other requests are being compiled: try again", code="overloaded", status=503
            )
        try:
            error = compiling.grammar.exception(COMPILE_LIMIT_S)
        except TooLate:
            raise _refusal(f"the grammar was not compiled within {COMPILE_LIMIT_S} s") from None
        if isinstance(error, RequestError):
            raise copy(error)  # the kept one would keep the frames of every request that it was raised for
        return compiling.grammar.result()

    def _compile(self, source: str, ends: frozenset[int], begun: threading.Event) -> Grammar:
        from llguidance import LLMatcher

        begun.set()

        with self._making:
            if ends not in self._tokenizers:
                self._tokenizers[ends] = self._tokenizer(sorted(ends))
        matcher = LLMatcher(self._tokenizers[ends], source, log_level=0, limits=_limits())
        if matcher.is_error():
            raise _refusal(_first_line(matcher.get_error()))
        return Grammar(matcher, len(self._tokens))

    def _tokenizer(self, ends: list[int]) -> LLTokenizer:
        from llguidance import LLTokenizer, TokenizerWrapper

        vocabulary = _Vocabulary(self._tokens, sorted({*self._special, *ends}), ends[0], self._encode)
        return LLTokenizer(TokenizerWrapper(vocabulary), n_vocab=len(self._tokens), eos_token=ends)


class _Vocabulary:
    """The tokenizer as llguidance needs it: masks need the tokens' bytes, and text that is forced is tokenized."""

    bos_token_id = None

    def __init__(
        self, tokens: Sequence[bytes], special: list[int], end: int, encode: Callable[[str], Sequence[int]]
    ) -> None:
        self.tokens = tokens
        self.special_token_ids = special
        self.eos_token_id = end
        self._encode = encode
        usable = set(range(len(tokens))) - {*special, end}
        self._numbers = {tokens[number]: number for number in sorted(usable, reverse=True) if tokens[number]}
        self._longest = max(map(len, self._numbers), default=0)

    def __call__(self, text: bytes) -> list[int]:
        """The model's own tokens where they are exactly the text, without a space before it or the like; else the longest."""
        ids = list(self._encode(text.decode(errors="replace")))
        return ids if b"".join(self.tokens[token] for token in ids) == text else self._greedy(text)

    def _greedy(self, text: bytes) -> list[int]:
        """Takes the longest token again and again; leaves out a byte that no token begins with."""
        ids, start = [], 0
        while start < len(text):
            pieces = (text[start : start + size] for size in range(self._longest, 0, -1))
            piece = next((piece for piece in pieces if piece in self._numbers), b"")
            ids += [self._numbers[piece]] if piece else []
            start += len(piece) or 1
        return ids


@cache
def _limits() -> LLParserLimits:
    """A quarter to a half of llguidance's own: some ms for a mask at worst, and no quotes of a request in its errors."""
    from llguidance import LLParserLimits

    return LLParserLimits(
        initial_lexer_fuel=500_000,
        step_lexer_fuel=50_000,
        step_max_items=20_000,
        max_lexer_states=50_000,
        max_grammar_size=250_000,
        verbose_errors=False,
    )


def _first_line(message: str) -> str:
    """llguidance's reason without the source that it quotes below it."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return next((line.removeprefix("error: ") for line in lines if line.startswith("error: ")), lines[0])


def _refusal(message: str) -> RequestError:
    return RequestError(message, code="invalid_grammar")
