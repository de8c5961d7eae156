"""Lines of factors: each adapter's are where the graph reads them, whatever lay there before."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ptune.engine.decoder.inputs.packed_factors import FactorLines, PackedFactors, balanced


def read(line: np.ndarray, inputs: int, rank: int, outputs: int, panel: int) -> np.ndarray:
    """A B as an operator reads it: A row by row, then B in panels, column by column here."""
    a, b = line[: inputs * rank].reshape(inputs, rank), line[inputs * rank :]
    product = np.zeros((inputs, outputs))
    for column in range(outputs):
        first = column // panel * panel
        width = min(panel, outputs - first)
        of_column = b[first * rank :][np.arange(rank) * width + column - first]
        product[:, column] = a.astype(np.float64) @ of_column.astype(np.float64)
    return product


@given(
    st.integers(1, 9),
    st.integers(1, 20),
    st.integers(1, 5),
    st.integers(0, 5),
    st.booleans(),
    st.integers(0, 99),
)
def test_factors_are_read_as_they_were_written(
    inputs: int, outputs: int, rank: int, less: int, halves: bool, seed: int
) -> None:
    random, panel = np.random.default_rng(seed), 8
    dtype = np.dtype(np.float16 if halves else np.float32)
    shapes = {"up.A": (inputs, rank), "up.B": (rank, outputs)}
    lines = FactorLines(PackedFactors(("up.A", "up.B"), panel, dtype), shapes, 3)
    for own in (rank, max(0, rank - less)):
        a = random.standard_normal((inputs, own)).astype(np.float32)
        b = random.standard_normal((own, outputs)).astype(np.float32)
        lines.write(1, "up", a, b)
    found = read(lines.array[1], inputs, rank, outputs, panel)
    np.testing.assert_allclose(found, a.astype(np.float64) @ b, atol=0.02 if halves else 1e-5)
    assert not lines.array[[0, 2]].any()


@given(st.integers(-40, 40), st.integers(-40, 40))
def test_any_shares_of_an_adapters_scale_fit_half_precision(of_a: int, of_b: int) -> None:
    """As long as the product itself is one that a model survives."""
    random = np.random.default_rng(0)
    of_b = min(of_b, 20 - of_a)
    a = np.ldexp(random.standard_normal((30, 4)), of_a).astype(np.float32)
    b = np.ldexp(random.standard_normal((4, 30)), of_b).astype(np.float32)
    one, other = balanced(a, b)
    assert np.array_equal(one.astype(np.float64) @ other, a.astype(np.float64) @ b)
    halves = [factor.astype(np.float16).astype(np.float64) for factor in (one, other)]
    assert all(np.isfinite(factor).all() for factor in halves)
    exact = a.astype(np.float64) @ b
    if of_a + of_b > -20:
        np.testing.assert_allclose(halves[0] @ halves[1], exact, atol=1e-2 * np.abs(exact).max())
