"""The house: arrows point one way, folders and files stay small enough to be read."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DEVICE, EXPORT = ROOT / "tgems_edge", ROOT / "export" / "tgems_export"
MOST_FILES, MOST_LINES = 12, 400
# `python -m tgems_edge.bench.make_tower` ends as commands do.
PROGRAM = ("tgems_edge.bench", "tgems_edge.cli")
FILES = sorted(DEVICE.rglob("*.py"))
ALL_FILES = [*FILES, *sorted(EXPORT.rglob("*.py"))]
WORKSTATION = {"tgems_export", "torch", "torchvision", "open_clip", "timm", "onnx", "safetensors"}


def module(path):
    """The dotted name of a file."""
    parts = path.relative_to(EXPORT.parent if EXPORT in path.parents else ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module(path): path for path in ALL_FILES}


def statements(tree):
    """All statements that can run, whatever function they are in."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        yield node
        yield from statements(node)


def imports(path):
    """Dotted names that a file imports: modules, and names in modules."""
    for node in statements(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imported_modules(path):
    """Our own modules that a file imports, itself left out."""
    found = {name if name in MODULES else name.rpartition(".")[0] for name in imports(path)}
    return found & MODULES.keys() - {module(path)}


def folder(name):
    """The folder of the package that a module lies in, or the module itself."""
    return ".".join(name.split(".")[:2])


def check_one_way(arrows):
    try:
        TopologicalSorter(arrows).prepare()
    except CycleError as error:
        pytest.fail("a circle of imports: " + " → ".join(error.args[1]))


def test_no_modules_import_each_other_in_a_circle():
    arrows = {name: imported_modules(path) for name, path in MODULES.items()}
    assert arrows["tgems_edge.runtime.classifier"] > {"tgems_edge.runtime.session"}
    check_one_way(arrows)


@pytest.mark.parametrize("package", ["tgems_edge", "tgems_export"])
def test_no_folders_import_each_other_in_a_circle(package):
    arrows = {}
    for name, path in MODULES.items():
        if name.split(".")[0] == package:
            inside = {folder(other) for other in imported_modules(path)} - {folder(name), package}
            arrows.setdefault(folder(name), set()).update(inside)
    start, end = PROGRAM
    arrows.get(start, set()).discard(end)
    expected = {"tgems_edge": "model_file", "tgems_export": "encoders"}[package]
    user = {"tgems_edge": "runtime", "tgems_export": "exporting"}[package]
    assert f"{package}.{expected}" in arrows[f"{package}.{user}"]
    check_one_way(arrows)


def test_the_device_imports_nothing_of_the_workstation():
    for path in FILES:
        assert not WORKSTATION & {name.split(".")[0] for name in imports(path)}, path


@pytest.mark.parametrize("path", ALL_FILES, ids=module)
def test_files_are_short(path):
    assert len(path.read_text("utf-8").splitlines()) <= MOST_LINES


@pytest.mark.parametrize("place", sorted({path.parent for path in ALL_FILES}), ids=module)
def test_folders_are_small(place):
    assert len(list(place.glob("*.py"))) <= MOST_FILES


# A docstring starts with a verb, or with a noun that says what the thing is.
VAGUE = [
    "Of",
    "By",
    "With",
    "From",
    "In",
    "On",
    "For",
    "At",
    "To",
    "What",
    "Which",
    "Who",
    "Whose",
    "Where",
    "Everything",
    "Nothing",
    "How",
    "As",
]
OTHERS = [path for place in ("benchmarks", "tests") for path in sorted((ROOT / place).rglob("*.py"))]


def docstrings(path):
    """The first word of each docstring of a file, by its line."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            text = ast.get_docstring(node)
            yield getattr(node, "lineno", 1), (text or "-").split()[0]


def test_docstrings_start_with_a_verb_or_a_noun():
    vague = [
        f"{path.relative_to(ROOT)}:{line} {word}"
        for path in [*ALL_FILES, *OTHERS]
        for line, word in docstrings(path)
        if word in VAGUE
    ]
    assert vague == []
