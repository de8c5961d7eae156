"""Code cells of notebooks and documents, run one after another as a notebook's kernel would: in one namespace, with await."""

from __future__ import annotations

import ast
import asyncio
import inspect
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


def of_notebook(path: Path) -> list[str]:
    """The source of each code cell of an .ipynb."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def of_document(path: Path) -> list[str]:
    """Each block of Python of a Markdown file."""
    return re.findall(r"^```python\n(.*?)^```", path.read_text(encoding="utf-8"), re.M | re.S)


def run(cells: Iterable[str], values: Mapping[str, Any]) -> dict[str, Any]:
    """Runs the cells and returns their names. values: what `NAME = …` at the top of a cell is to be instead."""
    names: dict[str, Any] = {"__name__": "__main__"}
    left = set(values)
    for number, cell in enumerate(cells, 1):
        for name, value in values.items():
            instead = f"{name} = {value!r}  ".replace("\\", r"\\")
            cell, count = re.subn(rf"^{name} = [^#\n]*", instead, cell, flags=re.M)
            left -= {name} if count else set()
        code = compile(cell, f"cell {number}", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        found = eval(code, names)
        if inspect.iscoroutine(found):
            asyncio.run(found)
    assert not left, f"no cell sets {', '.join(left)}"
    return names
