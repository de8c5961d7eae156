"""What adapters change at a decoder's ends: read from PEFT's tensors, or refused with everything that is wrong."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest

from ptune.engine.adapters import ends
from ptune.engine.adapters.ends import EndChanges, read_ends
from ptune.engine.adapters.misfits import Misfits
from ptune.engine.adapters.peft_config import LoraConfig
from ptune.errors import AdapterError
from ptune.formats.signature import EndKind, Ends, Signature

VOCAB, WIDTH = 20, 6
RANDOM = np.random.default_rng(0)
EMBEDDING, HEAD = RANDOM.standard_normal((2, VOCAB, WIDTH)).astype(np.float32)
AT = "base_model.model.model.embed_tokens"
AT_HEAD = "base_model.model.lm_head"
ROWS = "token_adapter.trainable_tokens_delta"


def signature(
    *, tied: bool = False, kinds: tuple[EndKind, ...] = ("head", "embedding", "tokens")
) -> Signature:
    weights = {"model.embed_tokens.weight": EMBEDDING, "lm_head.weight": EMBEDDING if tied else HEAD}
    copies = {name: hashlib.sha256(weight.tobytes()).hexdigest() for name, weight in weights.items()}
    where: dict[str, Any] = {"embedding": "model.embed_tokens", "head": "lm_head", "width": WIDTH}
    of_ends = Ends(kinds=kinds, tied=tied, copies=copies, **where)
    return Signature(vocab_size=VOCAB, context=9, cache=(), sockets=(), ends=of_ends)


def rows(count: int) -> Any:
    return RANDOM.standard_normal((count, WIDTH)).astype(np.float32)


def low_rank(rank: int = 2) -> dict[str, Any]:
    a, b = RANDOM.standard_normal((rank, VOCAB)), RANDOM.standard_normal((WIDTH, rank))
    return {f"{AT}.lora_embedding_A": a.astype(np.float32), f"{AT}.lora_embedding_B": b.astype(np.float32)}


def read(
    tensors: dict[str, Any], signature: Signature, **config: Any
) -> tuple[dict[str, Any], EndChanges | None]:
    """Raises: AdapterError."""
    misfits = Misfits([])
    targets: dict[str, Any] = {"target_modules": ["q_proj"], "r": 2, "lora_alpha": 6} | config
    found = read_ends(tensors, LoraConfig(**targets), signature, misfits)
    misfits.raise_for("x")
    return found


def tokens(**of_modules: list[int]) -> dict[str, Any]:
    return {"trainable_token_indices": of_modules}


def test_an_adapter_that_leaves_the_ends_alone_changes_nothing() -> None:
    other = {"base_model.model.model.layers.0.q_proj.lora_A.weight": rows(2)}
    assert read({**other, f"{AT}.weight": EMBEDDING}, signature()) == (other, None)


def test_a_tied_head_shares_the_rows_and_another_has_its_own() -> None:
    own, of_head = rows(3), rows(3)
    ids = [21, 7, 20]
    _, tied = read({f"{AT}.{ROWS}": own}, signature(tied=True), **tokens(embed_tokens=ids))
    both = {f"{AT}.{ROWS}": own, f"{AT_HEAD}.{ROWS}": of_head}
    _, apart = read(both, signature(), **tokens(embed_tokens=ids, lm_head=ids))
    assert tied is not None
    assert apart is not None
    for found, columns in ((tied, own), (apart, of_head)):
        assert found.vocab == 22
        assert found.row_ids.tolist() == found.column_ids.tolist() == [7, 20, 21]
        np.testing.assert_array_equal(found.rows, own[[1, 2, 0]])
        np.testing.assert_array_equal(found.columns, columns[[1, 2, 0]].T)
        assert found.columns.flags.c_contiguous


def test_rows_that_peft_saved_behind_the_bases_are_the_adapters_own() -> None:
    longer = np.concatenate([EMBEDDING, rows(2)])
    tensors = {f"{AT}.token_adapter.base_layer.weight": longer, f"{AT}.{ROWS}": rows(1)}
    _, found = read(tensors, signature(tied=True), **tokens(embed_tokens=[20]))
    assert found is not None
    assert found.row_ids.tolist() == [20, 21]
    np.testing.assert_array_equal(found.rows, [tensors[f"{AT}.{ROWS}"][0], longer[21]])


def test_embeddings_are_looked_up_alike_in_any_number() -> None:
    tensors = low_rank()
    _, found = read(tensors, signature(), target_modules=["embed_tokens"])
    assert found is not None
    kept, shift = found.embedded(np.arange(VOCAB))
    assert kept.all()
    expected = 3 * tensors[f"{AT}.lora_embedding_A"].T @ tensors[f"{AT}.lora_embedding_B"].T  # alpha / r = 3
    np.testing.assert_allclose(shift, expected, atol=1e-5)
    for token in range(VOCAB):
        assert np.array_equal(found.embedded(np.array([token]))[1][0], shift[token])


def test_own_tokens_replace_rows_and_columns() -> None:
    own = rows(2)
    _, found = read({f"{AT}.{ROWS}": own}, signature(tied=True), trainable_token_indices=[4, 20])
    assert found is not None
    kept, shift = found.embedded(np.array([4, 5, 20]))
    assert kept.tolist() == [False, True, False]
    np.testing.assert_array_equal(shift, [own[0], np.zeros(WIDTH), own[1]])
    computed = np.arange(VOCAB + 5, dtype=np.float32)[None]  # the last three belong to a wider neighbour
    logits = found.logits(computed)
    assert logits.shape == (1, VOCAB + 1)
    assert (logits[0, 4], logits[0, 5], logits[0, 20]) == (VOCAB, 5, VOCAB + 1)


NAN = np.full((1, WIDTH), np.nan, np.float32)
WRONG: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "a token without a row in the head": (
        {f"{AT}.{ROWS}": rows(1)}, tokens(embed_tokens=[20]), "new tokens without a row .*: 20",
    ),
    "a gap": (
        {f"{AT}.{ROWS}": rows(1), f"{AT_HEAD}.{ROWS}": rows(1)}, tokens(embed_tokens=[22], lm_head=[22]), ": 20, 21",
    ),
    "fewer rows than tokens": ({f"{AT}.{ROWS}": rows(1)}, tokens(embed_tokens=[3, 4]), "says 2 different tokens"),
    "a token twice": ({f"{AT}.{ROWS}": rows(2)}, tokens(embed_tokens=[3, 3]), "2 different tokens"),
    "not finite": ({f"{AT}.{ROWS}": NAN}, tokens(embed_tokens=[3]), "not finite"),
    "LoRA and rows on one module": (
        {**low_rank(), f"{AT}.{ROWS}": rows(1)}, {**tokens(embed_tokens=[3]), "target_modules": ["embed_tokens"]},
        "which peft does not compute",
    ),
    "rows of another module": ({f"base_model.model.other.{ROWS}": rows(1)}, tokens(other=[3]), "neither the embedding"),
    "another table": ({f"{AT}.weight": EMBEDDING + 1}, {}, "another weight than the base's"),
    "LoRA of another rank": (low_rank(3), {"target_modules": ["embed_tokens"]}, r"is \[3, 20\], the base needs \[2, 20\]"),
    "LoRA that is not targeted": (low_rank(), {}, "does not target these"),
    "a missing factor": (
        {f"{AT}.lora_embedding_A": low_rank()[f"{AT}.lora_embedding_A"]}, {"target_modules": ["embed_tokens"]},
        "lora_embedding_B is missing",
    ),
    "no factors at all": ({}, {"target_modules": ["embed_tokens"]}, "their factors are missing"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit_is_refused(case: str) -> None:
    tensors, config, words = WRONG[case]
    with pytest.raises(AdapterError, match=words):
        read(tensors, signature(), **config)


def test_whole_tables_are_the_adapters_own_where_it_says_so() -> None:
    tensors = {f"{AT_HEAD}.weight": HEAD + 1, f"{AT}.weight": EMBEDDING}
    _, found = read(tensors, signature(), modules_to_save=["lm_head", "embed_tokens"])
    assert found is not None
    assert len(found.row_ids) == 0, "this one is the base's"
    np.testing.assert_array_equal(found.columns, (HEAD + 1).T)
    computed = np.arange(2 * VOCAB, dtype=np.float32)[None]
    np.testing.assert_array_equal(found.logits(computed)[0], computed[0, VOCAB:])
    _, tied = read({f"{AT}.weight": EMBEDDING + 1}, signature(tied=True), modules_to_save=["embed_tokens"])
    assert tied is not None
    assert len(tied.row_ids) == VOCAB
    assert len(tied.column_ids) == 0, "peft leaves a tied head as it was"


def test_tied_factors_and_too_many_tokens_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    config = {"target_modules": ["embed_tokens", "lm_head"], "ensure_weight_tying": True}
    with pytest.raises(AdapterError, match="ensure_weight_tying is set"):
        read(low_rank(), signature(tied=True), **config)
    monkeypatch.setattr(ends, "MOST_BYTES", 2 * 4 * WIDTH)
    assert (
        read({f"{AT}.{ROWS}": rows(2)}, signature(tied=True), **tokens(embed_tokens=[20, 21]))[1] is not None
    )
    with pytest.raises(AdapterError, match="take 72 bytes, at most 48 are served unmerged"):
        read({f"{AT}.{ROWS}": rows(3)}, signature(tied=True), **tokens(embed_tokens=[20, 21, 22]))


@pytest.mark.parametrize("kinds", [("head",), ("tokens",), ("embedding",)])
def test_only_what_the_bundle_has_sockets_for(kinds: tuple[EndKind, ...]) -> None:
    for kind, tensors, config in (
        ("embedding", low_rank(), {"target_modules": ["embed_tokens"]}),
        ("tokens", {f"{AT}.{ROWS}": rows(1)}, tokens(embed_tokens=[3])),
    ):
        if kind in kinds:
            assert read(tensors, signature(tied=True, kinds=kinds), **config)[1] is not None
        else:
            with pytest.raises(AdapterError, match="--sockets"):
                read(tensors, signature(tied=True, kinds=kinds), **config)
