"""What the benchmarks take from the package is there: nobody runs them often."""

import ast
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2] / "benchmarks"
if not ROOT.is_dir():
    pytest.skip("no benchmarks in this copy", allow_module_level=True)


@pytest.mark.parametrize(
    "path", [pytest.param(path, id=path.name) for path in sorted(ROOT.rglob("*.py"))]
)
def test_imports(path):
    missing = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith("cafe_cli"):
            continue
        module = importlib.import_module(node.module)
        for name in (alias.name for alias in node.names):
            if not hasattr(module, name):
                try:
                    importlib.import_module(f"{node.module}.{name}")
                except ModuleNotFoundError:
                    missing.append(f"{node.module}.{name}")
    assert missing == []
