from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from support.tiny_bundle import TinyBundle


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyBundle:
    from support import tiny_bundle  # torch, transformers and onnx: only for the tests that ask for a bundle

    return tiny_bundle.make(tmp_path_factory.mktemp("bundle"))
