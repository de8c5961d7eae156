"""Packed rows compute what each example would compute alone, in every family, or packing is refused."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from support import tiny_models
from torch import nn
from transformers import PreTrainedModel

from ptune.codecs.chat import Example
from ptune.methods.lora import Lora
from ptune.training.loss.head import plain_head
from ptune.training.loss.next_token import NextTokenObjective
from ptune.training.preparation import checkpoint_layers
from ptune.training.rows import segments
from ptune.training.rows.packing import Batch
from ptune.training.rows.segments import attention_kernel, packing

LENGTHS = (23, 9, 17, 2)  # the tiny models' sliding windows are 8
PACKED = (*tiny_models.FAMILIES, *tiny_models.ATTENTIONS)
SMALL = {"vocab_size": 600, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}


def examples(seed: int = 0) -> list[Example]:
    generator = torch.Generator().manual_seed(seed)
    found = []
    for length in LENGTHS:
        ids = torch.randint(5, tiny_models.VOCAB, (length,), generator=generator).tolist()
        wanted = [index > 0 and (index % 3 != 0 or length == 2) for index in range(length)]
        found.append(Example(tuple(ids), tuple(wanted)))
    return found


def objective(packed: bool, head: nn.Linear | None = None) -> NextTokenObjective:
    return NextTokenObjective(packed, max_tokens=1000, device=torch.device("cpu"), head=head)


def row(packed: bool, some: list[Example]) -> Batch:
    (batch,) = objective(packed).batches(some)
    return batch


def loss_of_transformers(model: nn.Module, example: Example) -> torch.Tensor:
    """Plain transformers: one example, full logits, labels shifted by hand."""
    logits = model(torch.tensor([example.ids])).logits[0, :-1]
    labels = [token if wanted else -100 for token, wanted in zip(example.ids, example.targets, strict=True)]
    return F.cross_entropy(logits, torch.tensor(labels[1:]), ignore_index=-100, reduction="sum")


def with_random_adapter(family: str) -> nn.Module:
    """A float64 model with a LoRA whose factors are not zero."""
    torch.manual_seed(0)
    model = tiny_models.model(family).double()
    if family in tiny_models.EXPERTS:
        model.set_experts_implementation("eager")  # others take no float64
    wrapped = Lora(r=3).apply(model).double()
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
    return wrapped


def gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(
    ("family", "fast"), [*((family, True) for family in PACKED), ("llama", False), ("gpt_oss", False)]
)
def test_packed_loss_and_gradients_are_those_of_each_example_alone(family: str, fast: bool) -> None:
    model = with_random_adapter(family)
    expected = sum(loss_of_transformers(model, example) for example in examples())
    expected.backward()
    alone = gradients(model)
    model.zero_grad()
    with packing(model.get_base_model(), fast) as packed:
        assert packed
        batch = row(True, examples())
        score = objective(True, plain_head(model.get_base_model())).score(model, batch)
        score.loss.backward()
    # transformers computes Gemma 2's softmax and Gemma 4's norms in float32 even in a float64 model.
    exact = 1e-6 if family in ("gemma2", "gemma4_text") else 1e-12
    assert float(score.loss) == pytest.approx(float(expected), rel=exact)
    found = gradients(model)
    assert found.keys() == alone.keys()
    assert all("lora_" in name for name in found)
    for name, gradient in alone.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e4 * exact, atol=10 * exact)


@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt2"])
def test_checkpointing_changes_no_gradient(family: str) -> None:
    model = with_random_adapter(family).train()
    backbone = model.get_base_model()
    found = []
    with packing(backbone):
        for checkpointing in (False, True):
            if checkpointing:
                checkpoint_layers(backbone)
            batch = row(True, examples())
            objective(True, plain_head(backbone)).score(
                model, batch
            ).loss.backward()  # recomputes outside of score's `segments`
            found.append(gradients(model))
            model.zero_grad()
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


@pytest.mark.parametrize("family", PACKED)
def test_changing_one_example_changes_nothing_in_the_others(family: str) -> None:
    model = tiny_models.model(family)
    first, *others = examples()
    changed = Example(tuple(reversed(first.ids)), first.targets)
    with packing(model), torch.no_grad():
        before, after = (objective(True).logits(model, row(True, [one, *others])) for one in (first, changed))
    assert not torch.equal(before[: first.target_count], after[: first.target_count])
    assert torch.equal(before[first.target_count :], after[first.target_count :])


def test_the_models_own_attention_is_back_afterwards() -> None:
    model = tiny_models.model("llama")
    with packing(model):
        assert model.config._attn_implementation == segments.NAME
    assert model.config._attn_implementation == "sdpa"


def test_a_row_that_the_segments_do_not_cover_is_refused_not_leaked() -> None:
    model = tiny_models.model("llama")
    with packing(model), pytest.raises(RuntimeError, match="do not cover"), segments.segments([3, 4]):
        model(torch.arange(8)[None])


UNPACKABLE = {
    "short convolutions beside attention": transformers.Lfm2Config(
        **SMALL, intermediate_size=128, num_key_value_heads=2, layer_types=["conv", "full_attention"]
    ),
    "positions only in an attention bias": transformers.BloomConfig(
        vocab_size=600, hidden_size=64, n_layer=2, n_head=4
    ),
    "a recurrent state": transformers.MambaConfig(vocab_size=600, hidden_size=64, num_hidden_layers=2),
}


@pytest.mark.parametrize("reason", UNPACKABLE)
def test_models_that_would_leak_train_one_example_a_forward_pass(reason: str) -> None:
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(UNPACKABLE[reason], dtype=torch.float32).eval()
    own = model.config._attn_implementation
    with packing(model) as packed, torch.no_grad():
        assert not packed
        assert model.config._attn_implementation == own
        batches = list(objective(packed).batches(examples()))
        assert len(batches) == len(LENGTHS)
        found = [float(objective(packed).score(model, batch).loss) for batch in batches]
        expected = [float(loss_of_transformers(model, example)) for example in examples()]
    assert found == pytest.approx(expected, rel=1e-5)


def test_a_leak_is_found_by_looking() -> None:
    """Convolutions mix neighbours; were they not told apart by the config, the probe would see it."""
    torch.manual_seed(0)
    config = UNPACKABLE["short convolutions beside attention"]
    model: PreTrainedModel = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    alone = segments._logits_alone(model)
    model.set_attn_implementation(segments.NAME)
    assert not segments._isolated(model, alone)


def test_attention_that_is_told_more_than_segments_know_is_found_by_looking(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A family that hands its attention a scale of its own under a name that nobody knows."""
    model = tiny_models.model("llama")
    plain = segments._attend

    def other(*arguments: object, scaling: float, **named: object) -> object:
        return plain(*arguments, scaling=2 * scaling, **named)  # type: ignore[arg-type]

    monkeypatch.setitem(transformers.AttentionInterface._global_mapping, segments.NAME, other)
    with packing(model) as packed:
        assert not packed


def varlen_by_hand(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, ends: torch.Tensor, *_: object, **options: object
) -> torch.Tensor:
    """What PyTorch's variable-length kernel computes, in plain operations: it has no implementation on the CPU."""
    assert options["window_size"] == (-1, 0)
    assert q.shape[1] == k.shape[1] or options["enable_gqa"]
    k, v = (states.repeat_interleave(q.shape[1] // k.shape[1], 1) for states in (k, v))
    found = []
    for start, end in itertools.pairwise(ends.tolist()):
        scores = torch.einsum("qhd,khd->hqk", q[start:end], k[start:end])
        scores = scores * (q.shape[-1] ** -0.5 if options["scale"] is None else options["scale"])
        seen = torch.ones(end - start, end - start).tril().bool()
        weights = scores.masked_fill(~seen, float("-inf")).softmax(-1)
        found.append(torch.einsum("hqk,khd->qhd", weights, v[start:end]))
    return torch.cat(found)


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma2", "gpt2"])
def test_all_segments_at_once_is_each_of_them_alone(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where they end is copied to the device once a pass, not once a layer."""
    model, calls = tiny_models.model(family), list[torch.Tensor]()
    monkeypatch.setattr(segments, "_has_kernel", lambda _: True)

    def counted(*a: Any, **k: Any) -> torch.Tensor:
        calls.append(a[3])
        return varlen_by_hand(*a, **k)

    monkeypatch.setattr(segments, "varlen_attn", counted)
    some = examples()
    with packing(model), torch.no_grad():
        calls.clear()
        fast = objective(True).logits(model, row(True, some))
    # Sliding windows (8 in the tiny models) and soft caps are left to plain attention.
    assert bool(calls) == (family in ("llama", "gpt2"))
    assert len({id(ends) for ends in calls}) <= 1
    monkeypatch.undo()
    with packing(model), torch.no_grad():
        plain = objective(True).logits(model, row(True, some))
    torch.testing.assert_close(fast, plain, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("disease", ["leaks", "raises"])
def test_a_kernel_that_does_not_agree_is_not_used(disease: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def sick(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, ends: torch.Tensor, *a: object, **o: object):  # type: ignore[no-untyped-def]
        if disease == "raises":
            raise RuntimeError("no kernel for this head size")
        return varlen_by_hand(q, k, v, ends[[0, -1]], *a, **o)  # one segment of all

    model = tiny_models.model("llama")
    with packing(model), torch.no_grad():
        plain = objective(True).logits(model, row(True, examples()))
    monkeypatch.setattr(segments, "_has_kernel", lambda _: True)
    monkeypatch.setattr(segments, "varlen_attn", sick)
    with packing(model) as packed, torch.no_grad():
        assert packed
        assert torch.equal(plain, objective(True).logits(model, row(True, examples())))


@functools.cache
def double(family: str) -> PreTrainedModel:
    return tiny_models.model(family).double()


@settings(max_examples=25)
@given(
    st.sampled_from(
        ["llama", "mistral", "gemma2"]
    ),  # plain, sliding window, soft cap: every path of attention
    st.lists(st.integers(2, 20), min_size=2, max_size=6),
    st.data(),
)
def test_no_example_moves_the_loss_of_another(family: str, lengths: list[int], data: st.DataObject) -> None:
    """The loss of each example in the row is bit-equal, whatever its neighbour says."""
    tokens = st.integers(5, tiny_models.VOCAB - 1)
    some = [Example(tuple(data.draw(st.lists(tokens, min_size=n, max_size=n))), (True,) * n) for n in lengths]
    moved = data.draw(st.integers(0, len(some) - 1))
    other = Example(tuple((token + 1) % tiny_models.VOCAB for token in some[moved].ids), some[moved].targets)
    model = double(family)
    with packing(model), torch.no_grad():
        before, after = (
            F.cross_entropy(objective(True).logits(model, batch), batch.labels, reduction="none").split(
                [n - 1 for n in lengths]
            )
            for batch in (row(True, some), row(True, [*some[:moved], other, *some[moved + 1 :]]))
        )
    for index, (kept, found) in enumerate(zip(before, after, strict=True)):
        assert torch.equal(kept, found) == (index != moved)


@pytest.mark.parametrize("agree", list(itertools.product([True, False], repeat=2)))
def test_two_models_go_through_the_kernel_if_both_agree_with_it(
    agree: tuple[bool, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A student's block, and in it that of its teacher; each is tested without what was found for the other."""
    models = [tiny_models.model("llama", seed=seed) for seed in range(2)]
    said = dict(zip(map(id, models), agree, strict=True))
    kernels = []

    def agrees(model: PreTrainedModel) -> bool:
        kernels.append(segments._at_once)
        return said[id(model)]

    monkeypatch.setattr(segments, "_has_kernel", lambda _: True)
    monkeypatch.setattr(segments, "_kernel_agrees", agrees)
    at_once = "FlashAttention, packed examples at once"
    with packing(models[0]):
        assert (attention_kernel(models[0]) == at_once) == agree[0]
        with packing(models[1]):
            assert [attention_kernel(model) == at_once for model in models] == [all(agree)] * 2
        assert (attention_kernel(models[0]) == at_once) == agree[0]
    assert kernels == [False, False]
    assert not segments._at_once


@pytest.mark.parametrize("window", [None, 16])
def test_a_window_that_is_in_the_mask_alone_is_found_by_looking(window: int | None) -> None:
    """Phi-MoE's layers do not tell attention of their window, which is longer than what a model is looked at with."""
    torch.manual_seed(0)
    model = transformers.PhimoeForCausalLM(
        transformers.PhimoeConfig(
            **SMALL, intermediate_size=32, num_key_value_heads=2, num_local_experts=2, sliding_window=window
        )
    ).eval()
    ids = torch.arange(5, 29)[None]
    with packing(model) as packed:
        assert packed == (window is None)
        with torch.no_grad(), segments.segments([24]):
            found = model(ids, use_cache=False).logits
    with torch.no_grad():
        torch.testing.assert_close(found, model(ids, use_cache=False).logits, rtol=1e-4, atol=1e-4)
