"""What a wheel holds: every package of the tree, under the names they are imported by."""

from __future__ import annotations

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
INSTALLED_AS = {"ptune": "ptune", "serve": "ptune_serve", "recipes": "ptune_recipes"}


def test_every_package_of_the_tree_is_in_the_wheel() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    found = set()
    for folder, name in INSTALLED_AS.items():
        assert settings["package-dir"][name] == folder
        for init in (ROOT / folder).rglob("__init__.py"):
            found.add(".".join([name, *init.parent.relative_to(ROOT / folder).parts]))
    data = {"ptune.data.samples", "ptune_recipes.accelerate"}
    assert set(settings["packages"]) == found | data
