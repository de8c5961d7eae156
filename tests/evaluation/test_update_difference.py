"""Differences of adapters from their factors are those of the dense updates, by peft's own matrices and scipy's angles."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import subspace_angles
from support.bundles import peft_folder, with_peft
from support.tiny_models import build

from ptune.cli import main
from ptune.errors import AdapterError
from ptune.evaluation.update_difference import Update, apart, difference, summed


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("base") / "model", "llama")


def dense(base: Path, adapter: Path) -> dict[str, np.ndarray]:
    """peft's own updates by layer, [out, in]."""
    model = with_peft(base, adapter)
    with torch.no_grad():
        return {
            name.removeprefix("base_model.model."): layer.get_delta_weight("default").double().numpy()
            for name, layer in model.named_modules()
            if "default" in getattr(layer, "lora_A", {})
        }


def test_each_figure_is_that_of_the_dense_updates(base: Path, tmp_path: Path) -> None:
    one = peft_folder(base, tmp_path / "one", seed=1, spread=0.3, use_rslora=True)
    two = peft_folder(
        base, tmp_path / "two", seed=2, r=3, target_modules=["q_proj", "up_proj"], rank_pattern={"up_proj": 5}
    )
    there, here = (dense(base, one), dense(base, two)), difference(one, two)
    assert [layer.layer for layer in here.layers] != sorted(layer.layer for layer in here.layers)
    assert {layer.layer for layer in here.layers} == there[0].keys()
    gaps: list[float] = []
    for layer in here.layers:
        first, second = (side.get(layer.layer) for side in there)
        assert first is not None
        norms = [0.0 if side is None else float(np.linalg.norm(side)) for side in (first, second)]
        assert layer.norms == pytest.approx(norms, rel=1e-5)
        if second is None:
            assert (layer.distance, layer.cosine, layer.columns) == (1.0, None, ())
            gaps.append(norms[0])
            continue
        gaps.append(float(np.linalg.norm(first - second)))
        assert layer.distance == pytest.approx(gaps[-1] / max(norms), rel=1e-5)
        assert layer.cosine == pytest.approx((first * second).sum() / np.prod(norms), abs=1e-5)
        for ours, turned in ((layer.columns, False), (layer.rows, True)):
            spaces = [np.linalg.svd(side.T if turned else side)[0] for side in (first, second)]
            ranks = [np.linalg.matrix_rank(side, tol=1e-4) for side in (first, second)]
            bases = [space[:, :rank] for space, rank in zip(spaces, ranks, strict=True)]
            assert ours == pytest.approx(sorted(np.degrees(subspace_angles(*bases))), abs=0.01)
    assert gaps == sorted(gaps, reverse=True)
    whole = [np.sqrt(sum(np.square(update).sum() for update in side.values())) for side in there]
    assert here.norms == pytest.approx(whole, rel=1e-5)
    assert here.distance == pytest.approx(np.linalg.norm(gaps) / max(whole), rel=1e-5)


def test_an_adapter_does_not_differ_from_itself(base: Path, tmp_path: Path) -> None:
    one = peft_folder(base, tmp_path / "one")
    found = difference(one, one)
    assert found.distance < 1e-12
    assert found.cosine == pytest.approx(1)
    assert all(max(layer.columns + layer.rows) < 1e-4 for layer in found.layers)


numbers = st.integers(1, 9)


@given(seed=numbers, out=numbers, width=numbers, first=numbers, second=numbers)
@settings(max_examples=60, deadline=None)
def test_products_of_any_shape(seed: int, out: int, width: int, first: int, second: int) -> None:
    random = np.random.default_rng(seed)

    def update(rank: int) -> Update:
        a, b = random.standard_normal((rank, width)), random.standard_normal((out, rank))
        return Update.of(a.astype(np.float32), b.astype(np.float32), 0.5)

    one, two = update(first), update(second)
    d, e = one.b @ one.a, two.b @ two.a
    assert one.norm == pytest.approx(np.linalg.norm(d))
    assert one.dot(two) == pytest.approx((d * e).sum(), abs=1e-9)
    largest = max(np.linalg.norm(d), np.linalg.norm(e))
    assert apart({"x": one}, {"x": two}) == pytest.approx(np.linalg.norm(d - e) / largest)
    assert apart({"x": one}, {"y": two}) == pytest.approx(np.hypot(one.norm, two.norm) / largest)
    assert summed([{"x": one}, {"x": two}])["x"].norm == pytest.approx(np.linalg.norm(d + e), abs=1e-9)
    columns, rows = one.spaces()
    assert np.linalg.norm(d - columns @ (columns.T @ d @ rows) @ rows.T) < 1e-5 * one.norm


def test_an_adapter_that_does_nothing_has_no_direction() -> None:
    nothing, some = Update(np.zeros((3, 2)), np.ones((2, 4))), Update(np.ones((3, 1)), np.ones((1, 4)))
    assert nothing.spaces()[0].shape == (3, 0)
    assert apart({"x": nothing}, {"x": nothing}) == 0
    assert apart({"x": nothing}, {"x": some}) == 1


def test_the_command(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [str(peft_folder(base, tmp_path / name, seed=seed)) for seed, name in enumerate(("one", "two"))]
    assert main(["compare", *folders, "--weights"]) == 0
    said = capsys.readouterr().out
    assert "model.layers.0.self_attn.q_proj" in said
    assert "of the larger, cosine" in said
    assert main(["compare", *folders, "--weights", "--json"]) == 0
    told: Any = json.loads(capsys.readouterr().out)["result"]["difference"]
    assert len(told["layers"]) == 14
    assert len(told["layers"][0]["columns"]) == 4
    assert main(["compare", folders[0], "--weights"]) == 2
    assert "takes two adapters" in capsys.readouterr().err


def test_another_width_is_refused(base: Path, tmp_path: Path) -> None:
    other = build(tmp_path / "other", "llama", hidden_size=32)
    folders = peft_folder(base, tmp_path / "one"), peft_folder(other, tmp_path / "two")
    with pytest.raises(AdapterError, match=r"are of different bases: model\.layers\.0\..* is \(.*\) and \("):
        difference(*folders)
