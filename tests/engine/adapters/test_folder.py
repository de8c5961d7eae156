"""What goes with an adapter that is taken out of a bundle's folder."""

from __future__ import annotations

import json
from pathlib import Path

from support.living_adapters import living

from ptune.engine.adapters.folder import remove
from ptune.formats.bundle import Bundle


def test_golden_vectors_go_with_their_adapter(tmp_path: Path) -> None:
    bundle = Bundle.open(living(tmp_path).folder)
    path = bundle.golden_path
    cases = [{"adapter": name, "ids": [1]} for name in ("base", "wide", "narrow")]
    path.write_text(json.dumps({"cases": cases}))
    remove(bundle, "wide")
    again = Bundle.open(bundle.folder)
    again.check_files(again.manifest.golden)
    assert [case["adapter"] for case in json.loads(path.read_text())["cases"]] == ["base", "narrow"]
    assert list(again.manifest.adapters) == ["narrow"]
