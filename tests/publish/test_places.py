"""What an export may replace."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ptune.errors import UsageError
from ptune.publish.steps import check_place


@pytest.mark.parametrize("record", ["manifest.json", "gguf.json", "genai.json"])
def test_force_replaces_no_folder_of_another_program(record: str, tmp_path: Path) -> None:
    """A web page has a manifest.json, too."""
    (tmp_path / record).write_text(json.dumps({"name": "My page", "start_url": "/"}))
    with pytest.raises(UsageError, match="exists and is not a"):
        check_place(tmp_path, True, record)
    (tmp_path / record).write_text(json.dumps({"format": 1}))
    check_place(tmp_path, True, record)
    with pytest.raises(UsageError, match="exists already"):
        check_place(tmp_path, False, record)
