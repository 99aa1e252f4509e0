"""The rules of the house that a parser can see: which package imports which, and what stays in its one place."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "prumux"
FILES = sorted(PACKAGE.rglob("*.py"))

# What a folder must know nothing of. The order of the folders is the way of the data.
FORBIDDEN = {
    "data": {"models", "pruning", "inference", "training", "evaluation", "reports"},
    "models": {"data", "pruning", "inference", "training", "evaluation", "reports"},
    "pruning": {"inference", "training", "evaluation", "reports"},
    "inference": {"data", "training", "evaluation", "reports"},
    "auto": {"data", "models", "pruning", "inference", "training", "evaluation"},
}
ALLOWED = {("models", "prumux.pruning.masks")}  # the type in which masks travel


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(node: ast.AST) -> Iterator[str]:
    """Full names of what is imported anywhere below a node; ``from a import b`` gives ``a.b``."""
    for child in ast.walk(node):
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, "relative import: write the full name"
            yield from (f"{child.module}.{alias.name}" for alias in child.names)


def at_import(node: ast.AST) -> Iterator[ast.stmt]:
    """The statements that run when a module is imported: not those in functions or under TYPE_CHECKING."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child
        yield from at_import(child)


def calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def short(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


@pytest.mark.parametrize("path", FILES, ids=short)
def test_imports_go_one_way(path: Path) -> None:
    layer = short(path).split("/")[0]
    for name in imports(tree(path)):
        parts = name.split(".")
        if parts[0] == "prumux" and len(parts) > 1 and parts[1] in FORBIDDEN.get(layer, ()):
            allowed = any(layer == who and name.startswith(what) for who, what in ALLOWED)
            assert allowed, f"{short(path)} imports {name}"


@pytest.mark.parametrize("path", FILES, ids=short)
def test_only_training_knows_the_trainer(path: Path) -> None:
    if short(path).startswith("training/"):
        return
    known = [name for name in imports(tree(path)) if name.startswith("transformers.") and "Trainer" in name]
    known += [name for name in imports(tree(path)) if name.startswith("transformers.trainer")]
    assert not known, f"{short(path)} imports {known}"


@pytest.mark.parametrize("path", FILES, ids=short)
def test_datasets_is_imported_where_it_is_used(path: Path) -> None:
    """`import prumux` works, and is quick, without the library."""
    names = [name for statement in at_import(tree(path)) for name in imports(statement)]
    assert not [name for name in names if name.split(".")[0] == "datasets"]


@pytest.mark.parametrize("path", FILES, ids=short)
def test_no_pickle_is_loaded(path: Path) -> None:
    assert not {"pickle", "dill", "cloudpickle", "joblib"} & {
        name.split(".")[0] for name in imports(tree(path))
    }
    for name, call in calls(path):
        if name == "torch.load":
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
            assert given.get("weights_only") == "True", f"{short(path)}:{call.lineno}"


@pytest.mark.parametrize("path", FILES, ids=short)
def test_only_entry_points_print(path: Path) -> None:
    if short(path) in {"__main__.py", "errors.py"}:  # errors.guard is the frame of every entry point
        return
    assert "print" not in {name for name, _ in calls(path)}


@pytest.mark.parametrize("path", FILES, ids=short)
def test_every_file_says_what_it_is_for(path: Path) -> None:
    assert ast.get_docstring(tree(path)), short(path)
