"""Adapters that reach a decoder's ends, mixed in one batch: what peft computes, and nothing for those who have none of it."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.bundles import tiny_bundle
from support.end_adapters import ends_folder, peft_logits
from support.tiny_models import FAMILIES, VOCAB

from ptune.engine.adapters.folder import install
from ptune.engine.adapters.lora import load_adapter
from ptune.engine.decoder.engine import Engine
from ptune.engine.decoder.request import Request
from ptune.engine.sampling import Sampling
from ptune.errors import AdapterError, BackboneError
from ptune.export.decoder.int4 import write_int4
from ptune.export.decoder.int8 import write_int8
from ptune.formats.bundle import BASE, FP32, Bundle
from ptune.formats.signature import STEP_INPUTS, EndKind
from ptune.parity import compare, log_softmax
from ptune.verify.decoder import company
from ptune.verify.decoder.graph import PlainGraph
from ptune.verify.decoder.plain_ends import PlainEnds

LIMIT = 5e-4
ALL: tuple[EndKind, ...] = ("head", "embedding", "tokens")
TESTED = ("llama", "llama_tied", "gemma", "gemma2", "gemma3", "gpt2", "cohere", "granite", "opt")
NEW_A, NEW_B = ("<ask>", "<say>"), ("<one>", "<two>", "<three>")
HEAD_BIAS = ("phi",)  # peft leaves it out where tokens are trained
SCALED: dict[str, dict[str, Any]] = {"granite": {"logits_scaling": 3.0}, "cohere": {"logit_scale": 0.6}}


@dataclass(frozen=True)
class Place:
    base: Path
    bundle: Bundle
    adapters: dict[str, tuple[Path, int]]  # folder, and tokens that it knows


def place(folder: Path, family: str) -> Place:
    """A bundle with all sockets, and adapters with and without a use for them."""
    ends = ALL[:2] if family in HEAD_BIAS else ALL
    base, _, bundle = tiny_bundle(folder, family, ends=ends, **SCALED.get(family, {}))
    made = {
        "head": (ends_folder(base, folder / "head", ends=["head"], seed=1), VOCAB),
        "both": (ends_folder(base, folder / "both", ends=["head", "embedding"], seed=2, r=2), VOCAB),
        "plain": (ends_folder(base, folder / "plain", seed=3), VOCAB),
    }
    if family not in HEAD_BIAS:
        made |= {
            "two": (ends_folder(base, folder / "two", new=NEW_A, seed=4), VOCAB + 2),
            "three": (ends_folder(base, folder / "three", new=NEW_B, retrained=[7, 3], seed=5), VOCAB + 3),
            "retrained": (ends_folder(base, folder / "retrained", retrained=[9], seed=6, r=2), VOCAB),
            "whole": (ends_folder(base, folder / "whole", whole=["embedding", "head"], seed=7), VOCAB),
            "table": (ends_folder(base, folder / "table", whole=["embedding"], seed=8, r=2), VOCAB),
        }
    for name, (adapter, _) in made.items():
        install(bundle, adapter, name)
    return Place(base, bundle, made)


def sequence(length: int, vocab: int, seed: int) -> list[int]:
    """Random tokens, with the last ones of a vocabulary and those that adapters retrain among them."""
    ids = np.random.default_rng(seed).integers(5, VOCAB, length)
    ids[1::4] = [vocab - 1 - at % 3 if vocab > VOCAB else 7 + 2 * (at % 2) for at in range(len(ids[1::4]))]
    return ids.tolist()


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return place(tmp_path_factory.mktemp("tied"), "llama_tied")


@pytest.mark.parametrize("family", [f for f in FAMILIES if f in (*TESTED, *HEAD_BIAS)])
def test_all_kinds_in_one_batch_are_what_peft_computes(family: str, tmp_path: Path) -> None:
    there = place(tmp_path, family)
    names = [*there.adapters, BASE]
    vocab = {BASE: VOCAB} | {name: size for name, (_, size) in there.adapters.items()}
    ids = {name: sequence(14 + 3 * at, vocab[name], at) for at, name in enumerate(names)}
    with closing(Engine.open(there.bundle, threads=1, prefill_chunk=10, replay_golden=False)) as engine:
        found = dict(zip(names, engine.logits([ids[name] for name in names], names), strict=True))
        assert {name: engine.vocab_size(name) for name in names} == vocab
    with closing(Engine.open(there.bundle, threads=1, prefill_chunk=64, replay_golden=False)) as engine:
        (alone,) = engine.logits([ids[BASE]], [BASE])
        (again,) = engine.logits([ids["plain"]], ["plain"])
    assert np.array_equal(alone, found[BASE]), "neighbours or chunks change the base's bits"
    assert np.abs(log_softmax(again) - log_softmax(found["plain"])).max() < 1e-4
    hop = company.hop(there.bundle, FP32, [ids[BASE]], threads=1)
    assert hop.passed, hop.note
    for name in names:
        folder = there.adapters[name][0] if name in there.adapters else None
        expected = peft_logits(there.base, folder, ids[name], vocab[name])
        assert found[name].shape == expected.shape, name
        assert np.abs(log_softmax(expected) - log_softmax(found[name])).max() < LIMIT, name
        if folder is not None:
            known = [token if token < VOCAB else 0 for token in ids[name]]
            plain = peft_logits(there.base, None, known)
            assert np.abs(expected[:, :VOCAB] - plain).max() > 0.05, name


def test_a_bundle_without_such_sockets_has_the_graph_of_before(tmp_path: Path) -> None:
    _, _, bundle = tiny_bundle(tmp_path)
    signature = bundle.decoder
    assert signature.ends is None
    assert not signature.end_inputs()
    assert {name.rpartition(".")[0] for name in signature.factor_names()} == {
        s.name for s in signature.sockets
    }
    assert all(
        "lm_head" not in name and "embed" not in name for name in (*STEP_INPUTS, *signature.factor_names())
    )


@pytest.mark.parametrize("profile", ["int8", "int4"])
def test_profiles_have_the_same_sockets(profile: str, tied: Place, tmp_path: Path) -> None:
    """The base's answers are those of a bundle without such sockets, and an adapter's as near to fp32's as the base's."""
    _, _, plain = tiny_bundle(tmp_path, "llama_tied")
    graphs = {}
    for name, bundle in (("plain", plain), ("tied", tied.bundle)):
        source, path = bundle.graph_path(FP32), tmp_path / name / "model.onnx"
        (write_int8 if profile == "int8" else write_int4)(source, path)
        graphs[name] = PlainGraph(path, bundle.decoder, threads=1)
    graphs["fp32"] = PlainGraph(tied.bundle.graph_path(FP32), tied.bundle.decoder, threads=1)
    ids = sequence(24, VOCAB + 2, 3)
    known = [token if token < VOCAB else 5 for token in ids]
    base, without, exact = (graphs[name].logprobs(known, range(24)) for name in ("tied", "plain", "fp32"))
    assert np.array_equal(base, without)
    lost = compare("", [exact], [base]).mean_kl or 0.0
    for name in ("both", "two"):
        adapter = load_adapter(tied.adapters[name][0], tied.bundle.decoder)
        plugs = adapter.factors, PlainEnds.of_engine(adapter)
        tokens = ids if name == "two" else known
        exact, rounded = (graphs[one].logprobs(tokens, range(24), *plugs) for one in ("fp32", "tied"))
        assert (compare("", [exact], [rounded]).mean_kl or 0.0) < 3 * lost + 1e-3, name


def test_the_base_never_says_a_new_token_and_an_adapter_does(tied: Place) -> None:
    prompt = (5, 9, 14)
    with closing(Engine.open(tied.bundle, threads=1, replay_golden=False)) as engine:
        warm = Sampling(temperature=3.0, seed=1)
        requests = [Request(prompt, name, warm, 60) for name in (BASE, "two", "three", "plain")]
        answers = [[token.id for token in answer] for answer in engine.generate_all(requests)]
        forced = Sampling(temperature=0, logit_bias={VOCAB: 1000.0})
        (only,) = engine.generate_all([Request(prompt, "two", forced, 5)])
        with pytest.raises(Exception, match=f"no token {VOCAB}; the vocabulary has {VOCAB}"):
            engine.generate_all([Request(prompt, BASE, forced, 5)])
        with pytest.raises(Exception, match=f"one or more tokens of 0 to {VOCAB + 1}"):
            engine.generate_all([Request((VOCAB + 2,), "two", Sampling(), 5)])
    assert max(answers[0]) < VOCAB
    assert max(answers[3]) < VOCAB
    assert [token.id for token in only] == [VOCAB] * 5


def test_a_prefix_with_own_tokens_is_found_again_under_its_adapter_alone(tied: Place) -> None:
    prompt = tuple(sequence(40, VOCAB + 2, 8))
    greedy = Sampling(temperature=0)
    with closing(Engine.open(tied.bundle, threads=1, replay_golden=False)) as engine:
        (first,) = engine.generate_all([Request(prompt, "two", greedy, 6)])
        assert engine.stats().reused == 0
        other = tuple(token if token < VOCAB else 5 for token in prompt)
        engine.generate_all([Request(other, "three", greedy, 1), Request(other, BASE, greedy, 1)])
        assert engine.stats().reused == 0
        (again,) = engine.generate_all([Request(prompt, "two", greedy, 6)])
        assert engine.stats().reused > 30
    assert [token.id for token in first] == [token.id for token in again]


def test_a_preempted_sequence_says_the_same(tied: Place) -> None:
    """Two slots: one tenant's long answers give way to another's, and go on from their own tokens."""
    prompt, greedy = tuple(sequence(12, VOCAB + 3, 9)), Sampling(temperature=0, logit_bias={VOCAB + 1: 3.0})
    with closing(Engine.open(tied.bundle, threads=1, replay_golden=False)) as engine:
        (alone,) = engine.generate_all([Request(prompt, "three", greedy, 60)])
    with closing(Engine.open(tied.bundle, threads=1, max_rows=2, replay_golden=False)) as engine:
        flood = [engine.generate(Request(prompt, "three", greedy, 60, tenant="flood")) for _ in range(3)]
        begun = [next(flood[0]), next(flood[1])]  # both slots are taken
        engine.generate_all([Request((5, 9), name, greedy, 30, tenant="other") for name in ("two", "three")])
        crowded = [[*begun[at : at + 1], *answer] for at, answer in enumerate(flood)]
        assert engine.stats().preempted > 0
    for answer in crowded:
        assert [token.id for token in answer] == [token.id for token in alone]


def test_what_a_bundle_has_no_socket_for_is_refused_by_name(tied: Place, tmp_path: Path) -> None:
    _, _, bare = tiny_bundle(tmp_path / "bare", "llama_tied")
    _, _, headed = tiny_bundle(tmp_path / "headed", "llama_tied", ends=["head"])
    cases = ((bare, "head", "output head.*--sockets"), (bare, "both", "embedding.*--sockets"),
             (bare, "two", "trainable_token_indices.*--sockets"), (headed, "both", "embedding.*--sockets"),
             (headed, "two", "trainable_token_indices.*--sockets"))  # fmt: skip
    for bundle, name, words in cases:
        with pytest.raises(AdapterError, match=f"(?s){words}"):
            install(bundle, tied.adapters[name][0], name)
    install(headed, tied.adapters["head"][0], "head")


def test_new_tokens_need_their_texts(tied: Place, tmp_path: Path) -> None:
    folder = ends_folder(tied.base, tmp_path / "nameless", new=["<x>"], seed=4)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(AdapterError, match=rf"without their texts \({VOCAB}\): put the tokenizer.json"):
        install(tied.bundle, folder, "nameless")


def test_a_trained_copy_of_the_head_is_refused(tied: Place, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = ends_folder(tied.base, tmp_path / "changed", ends=["head"], copies=True)
    tensors = load_file(folder / "adapter_model.safetensors")
    (name,) = (name for name in tensors if name.endswith("lm_head.base_layer.weight"))
    tensors[name][5, 5] += 1e-3
    save_file(tensors, folder / "adapter_model.safetensors")
    with pytest.raises(AdapterError, match=r"another weight than the base's.*lm_head"):
        install(tied.bundle, folder, "changed")


def test_a_head_with_a_bias_trains_no_tokens(tmp_path: Path) -> None:
    with pytest.raises(BackboneError, match="has a bias, which peft leaves out"):
        tiny_bundle(tmp_path, "phi", ends=ALL)
