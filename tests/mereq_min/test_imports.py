"""Imports need numpy and scipy alone, form no circle and point one way; public names have docstrings."""

import ast
import itertools
import pkgutil
import re
import subprocess
import sys
from collections.abc import Collection, Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import mereq_min

ROOT = Path(__file__).parents[2]

COMPILED = {
    f"mereq_min.{name}" for name in ("forest", "lattice", "soft_kernels", "soft_lattice", "soft_numba")
}
NEED_MORE = {"mereq_min.lab"} | COMPILED
"""The lab and the compiled solver, which need the full installation."""

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
    """Import modules in a new interpreter that finds only numpy, scipy and mereq_min; return what fails."""
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


def test_importing_mereq_min_leaves_slow_modules_out() -> None:
    """scipy.stats alone takes longer to import than everything else together."""
    program = "import sys, mereq_min; print([m for m in sys.argv[1:] if m in sys.modules])"
    slow = ["scipy.stats", "scipy.sparse.linalg", "scipy.optimize", "numba", "gymnasium", "torch"]
    run = subprocess.run(
        [sys.executable, "-c", program, *slow], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "[]"


# The import graph ------------------------------------------------------------------------------------------

PACKAGES = ("mereq_min", "gridworlds", "deep")


def module_name(path: Path) -> str:
    """Return the dotted name of a module file."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
FLAT = sorted(
    name for name in MODULES if re.fullmatch(r"mereq_min(\.\w+)?", name) and name != "mereq_min.lab"
)
"""The modules of the method."""


def imports_of(source: str, known: Collection[str]) -> set[str]:
    """Return the modules among `known` that source imports, also in functions and under TYPE_CHECKING.

    Importing a name from a package counts as importing the module of that name if there is one, otherwise as
    importing the package itself.
    """
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, "imports are absolute here"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in known else node.module for name in names}
    return found & set(known)


GRAPH = {name: imports_of(path.read_text(encoding="utf-8"), MODULES) for name, path in MODULES.items()}
"""The modules that each module imports."""


def test_imports_are_found_wherever_they_stand() -> None:
    source = """
from typing import TYPE_CHECKING
import p.a as a
from p import b, name
if TYPE_CHECKING:
    from p.c import X
def f():
    from p.d import y
    import elsewhere
"""
    assert imports_of(source, {"p", "p.a", "p.b", "p.c", "p.d", "p.e"}) == {"p", "p.a", "p.b", "p.c", "p.d"}


def test_no_modules_import_each_other_in_a_circle() -> None:
    try:
        TopologicalSorter(GRAPH).prepare()
    except CycleError as error:
        pytest.fail(f"import circle: {' <- '.join(error.args[1])}")


def test_circles_are_found() -> None:
    with pytest.raises(CycleError):
        TopologicalSorter({"a": {"b"}, "b": {"c"}, "c": {"a"}}).prepare()


def test_the_compiled_solver_does_not_import_the_solver_that_loads_it() -> None:
    assert "mereq_min.soft_numba" in GRAPH["mereq_min.soft"]
    assert [name for name in FLAT if "mereq_min.soft_numba" in GRAPH[name]] == ["mereq_min.soft"]
    assert "mereq_min.soft" not in GRAPH["mereq_min.soft_numba"]


@pytest.mark.parametrize("module", FLAT)
def test_the_method_imports_nothing_of_the_lab(module: str) -> None:
    assert {name for name in GRAPH[module] if name.startswith("mereq_min.lab")} == set()


def imported_packages(source: str) -> set[str]:
    """Return the top-level packages that Python source imports, anywhere in it."""
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


# Docstrings ------------------------------------------------------------------------------------------------

Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def undocumented(scope: ast.Module | ast.ClassDef, prefix: str = "") -> Iterator[str]:
    """Yield the public names of a module that have no docstring: functions, classes, methods, values, fields.

    A string after an assignment documents it, and also the assignments on the lines just before. A field may
    be documented in the section "Attributes:" of its class instead. Assignments without annotation in a class
    give a value to a field of its base class, which documents it.
    """
    text = ast.get_docstring(scope) or ""
    if not text and not prefix:
        yield "the module"
    for i, node in enumerate(scope.body):
        if isinstance(node, Definition) and not node.name.startswith("_"):
            if not ast.get_docstring(node):
                yield prefix + node.name
            if isinstance(node, ast.ClassDef):
                yield from undocumented(node, f"{prefix}{node.name}.")
        elif isinstance(node, ast.AnnAssign) or (isinstance(node, ast.Assign) and not prefix):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = [n.id for target in targets for n in ast.walk(target) if isinstance(n, ast.Name)]
            for name in names:
                listed = prefix and re.search(rf"^\s+{name}: ", text, flags=re.MULTILINE)
                if not (name.startswith("_") or listed or _string_follows(scope.body[i:])):
                    yield prefix + name


def _string_follows(nodes: list[ast.stmt]) -> bool:
    """Return whether a string stands after the first assignment and those on the lines that follow it."""
    for node, following in itertools.pairwise(nodes):
        if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
            return isinstance(following.value.value, str)
        if (
            not isinstance(following, ast.Assign | ast.AnnAssign)
            or following.lineno != (node.end_lineno or 0) + 1
        ):
            return False
    return False


def test_undocumented_names_are_found() -> None:
    source = '''
"""Module."""
A = 1
A2, A3 = 1, 2
"""Documented."""
B: int = 2

A4: int = 2
"""Documented."""
_C = 3
def f(): ...
def _g(): ...
class D:
    """Class.

    Attributes:
        x: documented.
    """
    x: int
    z: int = 1
    """Documented."""
    inherited = 1
    y: int
    def h(self): ...
    def i(self):
        """Documented."""
'''
    assert list(undocumented(ast.parse(source))) == ["B", "f", "D.y", "D.h"]


@pytest.mark.parametrize("module", sorted(MODULES))
def test_every_public_name_has_a_docstring(module: str) -> None:
    assert list(undocumented(ast.parse(MODULES[module].read_text(encoding="utf-8")))) == []
