"""Tests that need another engine, in which exports are proved."""

from __future__ import annotations

import importlib.util

import pytest

NEEDS_GENAI = pytest.mark.skipif(
    importlib.util.find_spec("onnxruntime_genai") is None,
    reason="onnxruntime-genai is not installed: pip install --no-deps onnxruntime-genai",
)
NEEDS_LLAMA_CPP = pytest.mark.skipif(
    importlib.util.find_spec("xllamacpp") is None, reason="llama.cpp is not installed: pip install xllamacpp"
)
