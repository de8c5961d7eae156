"""Which tests `pytest --fast` runs: those that need no torch, no process of their own and no browser.

Nothing is marked by hand. The source says it: what a test file imports at its top, what its tests, their fixtures and
the functions beside them import when they run, all followed through support, ptune and serve. What the source cannot
say (a command that imports by name) is found when it runs: the session fails at the first test after which torch is
loaded, and that test gets the marker `needs_torch`.
"""

from __future__ import annotations

import ast
import functools
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = {
    "ptune": ROOT / "ptune",
    "ptune_serve": ROOT / "serve",
    "ptune_recipes": ROOT / "recipes",
    "benchmarks": ROOT / "benchmarks",
    "support": ROOT / "tests" / "support",
}
OF_TRANSFORMERS_ALONE = {"transformers.PreTrainedTokenizerFast"}  # what it has that needs no torch
BRING_TORCH = {
    "accelerate", "bitsandbytes", "onnxscript", "peft", "sentence_transformers", "timm", "torch", "transformers",
}  # fmt: skip
TORCH, PROCESS, BROWSER, LONG = "torch", "a process of its own", "a browser", "the long forms"
MARKS = {
    "pytest.mark.needs_torch": TORCH,
    "pytest.mark.browser": BROWSER,
    "NEEDS_BROWSER": BROWSER,
    "pytest.mark.slow": LONG,
}
Function = ast.FunctionDef | ast.AsyncFunctionDef
Code = Function | ast.ClassDef
Statement = ast.stmt | ast.excepthandler | ast.match_case


@dataclass(frozen=True)
class Needs:
    """Why the fast selection leaves out tests of a file; None where it runs them."""

    whole_file: str | None
    functions: dict[str, str | None]

    def of(self, name: str) -> str | None:
        """Of one test. What is no function at the file's top, as a state machine's, needs what the file needs."""
        return self.functions.get(name, self.whole_file)


@dataclass(frozen=True)
class LeftOut:
    """How many test functions and whole files the fast selection leaves out, by what they need."""

    selected: int
    functions: Counter[str]
    files: Counter[str]

    def __str__(self) -> str:
        by_reason = [
            ", ".join(f"{count} need {reason}" for reason, count in counted.most_common())
            for counted in (self.functions, self.files)
        ]
        return (
            f"--fast: {self.selected} test functions selected; left out: {self.functions.total()} ({by_reason[0]}), "
            f"among them {self.files.total()} whole files ({by_reason[1]})"
        )


def left_out(tests: Path) -> LeftOut:
    """What the fast selection leaves out under a folder. A function may stand for many cases."""
    functions: Counter[str] = Counter()
    files: Counter[str] = Counter()
    selected = 0
    for path in sorted(tests.rglob("test_*.py")):
        reasons = list(needs(path).functions.values())
        given = [reason for reason in reasons if reason is not None]
        functions.update(given)
        selected += len(reasons) - len(given)
        if given and len(given) == len(reasons):
            files[Counter(given).most_common(1)[0][0]] += 1
    return LeftOut(selected, functions, files)


@functools.cache
def needs(path: Path) -> Needs:
    """What the tests of a file need."""
    tree = _parsed(path)
    read = [name for file in _fixture_files(path) for name in _at_import(file)]
    whole = TORCH if any(map(_brings_torch, read)) else _marked(_pytestmark(tree))
    functions = {
        function.name: whole or _marked(function.decorator_list) or _needed(path, function)
        for function in _codes(path)
        if isinstance(function, Function) and function.name.startswith("test_")
    }
    return Needs(whole, functions)


def _needed(path: Path, function: Code) -> str | None:
    """What a test's code needs, that of its fixtures and of the functions that it names included."""
    for code in _closure(path, function):
        imported = list(_imports(ast.walk(code)))
        if any(_brings_torch(name) for name in imported):
            return TORCH
        if any(name.startswith("playwright.") for name in imported):
            return BROWSER
        if {"subprocess", "multiprocessing"} & _names(code):
            return PROCESS
    return None


def _closure(path: Path, function: Code) -> Iterator[Code]:
    """A test, the functions and classes that it names, and its fixtures, in its file and the conftest files above."""
    seen: set[tuple[Path, str]] = set()
    automatic = [(path, other) for other in _codes(path) if "autouse=True" in _decorators(other)]
    waiting = [(path, function), *automatic]
    while waiting:
        place, code = waiting.pop()
        if (place, code.name) in seen:
            continue
        seen.add((place, code.name))
        yield code
        names = _names(code)
        waiting += [(place, other) for other in _codes(place) if other.name in names]
        arguments = {node.arg for node in ast.walk(code) if isinstance(node, ast.arg)}
        for file in _fixture_files(place):
            found = (other for other in _codes(file) if "fixture" in _decorators(other))
            waiting += [(file, other) for other in found if other.name in arguments]


def _fixture_files(path: Path) -> Iterator[Path]:
    """The file itself and every conftest.py above it."""
    yield path
    for folder in path.parents:
        if (folder / "conftest.py").is_file():
            yield folder / "conftest.py"
        if folder in (ROOT / "tests", ROOT):
            return


@functools.cache
def _brings_torch(name: str) -> bool:
    """Whether an import brings torch: of torch itself, or of a file here that does, through whatever it imports."""
    seen: set[Path] = set()
    waiting = [name]
    while waiting:
        asked = waiting.pop()
        if asked.partition(".")[0] in BRING_TORCH and asked not in OF_TRANSFORMERS_ALONE:
            return True
        for file in _files_of(asked):
            if file not in seen:
                seen.add(file)
                waiting += _at_import(file)
    return False


@functools.cache
def _files_of(name: str) -> list[Path]:
    """The files of this project that are run when a dotted name is imported; the last part may be no module."""
    root, *parts = name.split(".")
    if root not in FOLDERS:
        return []
    place, files = FOLDERS[root], list[Path]()
    for part in [None, *parts]:
        place = place / part if part else place
        if (place / "__init__.py").is_file():
            files.append(place / "__init__.py")
        elif place.with_suffix(".py").is_file():
            files.append(place.with_suffix(".py"))
    return files


@functools.cache
def _at_import(path: Path) -> list[str]:
    """What is imported when the file is: not what functions import, nor what only type checkers see."""

    def nodes(parent: ast.AST) -> Iterator[ast.AST]:
        for node in ast.iter_child_nodes(parent):
            typing_only = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
            if isinstance(node, Statement) and not typing_only and not isinstance(node, Function):
                yield node
                yield from nodes(node)

    package = next((name for name, folder in FOLDERS.items() if path.parent == folder), "")
    return [f"{package}{name}" if name.startswith(".") else name for name in _imports(nodes(_parsed(path)))]


def _imports(nodes: Iterable[ast.AST]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{'.' * node.level}{node.module}.{alias.name}" for alias in node.names)


def _marked(marks: Iterable[ast.expr]) -> str | None:
    """The reason that a marker gives. One inside parametrize marks a case, not the function."""
    for mark in marks:
        for words, reason in MARKS.items():
            if ast.unparse(mark).startswith(words):
                return reason
    return None


def _pytestmark(tree: ast.Module) -> list[ast.expr]:
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "pytestmark":
            return node.value.elts if isinstance(node.value, ast.List | ast.Tuple) else [node.value]
    return []


@functools.cache
def _codes(path: Path) -> list[Code]:
    """A file's functions and classes."""
    return [node for node in _parsed(path).body if isinstance(node, Code)]


@functools.cache
def _decorators(code: Code) -> str:
    return " ".join(map(ast.unparse, code.decorator_list))


@functools.cache
def _names(code: ast.AST) -> set[str]:
    return {node.id for node in ast.walk(code) if isinstance(node, ast.Name)}


@functools.cache
def _parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))
