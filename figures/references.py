"""Record what the tables need beside the runs: measures of prior, expert and theta*, and the time of a run.

    python figures/references.py            # ten minutes on one core; writes figures/references.json
    python figures/references.py bottle     # one task anew

The prior customised for theta* itself shows what the learner makes of a perfect inference. It and the expert
are also watched, so that their interventions can be counted. On gridworlds the expert's own policy is watched
by an expert who errs, too.

The seconds are those of the processor, so that a neighbour on the core does not count.
"""

import json
import sys
import time
from dataclasses import replace
from pathlib import Path

import ends

from mereq_min import METHODS, Imperfections, Policy, Task, align, make_aligner, settings_of, watch
from mereq_min.experts import PRESETS
from mereq_min.lab.plugins import load_task
from mereq_min.lab.runs.files import write_file
from mereq_min.lab.runs.provenance import provenance
from mereq_min.methods import choose_method, has_networks
from mereq_min.metrics import THRESHOLDS

FILE = Path(__file__).with_name("references.json")
TASKS = ("carpet", "lanes", "shelf", "windy", "highway", "bottle", "eraser", "pillow")
SEED = 3_000
WATCHED = 40
"""Iterations for which the expert's policy and that for theta* are watched."""
MEASURES = ("task_return", "expert_return", "success", "kl_to_expert")


def measure(name: str) -> dict[str, object]:
    """Measures of a task's prior and expert; rate and seconds of each iteration until the rate is low.

    Measuring comes first, so that what is compiled for the task is there when the clock starts.
    """
    task = load_task(name)
    settings, method = settings_of(task), choose_method(task)
    solved = task.make_learner("residual", 1.0, seed=SEED).solve(task.oracle.true_theta)
    policies = {"prior": task.prior, "expert": task.oracle.expert_policy, "solve": solved}
    episodes = ends.EPISODES if name == ends.TASK else None
    measured = {who: task.evaluate(policy, episodes=episodes) for who, policy in policies.items()}
    kept = {who: {key: float(values[key]) for key in MEASURES} for who, values in measured.items()}
    watched = {who: watch_often(task, policies[who], PRESETS["none"]) for who in ("expert", "solve")}
    if not has_networks(task):
        watched["erring"] = watch_often(task, policies["expert"], PRESETS["human"])
    rates, seconds, begun = [], [], time.process_time()
    config = replace(settings.loop, threshold=THRESHOLDS[0])
    for iteration in align(task, make_aligner(task, METHODS[method], seed=SEED), config, seed=SEED):
        seconds.append(time.process_time() - begun)
        rates.append(iteration.intervention_rate)
        begun = time.process_time()
    run = {"method": method, "seed": SEED, "rates": rates, "seconds": seconds}
    return {**kept, "watched": watched, **run}


def watch_often(task: Task, policy: Policy, errors: Imperfections) -> list[float]:
    """Intervention rates of iterations in which a simulated expert who may err watches a policy."""
    n_steps = settings_of(task).loop.steps_per_iteration
    seeds = range(SEED, SEED + WATCHED)
    return [watch(task, policy, task.oracle, n_steps, seed, errors).intervention_rate for seed in seeds]


def main() -> None:
    """Measure the tasks that are named, or all, and keep what is recorded of the others."""
    names = sys.argv[1:] or TASKS
    commit = provenance()  # of the tree before this script writes to it
    recorded = json.loads(FILE.read_text())["tasks"] if FILE.exists() else {}
    for name in names:
        recorded[name] = {**measure(name), **commit}
        write_file(FILE, (json.dumps({"tasks": recorded}, indent=1) + "\n").encode())
        print(name)


if __name__ == "__main__":
    main()
