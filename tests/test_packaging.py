"""What a wheel holds: every package of the tree, under the names they are imported by."""

from __future__ import annotations

import runpy
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
INSTALLED_AS = {"ptune": "ptune", "serve": "ptune_serve", "recipes": "ptune_recipes"}


def test_every_package_of_the_tree_is_in_the_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    names = runpy.run_path("setup.py", run_name="looked at")["packages"]()
    settings = tomllib.loads(Path("pyproject.toml").read_text())["tool"]["setuptools"]
    found = set()
    for folder, name in INSTALLED_AS.items():
        assert settings["package-dir"][name] == folder
        for init in (ROOT / folder).rglob("__init__.py"):
            found.add(".".join([name, *init.parent.relative_to(ROOT / folder).parts]))
    data = {"ptune.data.samples", "ptune_recipes.accelerate"}
    assert set(names) == found | data
    assert len(names) == len(set(names))


def test_an_image_is_built_of_all_that_tells_packages() -> None:
    copied = (ROOT / "Dockerfile").read_text()
    assert "COPY pyproject.toml setup.py README.md LICENSE ./" in copied
