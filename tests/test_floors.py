"""Imports go down, floor by floor, or not at all."""

import ast
import subprocess
import sys
from pathlib import Path

import stackedae

PACKAGE = Path(stackedae.__file__).parent

FLOORS = [
    {"arrays", "errors", "evaluation", "layout", "_version"},
    {
        *("clock", "contrast", "costs", "forecast", "labelled", "layers", "memory", "moments"),
        *("noise", "solvers", "windows"),
    },
    {
        *("blas", "cluster", "containers", "contexts", "deferred", "deployment", "documents"),
        "failures",
        *("images", "malloc", "objective", "pixels", "quantiles", "scatter", "shards", "sharing"),
        "sources",
        "local_steps",
        *("storage", "stores"),
    },
    {
        *("checkpoint", "cutting", "fitting", "growth", "patches", "persistence", "planning"),
        "preprocessing",
        *("mapping", "metrics", "progress", "rows", "samples", "sampling", "spectrum"),
        *("minimisation", "streams", "targets", "training", "whitening"),
    },
    {
        *("base", "cli", "datasets", "estimators", "exporting", "features", "models"),
        "terminal",
        *("outliers", "plotting", "report", "selection", "supervised", "__init__"),
    },
]
ENGINE = {"dask", "distributed", "zarr", "xarray"}
OPTIONAL = {"dask_jobqueue", "matplotlib", "onnx", "skimage.io", "tifffile", "torch"}


def modules():
    return sorted(PACKAGE.rglob("*.py"))


def room(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def floor_of(name):
    (floor,) = (number for number, rooms in enumerate(FLOORS) if name in rooms)
    return floor


def imports(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield node.module


def test_every_module_has_a_floor():
    rooms = set().union(*FLOORS)
    assert {room(path) for path in modules()} == rooms


def test_imports_go_down():
    wrong = []
    for path in modules():
        for name in imports(ast.parse(path.read_text())):
            package, _, rest = name.partition(".")
            if package != "stackedae":
                continue
            target = rest.split(".")[0]
            assert target, f"{path.name} imports from the root of the package"
            if target != room(path) and floor_of(target) > floor_of(room(path)):
                wrong.append(f"{path.name} -> {name}")
    assert not wrong


def test_no_circles():
    below = {}
    for path in modules():
        names = imports(ast.parse(path.read_text()))
        targets = {name.split(".")[1] for name in names if name.startswith("stackedae.")}
        below.setdefault(room(path), set()).update(targets - {room(path)})
    seen = set()
    while below:
        free = {name for name, targets in below.items() if targets <= seen}
        assert free, f"these import each other: {sorted(below)}"
        seen |= free
        below = {name: targets for name, targets in below.items() if name not in free}


def test_numbers_know_no_engine():
    for path in modules():
        if floor_of(room(path)) <= 1:
            tops = {name.split(".")[0] for name in imports(ast.parse(path.read_text()))}
            assert not tops & (ENGINE | {"sklearn", "skimage", "scipy", "threadpoolctl"}), path


def test_imports_inside_functions_are_of_optional_packages():
    for path in modules():
        for function in ast.walk(ast.parse(path.read_text())):
            if isinstance(function, ast.FunctionDef):
                inner = {name for name in imports(function) if not name.startswith(tuple(OPTIONAL))}
                assert not inner, f"{path.name}: {function.name}"


def test_workers_import_what_tasks_need_and_no_more():
    code = """
import sys
import stackedae.objective, stackedae.shards, stackedae.storage
assert not {"sklearn", "skimage", "matplotlib", "stackedae.estimators"} & set(sys.modules)
import stackedae
assert stackedae.errors.StoreError and stackedae.layers.Layer
assert "sklearn" not in sys.modules
from stackedae import *
assert StackedAutoEncoder is stackedae.estimators.StackedAutoEncoder
assert "sklearn" in sys.modules and set(stackedae.__all__) <= set(dir(stackedae))
"""
    subprocess.run([sys.executable, "-c", code], check=True)
