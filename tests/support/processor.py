"""What a test needs of the processor."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from ptune.engine.kernels import PACKAGE, WITHOUT_AVX512


def _without_avx512() -> bool:
    if find_spec(PACKAGE) is None:
        return False
    import ptune_kernels

    return ptune_kernels.kernel() in WITHOUT_AVX512


needs_vnni = pytest.mark.skipif(
    _without_avx512(), reason="onnxruntime's products have other bits on a processor without AVX-512"
)
