"""House rules that a script can see: sizes, names, and what light modules may import."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

LONGEST_FILE, LONGEST_FUNCTION = 400, 60
VAGUE = {"utils", "util", "helpers", "helper", "common", "misc", "manager"}
CODE = ("ptune/", "serve/", "recipes/", "kernels/")


def complaints(path: Path) -> list[str]:
    """What is wrong with one file."""
    text = path.read_text(encoding="utf-8")
    found = [f"{path}: the name says nothing about what is inside"] if path.stem in VAGUE else []
    if (lines := text.count("\n")) > LONGEST_FILE:
        found.append(f"{path}: {lines} lines, over {LONGEST_FILE}")
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > LONGEST_FUNCTION:
                found.append(f"{path}:{node.lineno}: {node.name} has {length} lines, over {LONGEST_FUNCTION}")
    return found


def main() -> int:
    """Prints every complaint; exit code 1 where there is one."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "*.py"], capture_output=True, text=True
    )
    paths = [Path(name) for name in listed.stdout.split() if name.startswith(CODE) and Path(name).exists()]
    found = [complaint for path in paths for complaint in complaints(path)]
    print("\n".join(found) or f"house rules: {len(paths)} files kept them")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
