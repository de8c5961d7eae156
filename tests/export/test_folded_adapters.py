"""Adapters of every PEFT type that folds are served as peft's own modules compute them, mixed in one batch with LoRA and the base."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from support.bundles import peft_folder, tiny_bundle, with_peft
from support.other_adapters import CONV1D, CUT, EXACT, WITH_BASE, save_adapter
from support.tiny_models import VOCAB
from torch import nn
from transformers import PreTrainedModel

from ptune.engine.adapters.fold.fold import Limits
from ptune.engine.adapters.folder import install
from ptune.engine.decoder.engine import Engine
from ptune.errors import AdapterError
from ptune.formats.bundle import AdapterRecord, Bundle
from ptune.parity import log_softmax
from ptune.publish.base_weights import base_weights

ALL = {**EXACT, **WITH_BASE, **CUT}
WHOLE = 10**6  # a rank that cuts nothing


@dataclass(frozen=True)
class Served:
    base: Path
    model: PreTrainedModel
    bundle: Bundle
    engine: Engine

    def add(self, kind: str, folder: Path, limits: Limits = Limits(), *, name: str = "") -> AdapterRecord:
        weights = base_weights(self.bundle, lambda: self.model)
        record = install(self.bundle, folder, name or kind, weights, limits)
        self.engine.load_adapter(name or kind)
        return record

    def saved(self, kind: str, folder: Path, **more: Any) -> Path:
        return save_adapter(kind, ALL[kind], copy.deepcopy(self.model), folder / kind, **more)


@contextmanager
def opened(folder: Path, family: str) -> Iterator[Served]:
    base, loaded, bundle = tiny_bundle(folder, family)
    install(bundle, peft_folder(base, folder / "lora", seed=5, spread=0.3), "lora")
    engine = Engine.open(bundle, threads=1, replay_golden=False)
    try:
        yield Served(base, loaded.model, bundle, engine)
    finally:
        engine.close()


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with opened(tmp_path_factory.mktemp("llama"), "llama") as served:
        yield served


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with opened(tmp_path_factory.mktemp("gpt2"), "gpt2") as served:
        yield served


def check(served: Served, folder: Path, kind: str) -> None:
    """The engine's log-probabilities are peft's; a row in company is the row alone."""
    draw = np.random.default_rng(1)
    mine, others = draw.integers(5, VOCAB, 20).tolist(), draw.integers(5, VOCAB, 13).tolist()
    found, lora, base = served.engine.logits([mine, others, others], [kind, "lora", "base"])
    with torch.no_grad():
        expected = with_peft(served.base, folder)(torch.tensor([mine])).logits[0].numpy()
        plain = with_peft(served.base, None)(torch.tensor([mine])).logits[0].numpy()
    assert np.abs(log_softmax(expected) - log_softmax(found)).max() < 5e-4
    assert np.abs(expected - plain).max() > 0.05
    for ids, name, row in ((mine, kind, found), (others, "lora", lora), (others, "base", base)):
        (alone,) = served.engine.logits([ids], [name])
        assert np.abs(row - alone).max() < 5e-5


@pytest.mark.parametrize("kind", sorted({*EXACT, *WITH_BASE}))
def test_an_exact_pair_computes_what_peft_does(kind: str, llama: Served, tmp_path: Path) -> None:
    folder = llama.saved(kind, tmp_path)
    folded = llama.add(kind, folder).folded
    assert folded is not None
    assert (folded.error, folded.rank, folded.errors) == (None, None, {})
    check(llama, folder, kind)


@pytest.mark.parametrize("kind", sorted(CUT))
def test_an_update_without_a_smaller_pair_is_served_at_a_chosen_rank(
    kind: str, llama: Served, tmp_path: Path
) -> None:
    folder = llama.saved(kind, tmp_path)
    folded = llama.add(kind, folder, Limits(rank=WHOLE)).folded
    assert folded is not None
    assert folded.error is None or folded.error < 1e-5
    check(llama, folder, kind)


@pytest.mark.parametrize("kind", sorted(CONV1D))
def test_beside_layers_that_keep_their_weights_transposed(kind: str, gpt2: Served, tmp_path: Path) -> None:
    folder = gpt2.saved(kind, tmp_path)
    gpt2.add(kind, folder, Limits(rank=WHOLE if kind in CUT else None))
    check(gpt2, folder, kind)


@pytest.mark.parametrize("seed", range(3))
def test_patterns_ranks_and_layers_of_one_adapter(seed: int, llama: Served, tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "target_modules": ["q_proj", "down_proj", "up_proj"],
        "rank_pattern": {"q_proj": 2, r"layers\.1\.mlp\.up_proj": 4},
        "alpha_pattern": {"down_proj": 1.5},
        "layers_to_transform": [[0], [1], [0, 1]][seed],
    }
    folder = llama.saved("loha", tmp_path, seed=seed, **options)
    record = llama.add("loha", folder, name=f"patterns{seed}")
    assert record.rank == (9, 16, 16)[seed]  # the square of the largest
    check(llama, folder, f"patterns{seed}")


@pytest.mark.parametrize("left", [(True, True, False, False, True, False), (False,) * 6])
def test_adalora_that_gave_up_ranks(left: tuple[bool, ...], llama: Served, tmp_path: Path) -> None:
    """peft cuts the file to the ranks that training left, and scales by those that it began with."""
    pattern = {
        f"model.layers.{layer}.self_attn.{name}.lora_E": list(left if layer else (True,) * 6)
        for layer in (0, 1)
        for name in ("q_proj", "v_proj")
    }
    folder = llama.saved("adalora", tmp_path, target_modules=["q_proj", "v_proj"], rank_pattern=pattern)
    llama.add("adalora", folder, name=f"left{sum(left)}")
    check(llama, folder, f"left{sum(left)}")


@pytest.mark.parametrize("rank", [3, 8, 20])
@pytest.mark.parametrize("kind", ["c3a", "lokr", "oft", "shira"])
def test_what_is_lost_is_what_the_smaller_singular_values_hold(
    kind: str, rank: int, llama: Served, tmp_path: Path
) -> None:
    folder = llama.saved(kind, tmp_path)
    name = f"{kind}{rank}"
    record = llama.add(kind, folder, Limits(rank=rank), name=name)
    model, lost, size = with_peft(llama.base, folder), 0.0, 0.0
    for path, layer in model.named_modules():
        if not isinstance(layer, BaseTunerLayer):
            continue
        values = torch.linalg.svdvals(update_of(layer)).double().square()
        path = path.removeprefix("base_model.model.")
        if record.folded is not None and path in record.folded.errors:
            share = (values[rank:].sum() / values.sum()).sqrt().item()
            assert record.folded.errors[path] == pytest.approx(share, rel=1e-3, abs=1e-5)
            lost, size = lost + values[rank:].sum().item(), size + values.sum().item()
    assert record.rank == min(rank, record.rank)
    if size:
        assert record.folded is not None
        assert record.folded.error == pytest.approx((lost / size) ** 0.5, rel=1e-3)
    else:
        assert (kind, rank) == ("lokr", 20)  # an exact pair of rank 16


def update_of(layer: nn.Module) -> torch.Tensor:
    """What a layer of peft's adds to its base's weight [in, out]: both are applied to the identity."""
    inputs = torch.eye(layer.get_base_layer().weight.shape[1])
    with torch.no_grad():
        return layer(inputs) - layer.get_base_layer()(inputs)


@pytest.mark.parametrize("kind", sorted(set(CUT) - {"lokr", "lokr_both"}))
def test_without_a_rank_it_is_refused_by_the_option_that_would_help(
    kind: str, llama: Served, tmp_path: Path
) -> None:
    before = Bundle.open(llama.bundle.folder).manifest
    with pytest.raises(AdapterError, match=r"no exact pair there of a lower rank .* ptune add --rank N"):
        llama.add(kind, llama.saved(kind, tmp_path), name=f"{kind}_refused")
    assert Bundle.open(llama.bundle.folder).manifest == before


@pytest.mark.parametrize("kind", [*sorted(WITH_BASE), "boft", "hira", "oft"])
def test_what_needs_the_base_says_so_where_it_is_not_at_hand(
    kind: str, llama: Served, tmp_path: Path
) -> None:
    with pytest.raises(AdapterError, match="folded with the base's weights: add it with `ptune add`"):
        install(llama.bundle, llama.saved(kind, tmp_path), f"{kind}_refused")
