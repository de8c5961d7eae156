"""The tabs of the page: gradio counts whatever stands between two of them as one, and then draws another tab twice."""

from __future__ import annotations

from pathlib import Path

import pytest

gr = pytest.importorskip("gradio")


def test_nothing_stands_between_the_tabs(tmp_path: Path) -> None:
    from ptune.studio.app import build
    from ptune.studio.workspace import Workspace

    page = build(Workspace(tmp_path))
    [tabs] = [block for block in page.blocks.values() if isinstance(block, gr.Tabs)]
    assert [type(child) for child in tabs.children] == [gr.Tab] * len(tabs.children)
    assert [child.label for child in tabs.children] == ["Data", "Recipe", "Run", "Judge", "Ship", "Serve"]
