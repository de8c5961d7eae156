"""Sums of adapters: with biases and LoRA of the ends; kept, bounded, forgotten with their parts, refused in a sentence."""

from __future__ import annotations

import queue
import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import peft
import pytest
from support.bundles import peft_folder, tiny_bundle
from support.end_adapters import ends_folder
from support.prompt_adapters import save_prompt

from ptune.engine.adapters.folder import install
from ptune.engine.adapters.lora import factor_bytes
from ptune.engine.decoder.engine import Engine
from ptune.engine.decoder.request import Request, Token
from ptune.engine.sampling import Sampling
from ptune.errors import RequestError
from ptune.formats.bundle import Bundle
from ptune.parity import log_softmax

IDS = [5, 60, 7, 301, 9, 10, 44]
GREEDY = Sampling(temperature=0)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Four adapters of rank 4, one of 60, one of virtual tokens."""
    place = tmp_path_factory.mktemp("sums")
    base, _, bundle = tiny_bundle(place)
    for seed, name in enumerate("abcd"):
        install(bundle, peft_folder(base, place / name, seed=seed, spread=0.3), name)
    install(bundle, peft_folder(base, place / "wide", r=60, target_modules=["q_proj"]), "wide")
    install(bundle, save_prompt(base, place / "p", "prefix"), "p")
    return bundle


@pytest.fixture
def engine(bundle: Bundle) -> Iterator[Engine]:
    with closing(Engine.open(bundle, threads=1, max_rows=4, replay_golden=False)) as opened:
        yield opened


def refused(engine: Engine, name: str) -> RequestError:
    with pytest.raises(RequestError) as error:
        engine.logits([IDS], [name])
    return error.value


def test_a_sum_is_its_parts_and_has_one_name(engine: Engine) -> None:
    names = ["a", "b", "a+b", "b+a", "2*a", "a+a", "1*a", "0.5*a+0.5*a", "a+0.5*b+-1*a"]
    found = dict(zip(names, engine.logits([IDS] * len(names), names), strict=True))
    for same in (("2*a", "a+a"), ("a", "1*a"), ("a", "0.5*a+0.5*a")):
        np.testing.assert_array_equal(found[same[0]], found[same[1]])
    np.testing.assert_allclose(found["a+b"], found["b+a"], atol=1e-3)
    assert np.abs(found["a+b"] - found["a"]).max() > 0.1
    assert np.abs(found["2*a"] - found["a"]).max() > 0.1
    assert {*engine.in_memory} - {*engine.adapters} == {"a+b", "b+a", "2*a", "0.5*b"}
    record = engine.record("0.50*c + d")
    assert record is not None
    assert (record.name, record.rank) == ("0.5*c+d", 8)


def test_what_cannot_be_summed_is_refused_in_a_sentence(engine: Engine) -> None:
    error = refused(engine, "a+nobody")
    assert (error.status, error.code) == (404, "model_not_found")
    error = refused(engine, "a+p")
    assert (error.status, error.code) == (400, "invalid_sum")
    assert str(error) == "adapter 'p' brings virtual tokens, and is no part of a sum"


def test_its_rank_is_bounded(bundle: Bundle, tmp_path: Path) -> None:
    folder = shutil.copytree(bundle.folder, tmp_path / "bundle")
    small = Bundle.open(folder)
    for name in "abcdefghijklmn":
        if name not in small.manifest.adapters:
            install(small, small.adapter_path("wide"), name)
    with closing(Engine.open(folder, threads=1, replay_golden=False)) as engine:
        engine.logits([IDS], ["e+f"])
        error = refused(engine, "e+f+a")
        assert (error.status, error.code) == (400, "invalid_sum")
        assert str(error) == "the sum 'e+f+a' has rank 124, and here sums have up to 120"


def test_sums_in_memory_are_bounded_and_go_with_their_parts(engine: Engine) -> None:
    names = [f"{at / 10:g}*a+b" for at in range(2, 30)]
    engine.logits([IDS] * 8, names[:8])
    engine.logits([IDS] * 8, names[8:16])
    sums = {*engine.in_memory} - {*engine.adapters}
    assert len(sums) == 16
    engine.logits([IDS], ["c+d"])
    sums = {*engine.in_memory} - {*engine.adapters}
    assert (len(sums), "c+d" in sums, names[0] in sums) == (16, True, False)
    with engine._changed:  # nothing ends meanwhile
        waiting = [
            engine.submit(Request((5, 6), name, GREEDY, max_tokens=2), lambda _: None) for name in names[:16]
        ]
        with pytest.raises(RequestError) as error:
            engine.submit(Request((5, 6), names[16], GREEDY), lambda _: None)
        assert (error.value.status, error.value.code) == (429, "too_many_sums")
    assert len(waiting) == 16
    engine.load_adapter("a")
    assert not any("a" in name for name in {*engine.in_memory} - {*engine.adapters})
    engine.drop_adapter("c")
    assert "c+d" not in engine.in_memory
    assert refused(engine, "c+d").status == 404


def test_a_sum_is_read_again_where_memory_is_short(bundle: Bundle) -> None:
    limit = 3 * factor_bytes(bundle.adapter_path("wide"))
    asked = [
        Request((5, 6, 7), name, GREEDY, max_tokens=3) for name in ("a+b", "wide+c", "c+d", "a", "0.5*b") * 3
    ]
    with closing(Engine.open(bundle, threads=1, max_rows=3, replay_golden=False)) as engine:
        expected = engine.generate_all(asked)
    with closing(
        Engine.open(bundle, threads=1, max_rows=3, adapter_bytes=limit, replay_golden=False)
    ) as engine:
        assert engine.generate_all(asked) == expected
        assert engine.adapter_stats().evictions


def test_who_waits_for_a_sum_hears_that_a_part_was_dropped(bundle: Bundle) -> None:
    with closing(Engine.open(bundle, threads=1, replay_golden=False)) as engine:
        came: queue.SimpleQueue[Token] = queue.SimpleQueue()
        with engine._changed:
            engine.submit(Request((5, 6), "a+b", GREEDY), came.put)
            engine.drop_adapter("b")
        token = came.get(timeout=120)
        assert (token.finish, token.error) == ("error", "adapter 'b' was dropped")


def test_biases_and_ends_are_summed_too(tmp_path: Path) -> None:
    base, _, bundle = tiny_bundle(tmp_path, "gpt2", ends=("head", "embedding", "tokens", "biases"))
    model = ends_folder(base, tmp_path / "ends", ends=("head", "embedding"), seed=1)
    biased = peft_folder(base, tmp_path / "biased", seed=2, spread=0.3, lora_bias=True, r=3)
    tokens = ends_folder(base, tmp_path / "tokens", retrained=(7,), seed=3)
    for folder in (model, biased, tokens):
        install(bundle, folder, folder.name)
    with closing(Engine.open(bundle, threads=1, replay_golden=False)) as engine:
        bare, ends, other, both = engine.logits(
            [IDS] * 4, ["base", "ends", "biased", "0.5*ends+-0.75*biased"]
        )
        error = refused(engine, "ends+tokens")
    assert str(error) == "adapter 'tokens' is more than an update of layers, and is no part of a sum"
    assert min(np.abs(one - bare).max() for one in (ends, other)) > 0.1
    expected = summed_logits(base, {model: 0.5, biased: -0.75})
    assert np.abs(log_softmax(both) - log_softmax(expected)).max() < 5e-4


def summed_logits(base: Path, parts: dict[Path, float]) -> np.ndarray:
    """Both adapters active at once in peft, each scaled: which adds up biases and embeddings, too."""
    import torch
    from transformers import AutoModelForCausalLM

    first, *others = parts
    model = peft.PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), str(first)
    )
    for other in others:
        model.load_adapter(str(other), other.name)
    for layer in model.modules():
        if isinstance(layer, peft.tuners.lora.LoraLayer):
            for name, factor in zip(
                ["default", *(other.name for other in others)], parts.values(), strict=True
            ):
                if name in layer.scaling:
                    layer.scaling[name] *= factor
    model.base_model.set_adapter(["default", *(other.name for other in others)])
    with torch.no_grad():
        return model.eval()(torch.tensor([IDS])).logits[0].numpy()


def test_a_sum_is_not_dropped_by_its_name(engine: Engine) -> None:
    for name in ("a+b", "2*a"):
        with pytest.raises(RequestError, match="a sum of adapters, cannot be dropped"):
            engine.drop_adapter(name)
    assert engine.adapters == ["a", "b", "c", "d", "wide", "p"]
