"""Which packages import each other in a circle, imports for types alone included."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Set

import grimp

Edges = Mapping[str, Set[str]]


def package_of(module: str) -> str:
    """The folder right under ptune that a module lies in, or the module itself; each task's folder is one of its own."""
    parts = module.split(".")
    return ".".join(parts[: 3 if parts[:2] == ["ptune", "tasks"] else 2])


def packages(graph: grimp.ImportGraph) -> Edges:
    """Which package imports from which."""
    edges: dict[str, set[str]] = defaultdict(set)
    for module in graph.modules:
        for other in graph.find_modules_directly_imported_by(module):
            if package_of(module) != package_of(other):
                edges[package_of(module)].add(package_of(other))
    return edges


def cycles(edges: Edges) -> list[list[str]]:
    """The sets of more than one package from each of which every other of the set can be reached."""
    reached = {one: _reachable(edges, one) for one in edges}
    found = {
        frozenset({one, *(other for other in reached[one] if one in reached.get(other, ()))}) for one in edges
    }
    return sorted(sorted(group) for group in found if len(group) > 1)


def _reachable(edges: Edges, start: str) -> set[str]:
    seen: set[str] = set()
    waiting: list[str] = [start]
    while waiting:
        new: Iterable[str] = edges.get(waiting.pop(), set()) - seen
        seen.update(new)
        waiting.extend(new)
    return seen
