"""The scripts of figures/, which are no modules of a package."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def load_script():
    """A function that imports a script by its name."""

    def load(name):
        with pytest.MonkeyPatch.context() as patch:
            patch.syspath_prepend(ROOT / "figures")
            spec = importlib.util.spec_from_file_location(name, ROOT / f"figures/{name}.py")
            script = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(script)
        return script

    return load
