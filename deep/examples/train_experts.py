"""Train the simulated experts of the examples, each on the prior beside it.

    python -m deep.examples.train_experts lunar-lander mountain-car half-cheetah

An expert customises its task's prior for theta* by the task's own residual learner. It is written to
`<name>-expert.safetensors` beside this file; the same seed gives the same file on the same machine.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

from deep import TASKS
from deep.examples.tasks import HERE
from deep.oracle import SimulatorOracle
from mereq_min.lab.runs.files import save_arrays


def main(names: list[str]) -> None:
    """Train the experts of these tasks."""
    for name in names:
        task = TASKS[name]()
        assert isinstance(task.oracle, SimulatorOracle)
        expert: Any = replace(task.oracle, expert=None).expert_policy
        save_arrays(HERE / f"{name}-expert.safetensors", expert.arrays())
        print(name, task.evaluate(expert))


if __name__ == "__main__":
    main(sys.argv[1:])
