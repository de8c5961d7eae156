"""Files of other PEFT types that come from outside: what is wrong with them is said, and small files make no large pairs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from ptune.engine.adapters.fold.fold import Limits, as_pairs
from ptune.engine.adapters.fold.layer import Base, Update
from ptune.engine.adapters.fold.table import METHODS
from ptune.engine.adapters.fold.truncate import cut
from ptune.engine.adapters.safetensors import read_arrays
from ptune.errors import AdapterError
from ptune.formats.signature import Socket

Tensors = dict[str, npt.NDArray[Any]]
PREFIX = "base_model.model."
LAYERS = {"model.a": (12, 8), "model.b": (8, 16)}  # inputs and outputs
SOCKETS = {
    name: Socket(name=name, in_features=inner, out_features=outer) for name, (inner, outer) in LAYERS.items()
}
RANDOM = np.random.default_rng(0)


def numbers(*shape: int) -> npt.NDArray[np.float32]:
    return RANDOM.standard_normal(shape).astype(np.float32)


def loha(rank: int = 2) -> Tensors:
    return {
        f"{PREFIX}{name}.hada_w{factor}_{side}": numbers(*((outer, rank) if side == "a" else (rank, inner)))
        for name, (inner, outer) in LAYERS.items()
        for factor in (1, 2)
        for side in "ab"
    }


def vera(rank: int = 2, *, inner: int = 12, outer: int = 16) -> Tensors:
    tensors: Tensors = {"base_model.vera_A": numbers(rank, inner), "base_model.vera_B": numbers(outer, rank)}
    for name, (_, out) in LAYERS.items():
        tensors |= {
            f"{PREFIX}{name}.vera_lambda_d": numbers(rank),
            f"{PREFIX}{name}.vera_lambda_b": numbers(out),
        }
    return tensors


def written(folder: Path, kind: str, tensors: Mapping[str, Any], **fields: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    config = {"peft_type": kind, "target_modules": ["a", "b"], "r": 2, "alpha": 3, **fields}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    save_file(dict(tensors), folder / "adapter_model.safetensors")
    return folder


def folded(folder: Path, limits: Limits = Limits(), base: Base | None = None) -> dict[str, Any]:
    with as_pairs(folder, SOCKETS, base, limits) as (place, _):
        config: dict[str, Any] = json.loads((place / "adapter_config.json").read_text())
        return {**config, "tensors": load_file(place / "adapter_model.safetensors")}


def test_a_pair_is_lora_as_peft_writes_it(tmp_path: Path) -> None:
    tensors = loha()
    there = folded(written(tmp_path, "LOHA", tensors, modules_to_save=["head"], bias="none"))
    assert (there["peft_type"], there["r"], there["lora_alpha"]) == ("LORA", 4, 4)
    assert there["target_modules"] == ["model.a", "model.b"]
    assert there["modules_to_save"] == ["head"]  # whoever reads LoRA decides on these
    for name in LAYERS:
        one, two = (
            tensors[f"{PREFIX}{name}.hada_w{n}_a"] @ tensors[f"{PREFIX}{name}.hada_w{n}_b"] for n in (1, 2)
        )
        pair = (there["tensors"][f"{PREFIX}{name}.lora_{side}.weight"] for side in "BA")
        b, a = pair
        assert np.abs(b @ a - one * two * 1.5).max() < 1e-5


def test_the_adapters_own_files_stay_beside_it(tmp_path: Path) -> None:
    folder = written(tmp_path / "mine", "LOHA", loha())
    (folder / "chat_template.jinja").write_text("…")
    (folder / "optimizer.pt").write_bytes(b"x")
    with as_pairs(folder, SOCKETS) as (place, record):
        for file in ("adapter_config.json", "adapter_model.safetensors"):
            assert (place / "original" / file).read_bytes() == (folder / file).read_bytes()
        there = sorted(path.name for path in place.iterdir())
        assert there == [
            "adapter_config.json",
            "adapter_model.safetensors",
            "chat_template.jinja",
            "original",
        ]
        assert record is not None
        assert record.method == "LOHA"
    assert not place.exists()


WRONG: dict[str, tuple[str, Tensors, dict[str, Any], str]] = {
    "a shape": ("LOHA", {**loha(), f"{PREFIX}model.a.hada_w1_a": numbers(7, 2)}, {}, r"hada_w1_a is \[7, 2\], needed is \[8, 2\]: model\.a"),
    "its rank": ("LOHA", loha(), {"r": 3}, r"hada_w1_a is \[8, 2\], needed is \[8, 3\]"),
    "a rank of 0": ("LOHA", loha(), {"r": 0}, "r is 0, a rank is 1 or more: model.a, model.b"),
    "not finite": ("LOHA", {**loha(), f"{PREFIX}model.b.hada_w2_a": np.full((16, 2), np.nan, np.float32)}, {}, "hada_w2_a has values that are not finite: model.b"),
    "overflows": ("LOHA", {name: one * np.float32(1e30) for name, one in loha().items()}, {}, "what it adds to the layer is not finite"),
    "alpha": ("LOHA", loha(), {"alpha": "much"}, "alpha: "),
    "a pattern": ("LOHA", loha(), {"target_modules": "("}, "not a valid pattern"),
    "not targeted": ("LOHA", loha(), {"target_modules": ["a"]}, "does not target these, .* would ignore their tensors: model.b"),
    "missing": ("LOHA", {name: one for name, one in loha().items() if "model.b" not in name}, {}, "targets these, but their tensors are missing: model.b"),
    "half a layer": ("LOHA", {name: one for name, one in loha().items() if "b.hada_w2_a" not in name}, {}, "hada_w2_a is missing: model.b"),
    "nothing": ("LOHA", {"x": numbers(1)}, {"target_modules": None}, "it holds no layers of LOHA"),
    "no projections": ("VERA", {name: one for name, one in vera().items() if "lambda" in name}, {}, "random projections are not in the file: .* save_projection=True"),
    "narrow projections": ("VERA", vera(inner=9), {}, r"vera_A is \[2, 9\], needed is at least \[2, 12\]: model.a"),
    "drawn": ("PVERA", {"base_model.pvera_A": numbers(4, 12), "base_model.pvera_B": numbers(16, 2), f"{PREFIX}model.a.pvera_lambda_d": numbers(4), f"{PREFIX}model.a.pvera_lambda_b": numbers(8)}, {"sample_at_inference": True, "target_modules": ["a"]}, "its answers are drawn at random"),
    "large blocks": ("GRALORA", {f"{PREFIX}model.a.gralora_A": numbers(3, 4, 2)}, {"gralora_k": 3, "target_modules": ["a"]}, "gralora_k is 3, which does not divide 2, 12 and 8"),
    "indices beyond": ("VBLORA", {"base_model.vblora_vector_bank": numbers(3, 4), f"{PREFIX}model.a.vblora_logits_A_topk_indices": np.full((2, 3, 2), 3, np.uint8), f"{PREFIX}model.a.vblora_logits_A_topk_weights": numbers(2, 3, 1)}, {"num_vectors": 3, "vector_length": 4, "target_modules": ["a"]}, "indices beyond 3"),
    "bat": ("MISS", {f"{PREFIX}model.a.miss_block": numbers(2, 8)}, {"init_weights": "bat", "target_modules": ["a"]}, "each block of the base's weights is multiplied"),
    "shira beyond": ("SHIRA", {f"{PREFIX}model.a.shira_weight": numbers(2), f"{PREFIX}model.a.shira_indices": np.array([[0, 9], [0, 1]], np.int32)}, {"target_modules": ["a"]}, "reach beyond"),
    "a high rank": ("LOHA", loha(3), {"r": 3}, "LOHA has no exact pair there of a lower rank .* ptune add --rank N"),
    "a convolution": ("LOHA", loha(), {"target_modules": ["conv"]}, "does not target these"),
}  # fmt: skip


@pytest.mark.parametrize("what", sorted(WRONG))
def test_what_is_wrong_is_said(what: str, tmp_path: Path) -> None:
    kind, tensors, fields, said = WRONG[what]
    with pytest.raises(AdapterError, match=said) as caught:
        folded(written(tmp_path / "mine", kind, tensors, **fields))
    assert "ptune-fold-" not in str(caught.value), "a place that is gone"


@pytest.mark.parametrize("kind", ["FOURIERFT", "LILY", "PROMPT_TUNING", None, 7])
def test_other_types_are_refused_by_name(kind: object, tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match=rf"peft_type {kind!r}; served are LORA .* VERA"):
        folded(written(tmp_path, kind, {"x": numbers(1)}))  # type: ignore[arg-type]


def test_a_small_file_makes_no_large_pairs(tmp_path: Path) -> None:
    folder = written(tmp_path, "VERA", vera(3), r=3)
    both = 4 * 3 * (12 + 8 + 8 + 16)  # bytes
    assert len(folded(folder, Limits(most_bytes=both))["tensors"]) == 4
    with pytest.raises(AdapterError, match=f"take more than {both - 1} bytes"):
        folded(folder, Limits(most_bytes=both - 1))


@pytest.mark.parametrize("quantized", [False, True])
def test_an_initialisation_of_a_quantised_base_is_another_one(quantized: bool, tmp_path: Path) -> None:
    """What training began with was taken out before the weights were quantised."""
    weights = {name: numbers(outer, inner) for name, (inner, outer) in LAYERS.items()}
    tensors = {
        f"{PREFIX}{name}.lora_{side}.weight": numbers(*((2, inner) if side == "A" else (outer, 2)))
        for name, (inner, outer) in LAYERS.items()
        for side in "AB"
    }
    folder = written(tmp_path, "LORA", tensors, lora_alpha=3, init_lora_weights="pissa")
    base = Base(weights.__getitem__, quantized)
    if quantized:
        with pytest.raises(AdapterError, match="before it was quantised"):
            folded(folder, base=base)
        return
    with pytest.raises(AdapterError, match="lora_bias is set: its biases have a scale"):
        folded(
            written(tmp_path, "LORA", tensors, lora_alpha=3, init_lora_weights="pissa", lora_bias=True),
            base=base,
        )
    written(tmp_path, "LORA", tensors, lora_alpha=3, init_lora_weights="pissa")
    there = folded(folder, base=base)["tensors"]
    for name, weight in weights.items():
        left, values, right = np.linalg.svd(weight.astype(np.float64))
        began = (left[:, :2] * values[:2]) @ right[:2]
        now = 1.5 * tensors[f"{PREFIX}{name}.lora_B.weight"] @ tensors[f"{PREFIX}{name}.lora_A.weight"]
        pair = there[f"{PREFIX}{name}.lora_B.weight"] @ there[f"{PREFIX}{name}.lora_A.weight"]
        assert np.abs(pair - (now - began)).max() < 1e-5
        size = np.linalg.norm(there[f"{PREFIX}{name}.lora_B.weight"])
        assert size == pytest.approx(np.linalg.norm(now - began), rel=1e-4)  # nothing large cancels


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(sorted(METHODS)),
    names=st.lists(st.tuples(st.sampled_from([*LAYERS, "", "else"]), st.integers(0, 5)), max_size=6),
    shape=st.lists(st.integers(0, 12), max_size=3),
    fields=st.dictionaries(
        st.sampled_from(["r", "alpha", "init_r", "topk", "gralora_k", "mini_r", "vector_length", "target_modules"]),
        st.none() | st.integers(-3, 12) | st.floats() | st.text(max_size=3),
    ),
    whole=st.booleans(),
)  # fmt: skip
def test_any_file_is_folded_or_refused(
    kind: str,
    names: list[tuple[str, int]],
    shape: list[int],
    fields: dict[str, Any],
    whole: bool,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """No tensor and no setting ends in anything but an AdapterError."""
    method, tensors = METHODS[kind], Tensors()
    ends = [*method.tensors, *method.shared]
    for module, at in names:
        end = ends[at % len(ends)]
        name = f"base_model.{end}" if end in method.shared else f"{PREFIX}{module}.{end}"
        tensors[name] = np.ones(shape, np.int32 if whole else np.float32)
    folder = written(tmp_path_factory.mktemp("any"), kind, tensors, **fields)
    weights = {name: numbers(outer, inner) for name, (inner, outer) in LAYERS.items()}
    for rank in (None, 2):
        try:
            with as_pairs(folder, SOCKETS, Base(weights.__getitem__), Limits(rank)) as (place, _):
                tensors = read_arrays(place / "adapter_model.safetensors")
                assert all(np.isfinite(one).all() for name, one in tensors.items() if "lora_" in name)
        except AdapterError:
            continue


@pytest.mark.parametrize("rank", [2, 30, 300])
@pytest.mark.parametrize("pair", [False, True])
def test_a_large_update_is_cut_about_as_well_as_can_be(pair: bool, rank: int) -> None:
    """Against all singular values, of a flat spectrum, which is the hardest."""
    update = Update(numbers(1300, 1100))
    if pair:
        update = Update(numbers(400, 1100), numbers(1300, 400))
    whole = update.a if update.b is None else update.b @ update.a
    values = np.square(np.linalg.svd(whole, compute_uv=False).astype(np.float64))
    near, lost, size = cut(update, rank)
    assert near.b is not None
    assert (near.a.shape, near.b.shape) == ((rank, 1100), (1300, rank))
    assert size == pytest.approx(values.sum(), rel=1e-4)
    assert lost == pytest.approx(np.square(whole - near.b @ near.a, dtype=np.float64).sum(), rel=1e-3)
    assert lost <= values[rank:].sum() * 1.01
