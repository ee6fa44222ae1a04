"""The examples in `deep.examples`: ordinary gymnasium environments that can be aligned."""

from dataclasses import replace

import numpy as np
import pytest

from deep import TASKS
from mereq_min import METHODS, align, make_aligner

NAMES = ("lunar-lander", "mountain-car", "half-cheetah")


@pytest.mark.parametrize("name", NAMES)
def test_an_example_comes_with_a_trained_prior_and_expert(name):
    task = TASKS[name]()
    assert task.oracle.expert is not None, "run python -m deep.examples.train_experts"
    expert = task.oracle.expert_policy
    steps = task.roll_out(task.prior, 4)
    lived = steps.in_first_episode
    features = steps.features[lived]
    assert features.min() >= 0 and features.max() <= 1
    assert np.isfinite(expert.log_prob(steps.state[lived], steps.action[lived])).all()
    # Both are saved as arrays, and come back as they were.
    again = task.load_policy(expert.arrays())
    np.testing.assert_allclose(
        again.log_prob(steps.state[lived], steps.action[lived]),
        expert.log_prob(steps.state[lived], steps.action[lived]),
        rtol=1e-5,
        atol=1e-5,
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES[1:])
def test_an_example_can_be_aligned(name):
    """The lander is aligned by README's snippet."""
    task = TASKS[name]()
    aligner = make_aligner(task, METHODS["MEReQ-L"], seed=0)
    loop = replace(task.recorded_settings.loop, iterations=2)
    rates = [iteration.intervention_rate for iteration in align(task, aligner, loop, seed=0)]
    assert rates[-1] < 0.05
    theta = aligner.info["theta"]
    assert np.argmax(np.abs(theta)) == np.argmax(np.abs(task.oracle.true_theta))
    own, aligned = (task.evaluate(policy)["task_return"] for policy in (task.prior, aligner.policy))
    assert aligned > own - 0.05 * abs(own)
