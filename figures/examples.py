"""Align the gymnasium examples, and print or record what came out.

    python figures/examples.py --record    # aligns the three; a quarter of an hour on one core

Without `--record` the table is printed from `examples.jsonl`.
"""

import argparse
import json
from pathlib import Path

from deep import TASKS
from mereq_min import METHODS, align, make_aligner
from mereq_min.lab.runs.files import write_file
from mereq_min.lab.runs.provenance import provenance

FILE = Path(__file__).with_name("examples.jsonl")
NAMES = ("lunar-lander", "mountain-car", "half-cheetah")
METHOD, SEED, EPISODES = "MEReQ-L", 0, 100


def run(name: str) -> dict[str, object]:
    """Align one example with its recorded settings."""
    task = TASKS[name]()
    aligner = make_aligner(task, METHODS[METHOD], seed=SEED)
    iterations = list(align(task, aligner, seed=SEED))
    policies = {"prior": task.prior, "aligned": aligner.policy, "expert": task.oracle.expert_policy}
    return {
        "task": name,
        "method": METHOD,
        "seed": SEED,
        "rates": [iteration.intervention_rate for iteration in iterations],
        "expert_samples": iterations[-1].expert_samples,
        "feature_names": task.feature_names,
        "true_theta": task.oracle.true_theta.tolist(),
        "theta": aligner.info["theta"].tolist(),
        "standard_errors": aligner.info["standard_errors"].tolist(),
        "task_return": {
            who: task.evaluate(policy, episodes=EPISODES)["task_return"] for who, policy in policies.items()
        },
        **provenance(),
    }


def cells(record: dict) -> list[str]:
    """Return the cells of one record's row in the table."""
    returns = record["task_return"]
    return [
        record["task"],
        ", ".join(f"{rate:.3f}" for rate in record["rates"]),
        ", ".join(f"{value:g}" for value in record["true_theta"]),
        ", ".join(f"{value:.2f}" for value in record["theta"]),
        f"{returns['prior']:.1f}, {returns['aligned']:.1f}",
    ]


def main() -> None:
    """Record, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--record", action="store_true", help="align the examples and write the record")
    if parser.parse_args().record:
        write_file(FILE, "".join(json.dumps(run(name)) + "\n" for name in NAMES).encode())
    for line in FILE.read_text().splitlines():
        print("| " + " | ".join(cells(json.loads(line))) + " |")


if __name__ == "__main__":
    main()
