"""Which packages a wheel holds: every one of the tree, under the name that it is imported by.

All else is in pyproject.toml, which can find packages or rename them, but not both: the folders serve/ and recipes/ stand
at the top of the checkout, and in site-packages a generic `serve` would be a wart. They are installed as ptune_serve and
ptune_recipes (`package-dir` there).
"""

from __future__ import annotations

from setuptools import find_packages, setup

FOLDERS = {"ptune": "ptune", "ptune_serve": "serve", "ptune_recipes": "recipes"}
DATA = (
    "ptune.data.samples",
    "ptune_recipes.accelerate",
)  # without Python; named, or setuptools warns at length


def packages() -> list[str]:
    """Their names."""
    inner = [f"{name}.{found}" for name, folder in FOLDERS.items() for found in find_packages(folder)]
    return [*FOLDERS, *sorted(inner), *DATA]


if __name__ == "__main__":
    setup(packages=packages())
