"""The bundle's name in a model's: `BUNDLE` and `BUNDLE:NAME`, which tell bundles apart where one server has several."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from ptune.formats.bundle import BASE

OF = ":"
"""Stands between a bundle's name and that of one of its adapters, which has none."""


def own_name(model: str, bundle: str, names: Sequence[str], aliases: Collection[str]) -> str:
    """What a bundle itself calls `model`; `model` as it is if nothing of this bundle is called so.

    A bundle's name stands for its adapter of that name, else its base, else, where the base does not answer, its only
    adapter. names: models that answer, the base among them if it does.
    """
    if model in names or model in aliases:
        return model
    if model == bundle:
        return BASE if BASE in names else names[0] if len(names) == 1 else model
    return model.removeprefix(bundle + OF)
