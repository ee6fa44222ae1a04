"""Modules of the book, which are no package, for the tests."""

import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

BOOK = Path(__file__).parents[2] / "book"


def load(name: str) -> ModuleType:
    """Import a module that lies beside the pages."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(BOOK), *sys.path])
        return import_module(name)


@pytest.fixture(scope="session")
def road() -> ModuleType:
    return load("road")


@pytest.fixture(scope="session")
def exercises() -> ModuleType:
    return load("exercises")
