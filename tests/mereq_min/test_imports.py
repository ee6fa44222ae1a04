"""What may import what: `mereq_min` needs numpy and scipy alone, and imports point one way."""

import ast
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import mereq_min

ROOT = Path(__file__).parents[2]

NEED_MORE = {"mereq_min.lab", "mereq_min.soft_numba"}
"""What stands around an experiment, and the compiled solver: for use with the full installation."""

IMPORT_ALONE = """
import importlib, sys

ALLOWED = {"mereq_min", "numpy", "scipy"} | set(sys.stdlib_module_names)

class Blocked(ModuleNotFoundError):
    pass

class Block:
    def find_spec(self, name, path=None, target=None):
        # The standard library keeps its build settings in a module named after the platform.
        if name.partition(".")[0] not in ALLOWED and not name.startswith("_sysconfigdata"):
            raise Blocked(name)

sys.meta_path.insert(0, Block())
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except Blocked:
        print(name)
"""


def find_blocked(modules: list[str]) -> set[str]:
    """Import modules in a fresh interpreter that finds only numpy, scipy, mereq_min; return what fails."""
    command = [sys.executable, "-c", IMPORT_ALONE, *modules]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return set(run.stdout.split())


def test_mereq_min_imports_with_numpy_and_scipy_alone() -> None:
    modules = {f"mereq_min.{module.name}" for module in pkgutil.iter_modules(mereq_min.__path__)} - NEED_MORE
    assert find_blocked(["mereq_min", *modules]) == set()


def test_the_blockade_holds() -> None:
    assert find_blocked(["numpy", "gymnasium", "matplotlib", "hypothesis"]) == {
        "gymnasium",
        "matplotlib",
        "hypothesis",
    }


def imported_packages(source: str) -> set[str]:
    """Top-level packages that some Python source imports, anywhere in it."""
    packages = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            packages |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            packages.add(node.module.partition(".")[0])
    return packages


def test_imported_packages_are_found_in_every_form() -> None:
    source = "import a.b, c as d\nfrom e.f import g\ndef h():\n    from i import j\nfrom . import k"
    assert imported_packages(source) == {"a", "c", "e", "i"}


@pytest.mark.parametrize(
    ("package", "forbidden"), [("mereq_min", {"gridworlds", "deep"}), ("gridworlds", {"deep"})]
)
def test_imports_point_one_way(package: str, forbidden: set[str]) -> None:
    sources = sorted((ROOT / package).rglob("*.py"))
    assert sources
    for path in sources:
        wrong = imported_packages(path.read_text(encoding="utf-8")) & forbidden
        assert not wrong, f"{path.relative_to(ROOT)} must not import {sorted(wrong)}"
