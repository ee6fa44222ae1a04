"""A million states in one call, within the memory of a laptop."""

import json
import subprocess
import sys

import pytest

SOLVE = """
import json, resource
from gridworlds import grid
from mereq_min import solve_soft
mdp = grid(1000)
solution = solve_soft(mdp, mdp.reward([1.0, 0.5]), 0.1, tol=1e-8, backend="{backend}")
kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps([mdp.n_states, solution.bellman_error, kilobytes / 2**20]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["scipy", "numba"])
def test_a_million_states_are_solved_within_two_gibibytes(backend: str) -> None:
    # A process of its own, because the peak of a process never goes down again.
    command = [sys.executable, "-c", SOLVE.format(backend=backend)]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600)
    n_states, error, gibibytes = json.loads(shown.stdout)
    assert n_states == 1_000_000
    assert error <= 1e-8
    assert gibibytes < 2.0
