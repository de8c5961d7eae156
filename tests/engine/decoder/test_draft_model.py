"""A draft model changes no answer: only how many steps they take."""

from __future__ import annotations

import shutil
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest

from ptune.engine.decoder.drafts.length import LENGTHS, DraftLength
from ptune.engine.decoder.drafts.model import DraftModel
from ptune.engine.decoder.engine import Engine
from ptune.engine.decoder.request import Request, Token
from ptune.engine.decoder.sequence import TokenSequence
from ptune.engine.decoder.stats import EngineStats
from ptune.engine.sampling import Sampling
from ptune.errors import UsageError
from ptune.formats.bundle import Bundle
from ptune.formats.whole_write import sha256_of

if TYPE_CHECKING:
    from support.tiny_bundle import TinyBundle

GREEDY = Sampling(temperature=0)


@pytest.fixture(scope="module")
def target(tiny: TinyBundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny bundle with a tokenizer."""
    from support import tiny_bundle

    folder = tmp_path_factory.mktemp("target") / "bundle"
    shutil.copytree(tiny.folder, folder)
    tiny_bundle.add_codec(folder, "{{ messages }}")
    return folder


@pytest.fixture(scope="module")
def near(target: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that often says what the target says: its weights, a little off."""
    folder = tmp_path_factory.mktemp("near") / "bundle"
    shutil.copytree(target, folder)
    path = folder / "graphs" / "fp32" / "model.onnx"
    model, chance = onnx.load(path), np.random.default_rng(0)
    for initializer in model.graph.initializer:
        weights = onnx.numpy_helper.to_array(initializer)
        if weights.dtype == np.float32 and weights.ndim == 2:
            off = weights + 0.05 * weights.std() * chance.standard_normal(weights.shape).astype(np.float32)
            initializer.CopyFrom(onnx.numpy_helper.from_array(off, initializer.name))
    onnx.save(model, path)
    bundle = Bundle.open(folder)
    graph = bundle.manifest.graphs["fp32"].model_copy(
        update={"files": {"graphs/fp32/model.onnx": sha256_of(path)}}
    )
    bundle.write_manifest(bundle.manifest.model_copy(update={"graphs": {"fp32": graph}}))
    return folder


def answers(
    folder: Path, requests: list[Request], draft: Path | None, **options: Any
) -> tuple[list[list[Token]], EngineStats]:
    options = {"threads": 1, "num_speculative_tokens": 0, "replay_golden": False, **options}
    with closing(Engine.open(folder, draft_model=draft, **options)) as engine:
        return engine.generate_all(requests), engine.stats()


def requests_of(count: int, **options: Any) -> list[Request]:
    prompts = np.random.default_rng(3).integers(3, 60, (count, 24)).tolist()
    names = ("base", "wide", "narrow")
    return [
        Request(tuple(prompt[: 4 + 3 * at]), names[at % 3], **{"max_tokens": 40, **options})
        for at, prompt in enumerate(prompts)
    ]


def test_a_draft_that_is_always_right_leaves_few_steps(target: Path) -> None:
    [request] = requests_of(1, sampling=GREEDY, logprobs=2, max_tokens=120)
    (plain, without), (drafted, with_it) = (answers(target, [request], draft) for draft in (None, target))
    assert plain == drafted, "ids and log-probabilities, bit for bit"
    assert with_it.accepted == with_it.drafted > 60
    assert with_it.steps < 0.6 * without.steps
    assert without.drafted == 0


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_any_company_gets_its_own_answers(target: Path, near: Path, temperature: float) -> None:
    """Adapters, seeds and lengths, of which the draft model knows nothing; few slots, a long prompt read in pieces."""
    requests = requests_of(6, sampling=Sampling(temperature=temperature, seed=1))
    (plain, _), (drafted, stats) = (
        answers(target, requests, draft, max_rows=3, prefill_chunk=8) for draft in (None, near)
    )
    assert [[(t.id, t.finish) for t in one] for one in plain] == [
        [(t.id, t.finish) for t in one] for one in drafted
    ]
    assert stats.accepted < stats.drafted
    assert stats.accepted > 0 or temperature, "a random model's samples are hardly ever the likeliest token"


def test_answers_end_where_they_should(target: Path) -> None:
    for most in (1, 2, 3, 6):
        [answer], _ = answers(target, requests_of(1, sampling=GREEDY, max_tokens=most), target)
        assert (len(answer), answer[-1].finish) == (most, "length")
    [request] = requests_of(1, sampling=GREEDY)
    [whole], _ = answers(target, [request], None)
    stop = whole[12].id
    first = [token.id for token in whole].index(stop)
    [answer], _ = answers(target, requests_of(1, sampling=GREEDY, stop_ids=frozenset({stop})), target)
    assert [token.id for token in answer] == [token.id for token in whole[: first + 1]]


def test_a_draft_model_that_fails_ends_no_answer(
    target: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("broken")

    monkeypatch.setattr(DraftModel, "propose", broken)
    requests = requests_of(2, sampling=GREEDY)
    (plain, _), (drafted, stats) = (answers(target, requests, draft) for draft in (None, target))
    assert plain == drafted
    assert stats.drafted == 0
    assert caplog.text.count("the draft model failed") == 1


def of_vocabulary(target: Path, folder: Path, size: int) -> Path:
    """The same model with other rows behind the tokenizer's tokens: fewer or more than the target's. Of those that are more, one is
    always by far the likeliest token."""
    shutil.copytree(target, folder)
    bundle, path = Bundle.open(folder), folder / "graphs" / "fp32" / "model.onnx"
    model, before = onnx.load(path), bundle.decoder.vocab_size
    for initializer in model.graph.initializer:
        weights = onnx.numpy_helper.to_array(initializer)
        if before in weights.shape:
            axis = weights.shape.index(before)
            row = 100 * np.take(weights, [5], axis)
            more = [row, -row] * ((size - before) // 2)
            kept = np.take(weights, range(min(size, before)), axis)
            resized = np.concatenate([kept, *more], axis)
            initializer.CopyFrom(onnx.numpy_helper.from_array(resized, initializer.name))
    [logits] = (output for output in model.graph.output if output.name == "logits")
    logits.type.tensor_type.shape.dim[-1].dim_value = size
    del model.graph.value_info[:]
    onnx.save(model, path)
    graph = bundle.manifest.graphs["fp32"].model_copy(
        update={"files": {"graphs/fp32/model.onnx": sha256_of(path)}}
    )
    signature = bundle.decoder.model_copy(update={"vocab_size": size})
    bundle.write_manifest(
        bundle.manifest.model_copy(update={"graphs": {"fp32": graph}, "signature": signature})
    )
    return folder


def test_a_text_with_a_token_that_it_does_not_know_is_left_to_the_target(
    target: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Models of one tokenizer have different numbers of rows behind it. Nobody's request puts an end to the drafts of others."""
    narrow = of_vocabulary(target, tmp_path / "narrow", 500)
    known, unknown = requests_of(2, sampling=GREEDY)
    unknown = replace(unknown, prompt=(*unknown.prompt, 580, 7))
    plain, _ = answers(target, [unknown, known], None)
    options: dict[str, Any] = {"threads": 1, "num_speculative_tokens": 0, "replay_golden": False}
    with closing(Engine.open(target, draft_model=narrow, **options)) as engine:
        assert engine.generate_all([unknown]) == plain[:1]
        assert engine.generate_all([known, unknown]) == plain[::-1]
        assert engine.stats().accepted > 0
    assert not caplog.text


def test_what_the_target_does_not_know_is_not_proposed(target: Path, tmp_path: Path) -> None:
    wide = of_vocabulary(target, tmp_path / "wide", 620)
    requests = requests_of(2, sampling=GREEDY)
    (plain, _), (drafted, stats) = (answers(target, requests, draft) for draft in (None, wide))
    assert plain == drafted
    assert stats.accepted > 0


def test_another_tokenizer_is_refused(target: Path, tiny: TinyBundle, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(target, other)
    tokenizer = other / "codec" / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text().replace('"<pad>"', '"<fill>"'))
    with pytest.raises(UsageError, match="its tokenizer is another than that of"):
        Engine.open(target, draft_model=other, threads=1, replay_golden=False)


def test_its_cache_is_cut_with_the_engines(target: Path) -> None:
    """After requests that came and went, the draft model holds no more positions than the engine: the same model, the same bytes."""
    requests = requests_of(6, sampling=GREEDY) * 3
    _, plain = answers(target, requests, None, max_rows=2, kv_bytes=2**18)
    _, stats = answers(target, requests, target, max_rows=2, kv_bytes=2**18)
    assert plain.kv_resident_bytes < stats.kv_resident_bytes <= 2.2 * plain.kv_resident_bytes


def test_what_it_reads_is_never_what_another_sequence_left(target: Path) -> None:
    """Proposals are those of a model that reads the sequence alone, whatever was in the slot before."""
    with closing(Engine.open(target, threads=1, replay_golden=False)) as engine:
        model = DraftModel.open(target, engine.bundle, engine._cache, engine._options)
    chance, seen = np.random.default_rng(0), 0
    tokens = chance.integers(3, 60, 30).tolist()
    for _ in range(30):
        sequence = TokenSequence([*tokens])
        sequence.slot = int(chance.integers(2))
        most = int(chance.integers(1, 6))
        draft = model.propose({sequence: most})[sequence]
        fresh = DraftModel.open(target, engine.bundle, engine._cache, engine._options)
        assert draft == fresh.propose({sequence: most})[sequence]
        seen += len(draft)
        accepted = int(chance.integers(len(draft) + 1))
        tokens += [*draft[:accepted], int(chance.integers(3, 60))]
        if chance.random() < 0.3:
            tokens = tokens[: int(chance.integers(4, len(tokens)))]
        model.copy(sequence.slot, 1 - sequence.slot, 0, int(chance.integers(len(tokens))))
        model.cut(int(chance.integers(2)), int(chance.integers(60)))
    assert seen > 30


def simulated(accepts: float, cost: float, steps: int, sequences: int = 1) -> list[int]:
    """The lengths that are chosen where each draft token is right with a chance, and costs a share of a step."""
    chosen, lengths, chance = [], DraftLength(), np.random.default_rng(1)
    for _ in range(steps):
        length = lengths.choose(sequences)
        right = int(np.cumprod(chance.random(length) < accepts).sum())
        lengths.observe(sequences, length, right, min(right + 1, length), 1 + cost * length)
        chosen.append(length)
    return chosen


def test_the_length_that_pays_is_used() -> None:
    """For drafts that are right with a chance a, at a cost c of a step: the best of (1 - a^(k+1)) / (1 - a) / (1 + c k)."""
    for accepts, cost in [(0.9, 0.1), (0.6, 0.1), (0.8, 0.5), (0.3, 0.5), (0.0, 0.05)]:
        expected = {k: (1 - accepts ** (k + 1)) / (1 - accepts) / (1 + cost * k) for k in LENGTHS}
        chosen = simulated(accepts, cost, 4000)[100:]
        got = np.mean([expected[length] for length in chosen])
        assert got > 0.9 * max(expected.values()), (accepts, cost, got, expected)
    assert simulated(0.0, 0.3, 4000)[100:].count(0) > 3700, "drafts that fail are seldom tried"


def test_lengths_are_learnt_for_each_number_of_sequences() -> None:
    lengths = DraftLength()
    for _ in range(200):
        for sequences, pays in ((1, True), (8, False)):
            length = lengths.choose(sequences)
            tried = sequences * (length if pays else min(length, 1))
            lengths.observe(sequences, length, tried * pays, tried, 1 + length / 4)
    assert [lengths.choose(1), lengths.choose(8), lengths.choose(9)] == [8, 0, 0]
