from __future__ import annotations

import pytest
from engine.tiny_bundle import TinyBundle, make


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyBundle:
    return make(tmp_path_factory.mktemp("bundle"))
