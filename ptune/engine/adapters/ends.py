"""What an adapter changes at a decoder's ends, as peft saves it: LoRA of the embedding, rows of single tokens, whole tables.

The embedding's part is looked up here, token by token, and reaches the graph as an input of each step. So only the head's
columns take room in LoRA slots, and a step without such adapters computes nothing for them. LoRA of the head is an ordinary
socket (`ptune.engine.adapters.lora`).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ptune.engine.adapters.misfits import Misfits
from ptune.engine.adapters.peft_config import MERGE, SOCKETS, LoraConfig
from ptune.formats.signature import Ends, Signature

Factor = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]
Tensors = Mapping[str, Factor]

MOST_BYTES = 128 << 20  # of one adapter's own columns of the head, which lie in a LoRA slot

_LOW_RANK = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_embedding_(?P<factor>[AB])(?:\.[^.]+)?")
_ROWS = re.compile(r"base_model\.model\.(?P<module>.+)\.token_adapter\.trainable_tokens_delta(?:\.[^.]+)?")
_COPY = re.compile(r"base_model\.model\.(.+?)(?:\.token_adapter)?(?:\.base_layer)?(\.weight|\.bias)")


@dataclass(frozen=True, eq=False)
class EndChanges:
    """One adapter's part in the embedding and its own tokens in the head."""

    base_vocab: int
    vocab: int  # tokens that it knows, new ones included
    row_ids: Ids  # [n] ascending: tokens whose embedding is the adapter's own
    rows: Factor  # [n, width]
    column_ids: Ids  # [m] ascending: tokens whose column of the head is the adapter's own
    columns: Factor  # [width, m]
    low_rank: tuple[Factor, Factor] | None = None  # [base_vocab, r] and [r, width], the latter scaled

    @property
    def rank(self) -> int:
        """Of the embedding's LoRA; at least 1, as a step with this adapter needs a graph with sockets."""
        return 1 if self.low_rank is None else self.low_rank[0].shape[1]

    @property
    def bytes(self) -> int:
        return sum(array.nbytes for array in (self.rows, self.columns, *(self.low_rank or ())))

    def embedded(self, tokens: Ids) -> tuple[npt.NDArray[np.bool_], Factor]:
        """For tokens [t]: whether each keeps the base's embedding [t], and what is added to it or replaces it [t, width]."""
        kept = np.ones(len(tokens), np.bool_)
        shift = np.zeros((len(tokens), self.rows.shape[1]), np.float32)
        if self.low_rank is not None:
            a, b = self.low_rank
            # Row by row: a token's bits do not depend on how many are looked up with it.
            shift = np.matmul(a[np.minimum(tokens, len(a) - 1), None, :], b)[:, 0]
        if len(self.row_ids):
            at = np.minimum(np.searchsorted(self.row_ids, tokens), len(self.row_ids) - 1)
            own = self.row_ids[at] == tokens
            kept[own], shift[own] = False, self.rows[at[own]]
        return kept, shift

    def logits(self, computed: Factor) -> Factor:
        """Logits [n, vocab] over the adapter's tokens, of the graph's [n, base_vocab + N]."""
        if not len(self.column_ids):
            return computed[:, : self.base_vocab]
        logits = np.empty((len(computed), self.vocab), np.float32)
        logits[:, : self.base_vocab] = computed[:, : self.base_vocab]
        logits[:, self.column_ids] = computed[:, self.base_vocab : self.base_vocab + len(self.column_ids)]
        return logits


def read_ends(
    tensors: Tensors, config: LoraConfig, signature: Signature, misfits: Misfits
) -> tuple[dict[str, Factor], EndChanges | None]:
    """Takes what concerns the ends out of an adapter's tensors. Returns the other tensors, and the changes if there are any.

    signature: of a bundle with sockets at its ends.
    """
    ends = signature.ends
    assert ends is not None
    low_rank: dict[str, Factor] = {}
    rows: dict[str, dict[int, Factor]] = {ends.embedding: {}, ends.head: {}}
    rest: dict[str, Factor] = {}
    trained: dict[str, Factor] = {}
    for name, tensor in tensors.items():
        if found := _LOW_RANK.fullmatch(name):
            if found["module"] != ends.embedding:
                misfits.add("the base has no embedding of this name", name)
            low_rank[found["factor"]] = tensor
        elif found := _ROWS.fullmatch(name):
            trained[found["module"]] = tensor
        elif is_copy(name, ends):
            module, own = _own_rows(name, tensor, config, signature, misfits)
            rows[module] |= own
        else:
            rest[name] = tensor
    if ends.tied and _same(trained.get(ends.head), trained.get(ends.embedding)):
        del trained[ends.head]  # saved twice
    for module, tensor in trained.items():
        rows.setdefault(module, {}).update(_trained(tensor, module, config, ends, misfits))
    if ends.tied and ends.head not in trained and not config.saves(ends.embedding):
        rows[ends.head] |= rows[ends.embedding]
    _check(rows, low_rank, rest, config, signature, misfits)
    factors = _low_rank(low_rank, config, signature, misfits)
    if factors is None and not any(rows.values()):
        return rest, None
    row_ids, embeddings = _sorted(rows[ends.embedding], ends.width)
    column_ids, columns = _sorted(rows[ends.head], ends.width)
    vocab = max([signature.vocab_size, *(row_ids + 1), *(column_ids + 1)])
    changes = EndChanges(
        base_vocab=signature.vocab_size,
        vocab=int(vocab),
        row_ids=row_ids,
        rows=embeddings,
        column_ids=column_ids,
        columns=np.ascontiguousarray(columns.T),
        low_rank=factors,
    )
    return rest, changes


def is_copy(tensor: str, ends: Ends) -> bool:
    """Whether a tensor of a PEFT file is the embedding or the head, a copy of the base's or trained whole, by its name."""
    found = _COPY.fullmatch(tensor)
    return found is not None and found[1] + found[2] in ends.copies


def _own_rows(
    name: str, tensor: Factor, config: LoraConfig, signature: Signature, misfits: Misfits
) -> tuple[str, dict[int, Factor]]:
    """The module of an embedding or a head that PEFT saved, and its rows that are not the base's."""
    found, vocab = _COPY.fullmatch(name), signature.vocab_size
    assert found is not None
    assert signature.ends is not None
    module = found[1]
    base = np.ascontiguousarray(tensor[:vocab])
    same = hashlib.sha256(base.data).hexdigest() == signature.ends.copies[module + found[2]]
    if same:
        return module, {vocab + at: row for at, row in enumerate(tensor[vocab:])}
    if found[2] == ".weight" and config.saves(module) and base.shape == (vocab, signature.ends.width):
        return module, dict(enumerate(tensor))
    misfits.add(f"it holds another weight than the base's, trained or rounded; {MERGE}", name)
    return module, {}


def _same(one: Factor | None, other: Factor | None) -> bool:
    return one is not None and other is not None and np.array_equal(one, other)


def _trained(
    tensor: Factor, module: str, config: LoraConfig, ends: Ends, misfits: Misfits
) -> dict[int, Factor]:
    """The rows of trained tokens, by token."""
    indices = config.trainable_token_indices or []
    named = {ends.embedding: indices} if isinstance(indices, list) else indices
    ids = next((ids for name, ids in named.items() if f".{module}".endswith(f".{name}")), [])
    if module not in (ends.embedding, ends.head):
        misfits.add("it trains tokens of a module that is neither the embedding nor the head", module)
    elif tensor.shape != (len(ids), ends.width) or len({*ids}) < len(ids) or min(ids, default=0) < 0:
        expected = f"{len(ids)} different tokens, each with {ends.width} numbers"
        misfits.add(f"trained rows are {list(tensor.shape)}, adapter_config.json says {expected}", module)
    else:
        return dict(zip(ids, tensor, strict=True))
    return {}


def _check(
    rows: dict[str, dict[int, Factor]],
    low_rank: Tensors,
    rest: Tensors,
    config: LoraConfig,
    signature: Signature,
    misfits: Misfits,
) -> None:
    """Refuses what the bundle has no sockets for, what peft does not compute, and what is incomplete."""
    ends = signature.ends
    assert ends is not None
    of_embedding, of_head = rows[ends.embedding], rows[ends.head]
    head_factors = any(name.startswith(f"base_model.model.{ends.head}.lora_") for name in rest)
    if low_rank and "embedding" not in ends.kinds:
        misfits.add(f"LoRA of the embedding, for which this bundle has no socket; {SOCKETS}", ends.embedding)
    if (of_embedding or of_head) and "tokens" not in ends.kinds:
        misfits.add(f"tokens of its own, for which this bundle has no sockets; {SOCKETS}", ends.embedding)
    if (low_rank and of_embedding) or (head_factors and of_head):
        misfits.add(f"LoRA and trained tokens on one module, which peft does not compute; {MERGE}", ends.head)
    shared = low_rank or head_factors or config.saves(ends.embedding) or config.saves(ends.head)
    if config.ensure_weight_tying and ends.tied and shared:
        misfits.add(
            f"ensure_weight_tying is set: embedding and head share what was trained; {MERGE}", ends.head
        )
    new = {token for token in (*of_embedding, *of_head) if token >= signature.vocab_size}
    known = new & of_embedding.keys() & of_head.keys()
    gaps = {*range(signature.vocab_size, max(new, default=0) + 1)} - known
    if gaps:
        misfits.add("new tokens without a row in the embedding or in the head", _shown(gaps))
    if (size_bytes := 4 * ends.width * len(of_head)) > MOST_BYTES:
        misfits.add(
            f"its rows of the head take {size_bytes} bytes, at most {MOST_BYTES} are served unmerged; {MERGE}",
            ends.head,
        )
    for module, of_module in rows.items():
        if not all(np.isfinite(row).all() for row in of_module.values()):
            misfits.add("rows of tokens have values that are not finite", module)


def _low_rank(
    pair: Tensors, config: LoraConfig, signature: Signature, misfits: Misfits
) -> tuple[Factor, Factor] | None:
    """Factors [vocab, r] and [r, width] of the embedding's LoRA, the latter scaled; None where there is none, or it is wrong."""
    ends = signature.ends
    assert ends is not None
    module = ends.embedding
    if not pair:
        if "embedding" in ends.kinds and config.target_modules is not None and config.targets(module):
            misfits.add("adapter_config.json targets these, but their factors are missing", module)
        return None
    rank = config.rank(module)
    shapes = {"A": (rank, signature.vocab_size), "B": (ends.width, rank)}
    wrong = {factor: shape for factor, shape in shapes.items() if _shape(pair, factor) != shape}
    for factor, shape in wrong.items():
        there = _shape(pair, factor)
        said = "missing" if there is None else f"{list(there)}, the base needs {list(shape)}"
        misfits.add(f"lora_embedding_{factor} is {said}", module)
    if not config.targets(module):
        misfits.add("adapter_config.json does not target these, so peft would ignore their factors", module)
    if not all(np.isfinite(factor).all() for factor in pair.values()):
        misfits.add("lora_embedding factors have values that are not finite", module)
    if wrong:
        return None
    scaled = pair["B"] * np.float32(config.scale(module))
    return np.ascontiguousarray(pair["A"].T), np.ascontiguousarray(scaled.T)


def _shape(pair: Tensors, factor: str) -> tuple[int, ...] | None:
    return pair[factor].shape if factor in pair else None


def _sorted(rows: Mapping[int, Factor], width: int) -> tuple[Ids, Factor]:
    """Tokens in ascending order, and their rows [n, width]."""
    ids = np.array(sorted(rows), np.int64)
    table = np.array([rows[token] for token in ids.tolist()], np.float32)
    return ids, table.reshape(len(ids), width)


def _shown(tokens: set[int], most: int = 8) -> str:
    listed = ", ".join(map(str, sorted(tokens)[:most]))
    return f"{listed}, …" if len(tokens) > most else listed
