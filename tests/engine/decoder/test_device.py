"""An engine whose graph, cache, states and adapters are on a device: here the CPU stands in its place (support.lent_memory).

What it says is compared with transformers and peft. Attention is in half precision, so numbers are near and not the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from support.bundles import peft_folder, tiny_bundle, with_peft
from support.lent_memory import DEVICE, lend
from support.prompt_adapters import Alone, install_prompt, save_prompt
from support.tiny_models import VOCAB

from ptune.engine.adapters.folder import install
from ptune.engine.decoder.cache.device_cache import DeviceCache
from ptune.engine.decoder.engine import Engine
from ptune.engine.decoder.golden import Replay, record
from ptune.engine.decoder.request import Request
from ptune.engine.sampling import Sampling
from ptune.errors import ParityError, UsageError
from ptune.formats.bundle import BASE, Bundle

if TYPE_CHECKING:
    from support.tiny_bundle import TinyBundle

GREEDY = Sampling(temperature=0)
LIMIT = 0.02  # of a logit, whose deviation is 1 to 3
NAMES = [BASE, "wide", "narrow"]


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> None:
    lend(monkeypatch)


def opened(bundle: Bundle | Path, **options: Any) -> Engine:
    return Engine.open(
        bundle, **{"threads": 1, "replay_golden": False, "prefill_chunk": 24, "kv_bytes": 1 << 22, **options}
    )


@pytest.fixture
def engine(tiny: TinyBundle, device: None) -> Iterator[Engine]:
    with closing(opened(tiny.folder)) as there:
        yield there


def prompts(*lengths: int) -> list[list[int]]:
    random = np.random.default_rng(0)
    return [random.integers(70, VOCAB, length).tolist() for length in lengths]


def asked(prompt: list[int], name: str = BASE, count: int = 6) -> Request:
    return Request(tuple(prompt), name, GREEDY, max_tokens=count)


def test_logits_are_near_those_of_transformers_and_peft_in_any_company(
    tiny: TinyBundle, engine: Engine
) -> None:
    """Adapters come, share steps in new windows, and come back: each time what the device holds has to be what the step needs."""
    assert engine.device is DEVICE
    ids = prompts(31, 2, 50, 17)
    for names in (
        ["base"] * 4,
        ["wide", "base", "wide", "base"],
        ["narrow", "wide", "base", "narrow"],
        ["wide"] * 4,
    ):
        found = engine.logits(ids, names)
        for tokens, name, logits in zip(ids, names, found, strict=True):
            np.testing.assert_allclose(logits, tiny.logits(tokens, name), atol=LIMIT)


def test_what_is_kept_and_forked_goes_on_as_it_was(tiny: TinyBundle, engine: Engine) -> None:
    """A beginning that is found, copies of it for several choices, and sequences that wait for a slot."""
    start, *ends = prompts(40, 9, 13)
    for prompt in (start, start, *([*start, *end] for end in ends)):
        for name in NAMES:
            [answer] = engine.generate_all([asked(prompt, name)])
            assert [token.id for token in answer] == tiny.greedy(prompt, name, 6)
    assert engine.stats().reused > 3 * len(start)
    choices = [replace(asked(start), sampling=Sampling(seed=seed)) for seed in range(3)]
    together = engine.generate_all(choices)
    for choice, answer in zip(choices, together, strict=True):
        assert [token.id for token in engine.generate_all([choice])[0]] == [token.id for token in answer]


def test_layers_that_keep_states(tmp_path: Path, device: None) -> None:
    base, _, bundle = tiny_bundle(tmp_path, "lfm2")
    install(bundle, peft_folder(base, tmp_path / "lora", seed=1, spread=0.2), "lora")
    models = {BASE: with_peft(base, None), "lora": with_peft(base, tmp_path / "lora")}
    ids = prompts(31, 3, 50, 31)
    names = [BASE, "lora", "lora", BASE]
    with closing(opened(Bundle.open(bundle.folder), max_rows=3)) as engine:
        for _ in range(2):  # the second time from what is kept, states among it
            for tokens, name, logits in zip(ids, names, engine.logits(ids, names), strict=True):
                with torch.no_grad():
                    expected = models[name](torch.tensor([tokens])).logits[0].numpy()
                np.testing.assert_allclose(logits, expected, atol=LIMIT)
            engine.generate_all([asked(tokens, name) for tokens, name in zip(ids, names, strict=True)])
        assert engine.stats().reused > 0


def test_virtual_tokens_are_put_into_slots(tmp_path: Path, device: None) -> None:
    base, loaded, bundle = tiny_bundle(tmp_path)
    install_prompt(bundle, loaded, save_prompt(base, tmp_path / "prefix", "prefix"), "prefix")
    alone = Alone(base, tmp_path / "prefix")
    [tokens] = prompts(20)
    with closing(opened(Bundle.open(bundle.folder))) as engine:
        for _ in range(2):
            np.testing.assert_allclose(
                engine.logits([tokens], ["prefix"])[0], alone.logits(tokens), atol=LIMIT
            )


def test_a_device_is_held_to_the_golden_vectors(tiny: TinyBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the CPU, within a limit of its own; one that computes otherwise is refused."""
    with closing(opened(tiny.folder)) as engine:
        golden = record(engine, prompts(5, 40), NAMES)
    lend(monkeypatch)
    with closing(opened(tiny.folder)) as engine:
        assert 0 < Replay(engine, golden).require_near_device() < 1e-4
        for case in golden["cases"]:
            case["logprobs"] = [
                [value - 0.1 * (at % 2) for at, value in enumerate(top)] for top in case["logprobs"]
            ]
        with pytest.raises(ParityError, match="KL"):
            Replay(engine, golden).require_near_device()


def test_slots_are_equal_parts_of_the_budget(tiny: TinyBundle) -> None:
    signature = Bundle.open(tiny.folder).decoder
    token_bytes = signature.cache_bytes_per_token(2)
    cache = DeviceCache.on(10 * 200 * token_bytes, signature, 4, DEVICE)
    assert (cache.slots, cache.capacity) == (3, min(signature.context, 665))
    assert cache.resident_bytes <= 2000 * token_bytes
    with pytest.raises(UsageError, match="holds 1 tokens"):
        DeviceCache.on(token_bytes, signature, 4, DEVICE)


def test_a_cache_that_the_device_has_no_room_for(tiny: TinyBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise MemoryError("64 bytes on the card")

    monkeypatch.setattr(type(DEVICE), "zeros", full)
    with pytest.raises(UsageError, match="--kv-gb"):
        DeviceCache.on(1 << 20, Bundle.open(tiny.folder).decoder, 4, DEVICE)
