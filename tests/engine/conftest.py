from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from support.tiny_bundle import TinyBundle


@pytest.fixture
def any_kernel() -> Iterator[Any]:
    """The package ptune_kernels, which computes with its best kernel again afterwards."""
    import ptune_kernels

    yield ptune_kernels
    ptune_kernels.use_kernel(None)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyBundle:
    from support import tiny_bundle  # torch, transformers and onnx: only for the tests that ask for a bundle

    return tiny_bundle.make(tmp_path_factory.mktemp("bundle"))
