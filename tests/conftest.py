"""For all tests: a fixed hypothesis profile, and a way to import the scripts of figures/."""

import importlib.util
from pathlib import Path

import pytest
from hypothesis import settings

# The same examples on every machine, without a time limit.
settings.register_profile("fixed", derandomize=True, deadline=None, max_examples=100)
settings.load_profile("fixed")

FIGURES = Path(__file__).parents[1] / "figures"


@pytest.fixture(scope="session")
def load_script():
    """A function that imports a script by its name; they are no modules of a package."""

    def load(name):
        with pytest.MonkeyPatch.context() as patch:
            patch.syspath_prepend(FIGURES)
            spec = importlib.util.spec_from_file_location(name, FIGURES / f"{name}.py")
            script = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(script)
        return script

    return load
