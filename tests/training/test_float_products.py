"""Products of float32 by oneDNN: sums in float32 as MKL's, and only on the processors where they are faster."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from ptune.training.layers import float_products
from ptune.training.layers.float_products import by_one_dnn, linear, times

ROUNDING = 2e-6  # of sums in float32, relative to the sum of magnitudes


@pytest.fixture(params=[True, False], ids=["oneDNN", "MKL"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(float_products, "by_one_dnn", lambda: request.param)


@pytest.mark.usefixtures("way")
@settings(max_examples=40, deadline=None)
@given(st.integers(0, 70), st.integers(1, 90), st.integers(1, 90), st.booleans(), st.integers(0, 2**16))
def test_products_are_only_rounding_away_from_float64(
    rows: int, inputs: int, outputs: int, biased: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    weight, bias = torch.randn(outputs, inputs), torch.randn(outputs) if biased else None
    x, gradient = torch.randn(rows, 2 * inputs)[:, ::2], torch.randn(rows, outputs)
    wide = weight.double()
    added = 0.0 if bias is None else bias.double()
    for found, exact, most in (
        (linear(x, weight, bias), x.double() @ wide.T + added, x.double().abs() @ wide.abs().T + 10),
        (times(gradient, weight), gradient.double() @ wide, gradient.double().abs() @ wide.abs() + 10),
    ):
        assert found.dtype == torch.float32
        assert bool(((found - exact).abs() <= ROUNDING * most).all())


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_types_are_computed_as_pytorch_computes_them(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(5, 32).to(dtype), torch.randn(48, 32).to(dtype)
    assert torch.equal(linear(x, weight), x @ weight.T)
    assert torch.equal(times(x @ weight.T, weight), (x @ weight.T) @ weight)


@pytest.mark.parametrize(
    ("vendor", "capability", "chosen"),
    [
        ("AuthenticAMD", "AVX512", True),
        ("AuthenticAMD", "AVX2", False),
        ("GenuineIntel", "AVX512", False),
        (None, "AVX512", False),
    ],
)
def test_it_depends_on_the_processor_alone(
    vendor: str | None, capability: str, chosen: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if vendor is not None:
        (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nvendor_id\t: {vendor}\n", encoding="utf-8")
    monkeypatch.setattr(float_products, "CPU_INFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert by_one_dnn.__wrapped__() is chosen


def test_a_plan_that_asks_first_gets_the_same_answer() -> None:
    with FakeTensorMode(), torch.device("meta"):
        planned = by_one_dnn.__wrapped__()
    assert planned is by_one_dnn.__wrapped__()


def test_an_operator_that_is_wrong_or_missing_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpuinfo").write_text("vendor_id\t: AuthenticAMD\n", encoding="utf-8")
    monkeypatch.setattr(float_products, "CPU_INFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    monkeypatch.setattr(float_products, "_one_dnn", lambda x, weight, bias: x @ weight.T)
    assert not by_one_dnn.__wrapped__(), "it forgets the bias"

    def missing(*_: object) -> torch.Tensor:
        raise AttributeError("'_OpNamespace' 'mkldnn' object has no attribute '_linear_pointwise'")

    monkeypatch.setattr(float_products, "_one_dnn", missing)
    assert not by_one_dnn.__wrapped__()
