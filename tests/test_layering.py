"""The source keeps its layers: what imports what, read from the syntax trees."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.support import ROOT

PACKAGES = ("dabnet", "calibration", "export", "bench")
"""From the lowest layer to the highest: each may import those before it."""

RUNTIME_KNOWS_NOT = ("dabnet.data", "dabnet.training", "dabnet.checkpoint")
HEAVY = {
    *("torch", "onnx", "onnx_ir", "onnxruntime", "tensorrt", "tensorrt_rtx", "openvino"),
    *("matplotlib", "scipy", "pydantic", "jinja2", "torchinfo", "av"),
}
LIGHT_AT_THE_TOP = (
    *("dabnet.cli", "dabnet.data_cli", "dabnet.run.cli", "dabnet.console"),
    *("export.cli", "bench.cli"),
)
FORBIDDEN_NAMES = {"onnx.py", "tensorrt.py", "utils.py"}
LONGEST = 600
SMALL_FOLDERS = ("export", "bench", "dabnet.runtime")
MOST_ENTRIES = 15


def module_name(path: Path, root: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def source_files(root: Path) -> dict[str, Path]:
    """Every module of the packages, by its dotted name."""
    files = (path for package in PACKAGES for path in sorted((root / package).rglob("*.py")))
    return {module_name(path, root): path for path in files}


def imported(nodes: Iterator[ast.AST], module: str, is_package: bool) -> Iterator[str]:
    """Dotted names that import statements name; of ``from a import b`` both a and a.b."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = module.split(".")
                keep = len(parents) - node.level + is_package
                base = ".".join([*parents[:keep], *([base] if base else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and node.args:
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            first = node.args[0]
            if name in ("import_module", "__import__") and isinstance(first, ast.Constant):
                yield str(first.value)


def everywhere(tree: ast.Module) -> Iterator[ast.AST]:
    return ast.walk(tree)


def when_imported(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes that run when a module is imported: no function bodies, no TYPE_CHECKING."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            yield from (n for branch in child.orelse for n in (branch, *when_imported(branch)))
            continue
        yield child
        yield from when_imported(child)


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def direction_faults(modules: dict[str, Path]) -> Iterator[str]:
    for module, path in modules.items():
        layer = PACKAGES.index(module.split(".")[0])
        names = imported(everywhere(_tree(path)), module, path.name == "__init__.py")
        for name in names:
            if name.split(".")[0] in PACKAGES[layer + 1 :]:
                yield f"{module} imports {name}: {' -> '.join(reversed(PACKAGES))} is one way"
            known = any(within(name, package) for package in RUNTIME_KNOWS_NOT)
            if within(module, "dabnet.runtime") and known:
                yield f"{module} imports {name}: the runtime knows no dataset and no training"


def heavy_faults(modules: dict[str, Path]) -> Iterator[str]:
    """Follow what a command imports at its start through the project's own modules."""
    for start in (m for m in modules if any(within(m, light) for light in LIGHT_AT_THE_TOP)):
        waiting, seen = [(start,)], set()
        while waiting:
            chain = waiting.pop()
            module = chain[-1]
            if module in seen:
                continue
            seen.add(module)
            path = modules[module]
            names = set(imported(when_imported(_tree(path)), module, path.name == "__init__.py"))
            for name in sorted(names):
                if name.split(".")[0] in HEAVY:
                    yield f"{' -> '.join(chain)} imports {name} at its top"
                parts = name.split(".")
                parents = (".".join(parts[:end]) for end in range(1, len(parts) + 1))
                waiting += [(*chain, parent) for parent in parents if parent in modules]


def circle_faults(modules: dict[str, Path]) -> Iterator[str]:
    """Circles among the files and folders of each folder: an import into a folder is one of it."""
    edges: dict[str, dict[str, set[str]]] = {}
    for module, path in modules.items():
        for name in imported(everywhere(_tree(path)), module, path.name == "__init__.py"):
            if name not in modules or name == module:
                continue
            here, there = _file_parts(module, modules), _file_parts(name, modules)
            depth = next(i for i, (a, b) in enumerate(zip(here, there, strict=False)) if a != b)
            folder = edges.setdefault(".".join(here[:depth]), {})
            folder.setdefault(here[depth], set()).add(there[depth])
    for folder, arrows in edges.items():
        try:
            tuple(TopologicalSorter(arrows).static_order())
        except CycleError as error:
            yield f"circle of imports in {folder or 'the packages'}: {' <- '.join(error.args[1])}"


def _file_parts(module: str, modules: dict[str, Path]) -> list[str]:
    """``a.b`` → [a, b], or [a, b, __init__] where it is a package."""
    own = ["__init__"] if modules[module].name == "__init__.py" else []
    return [*module.split("."), *own]


def file_faults(modules: dict[str, Path]) -> Iterator[str]:
    for module, path in modules.items():
        if path.name == "__init__.py" and any(within(module, small) for small in SMALL_FOLDERS):
            count = sum(not entry.name.startswith("__") for entry in path.parent.iterdir())
            if count > MOST_ENTRIES:
                yield f"{module} has {count} entries; at most {MOST_ENTRIES}"
        if path.name in FORBIDDEN_NAMES:
            yield f"{module}: no source file is called {path.name}"
        length = len(path.read_text(encoding="utf-8").splitlines())
        if length > LONGEST:
            yield f"{path} has {length} lines; at most {LONGEST}"


def shared_test_faults(tests: Path) -> Iterator[str]:
    """What tests share is in ``tests.support``, and no test module imports another one."""
    files = sorted(tests.rglob("*.py"))
    names = {path.stem for path in files if path.stem.startswith("test_")}
    for path in files:
        module = module_name(path, tests.parent)
        for name in imported(everywhere(_tree(path)), module, path.name == "__init__.py"):
            if others := names.intersection(name.split(".")):
                yield f"{module} imports {min(others)}: tests share what is in tests.support"


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def faults(root: Path) -> list[str]:
    modules = source_files(root)
    checks = (direction_faults, heavy_faults, circle_faults, file_faults)
    return sorted({fault for check in checks for fault in check(modules)})


def test_the_source_keeps_its_layers() -> None:
    modules = source_files(ROOT)
    assert set(LIGHT_AT_THE_TOP) <= modules.keys()
    assert {module.split(".")[0] for module in modules} == set(PACKAGES)
    assert faults(ROOT) == []


def test_no_test_imports_another() -> None:
    assert list(shared_test_faults(ROOT / "tests")) == []


@pytest.fixture
def fake(tmp_path: Path) -> Path:
    """A small tree without a fault."""
    files = {
        "dabnet/__init__.py": "",
        "dabnet/cli.py": "import click\nfrom dabnet.data import names\n"
        "def main():\n    import torch\n",
        "dabnet/console.py": "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    import torch\nelse:\n    import json\n",
        "dabnet/data/__init__.py": "",
        "dabnet/data/names.py": "NAMES = ()\n",
        "dabnet/data/loader.py": "import torch\n",
        "dabnet/runtime/__init__.py": "",
        "dabnet/runtime/runner.py": "import torch\n",
        "calibration/ranges.py": "from dabnet.data import names\n",
        "export/build.py": "import onnx\nfrom calibration.ranges import x\n",
        "export/cli/__init__.py": "",
        "export/cli/main.py": "import click\n",
        "export/engine/__init__.py": "",
        "export/engine/config.py": "from export import build\n",
        "bench/run.py": "import export.build\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_the_checker_finds_nothing_in_a_tree_that_is_right(fake: Path) -> None:
    assert faults(fake) == []


@pytest.mark.parametrize(
    ("file", "text", "fault"),
    [
        ("dabnet/x.py", "import calibration", "dabnet.x imports calibration"),
        ("dabnet/x.py", "def f():\n    from bench import run", "dabnet.x imports bench"),
        ("calibration/x.py", "from export.build import y", "calibration.x imports export.build"),
        ("export/x.py", "import importlib\nimportlib.import_module('bench.run')", "bench.run"),
        ("dabnet/runtime/x.py", "from dabnet import training", "knows no dataset"),
        ("dabnet/runtime/x.py", "from ..data.names import NAMES", "imports dabnet.data"),
        ("dabnet/runtime/__init__.py", "from ..checkpoint import load", "dabnet.checkpoint"),
        ("dabnet/cli.py", "import torch.nn", "dabnet.cli imports torch.nn at its top"),
        (
            "export/cli/__init__.py",
            "try:\n    import onnx\nexcept ImportError:\n    pass",
            "imports onnx",
        ),
        ("export/cli/main.py", "class A:\n    import matplotlib", "imports matplotlib"),
        (
            "dabnet/data/names.py",
            "from dabnet.data.loader import open",
            "dabnet.cli -> dabnet.data.names -> dabnet.data.loader imports torch at its top",
        ),
        ("dabnet/data/__init__.py", "import tensorrt_rtx", "dabnet.data imports tensorrt_rtx"),
        ("export/onnx.py", "", "no source file is called onnx.py"),
        ("dabnet/data/utils.py", "", "no source file is called utils.py"),
        ("bench/long.py", "x = 1\n" * 601, "long.py has 601 lines"),
        (
            "export/build.py",
            "def f():\n    from export.engine.config import x",
            "circle of imports in export: ",
        ),
    ],
)
def test_the_checker_finds_each_kind_of_fault(fake: Path, file: str, text: str, fault: str) -> None:
    (fake / file).write_text(text)
    found = faults(fake)
    assert found
    assert any(fault in line for line in found)


def test_the_checker_counts_the_entries_of_a_folder(fake: Path) -> None:
    for number in range(MOST_ENTRIES):
        (fake / f"export/engine/part_{number}.py").touch()  # beside config.py
    assert faults(fake) == [f"export.engine has {MOST_ENTRIES + 1} entries; at most {MOST_ENTRIES}"]


@pytest.mark.parametrize(
    "text", ["from test_a import x", "import tests.deep.test_a", "from tests.deep import test_a"]
)
def test_the_checker_finds_tests_that_import_others(tmp_path: Path, text: str) -> None:
    (tmp_path / "tests" / "deep").mkdir(parents=True)
    (tmp_path / "tests/deep/test_a.py").write_text("from tests.support import ROOT")
    assert list(shared_test_faults(tmp_path / "tests")) == []
    (tmp_path / "tests/test_b.py").write_text(text)
    assert set(shared_test_faults(tmp_path / "tests")) == {
        "tests.test_b imports test_a: tests share what is in tests.support"
    }
