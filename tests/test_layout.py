"""The layout of the package: no import cycles, no long files or functions."""

import ast
import pathlib

import pytest

REPOSITORY = pathlib.Path(__file__).parents[1]
PACKAGE = REPOSITORY / "vse_jax"
LINES_OF_A_FILE = 400
LINES_OF_A_FUNCTION = 50  # without its docstring
COLLECTIVES = {"psum", "pmean", "pmax", "all_gather", "all_to_all", "psum_scatter"}
COLLECTIVES |= {"ppermute", "axis_index", "pmap", "shard_map"}


def name_of(path):
    parts = path.relative_to(REPOSITORY).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


TREES = {name_of(path): ast.parse(path.read_text()) for path in PACKAGE.rglob("*.py")}


def imports_of(name):
    """Returns the modules of the package that a module imports at import time."""
    found = set()
    for node in TREES[name].body:
        if isinstance(node, ast.ImportFrom):
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {n if n in TREES else node.module for n in names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {module for module in found if module in TREES} - {name}


def test_no_import_cycle():
    done = set()

    def visit(name, above):
        assert name not in above, " -> ".join([*above, name])
        if name not in done:
            for module in sorted(imports_of(name)):
                visit(module, [*above, name])
            done.add(name)

    for name in TREES:
        visit(name, [])
    assert len(done) > 80


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=name_of)
def test_files_and_functions_are_short(path):
    text = path.read_text()
    assert len(text.splitlines()) <= LINES_OF_A_FILE
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            docstring = ast.get_docstring(node, clean=False) or ""
            lines = node.end_lineno - node.lineno + 1 - len(docstring.splitlines())
            assert lines <= LINES_OF_A_FUNCTION, node.name


@pytest.mark.parametrize(
    ("room", "foreign"),
    [
        ("vse_jax.models", ("vse_jax.data", "vse_jax.train", "vse_jax.checkpoint")),
        ("vse_jax.losses", ("vse_jax.data", "vse_jax.train", "vse_jax.checkpoint")),
        ("vse_jax.similarity", ("vse_jax.data", "vse_jax.train", "vse_jax.checkpoint")),
        ("vse_jax.data", ("vse_jax.models", "vse_jax.train", "vse_jax.checkpoint")),
    ],
)
def test_arrows_point_down(room, foreign):
    names = [n for n in TREES if n == room or n.startswith(f"{room}.")]
    assert names
    for name in names:
        wrong = [m for m in imports_of(name) if m.startswith(foreign)]
        assert not wrong, name


def test_only_parallel_has_collectives():
    users = {
        name
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr in COLLECTIVES
    }
    assert users
    assert all(name.startswith("vse_jax.parallel.") for name in users), users
