"""`ptune speed`: every profile of a bundle is measured, and what is told is written, too."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.bundles import tiny_bundle
from support.encoder_bundles import tiny

from ptune.cli import main


@pytest.mark.parametrize("kind", ["decoder", "encoder"])
def test_each_profile_has_a_speed_and_a_size(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = tiny_bundle(tmp_path)[2] if kind == "decoder" else tiny().bundle
    out = tmp_path / "told" / "speed.json"
    assert main(["speed", str(bundle.folder), "--threads", "1", "--out", str(out)]) == 0
    told = json.loads(out.read_text())
    assert told["threads"] == 1
    assert [*told["profiles"]] == [*bundle.manifest.graphs] == ["fp32"]
    found = told["profiles"]["fp32"]
    assert found["unit"] == {"decoder": "tokens", "encoder": "inputs"}[kind]
    assert found["per_s"] > 0
    files = (bundle.folder / "graphs" / "fp32").iterdir()
    assert found["bytes"] == sum(file.stat().st_size for file in files)
    said = capsys.readouterr().out
    assert "--profile fp32" in said
    assert f"{found['bytes']:,} bytes" in said


def test_what_is_no_bundle_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["speed", str(tmp_path)]) == 1
    assert "manifest.json" in capsys.readouterr().err
