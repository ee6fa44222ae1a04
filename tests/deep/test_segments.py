"""MEReQ-S on networks: simulators that go back to a state, replays, and sums along simulated paths."""

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray
from toy import make_mdp
from vector import OneHotPolicy, TabularVectorEnv, one_hot

from deep.fanuc.bottle import BottleCells, TopplingBottleCells
from deep.fanuc.envs import FanucVectorEnv
from deep.fanuc.eraser import EraserCells
from deep.fanuc.pillow import PillowCells
from deep.highway.task import make_highway
from deep.learner import LearnerConfig, NeuralLearner
from deep.residual_dqn import DQNConfig
from deep.rollouts import collect_from, join_states, repeat_actions, select_states
from mereq_min.exact import ExactLearner
from mereq_min.inverse import SegmentLikelihoodConfig, SegmentMatchingConfig
from mereq_min.loop import LoopConfig, align
from mereq_min.mdp import Array, TabularMDP
from mereq_min.methods import METHODS, EstimatorConfig, make_aligner
from mereq_min.rollout import rollout
from mereq_min.steps import Steps

# --- Simulators -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [BottleCells, TopplingBottleCells, EraserCells, PillowCells])
def test_a_cell_goes_on_from_a_state_bit_for_bit(kind: type) -> None:
    """In other environments, in another order, and although these were elsewhere before."""
    first, second = (FanucVectorEnv(kind, n, np.ones(len(kind.features))) for n in (2, 3))
    with pytest.raises(ResetNeeded):
        first.get_state()
    with pytest.raises(ResetNeeded):
        second.set_state(np.zeros((3, 1)))
    first.reset(seed=0)
    second.reset(seed=7)
    rng = np.random.default_rng(0)
    actions = rng.uniform(-1, 1, (50, 2, kind.n_actions))
    actions[..., 2] -= 0.3  # down, where contacts are
    for action in actions[:40]:
        first.step(action)
        second.step(action[[0, 1, 0]])
    order = np.array([1, 0, 1])
    seen = first.set_state(first.get_state())
    assert_array_equal(second.set_state(first.get_state()[order]), seen[order])
    for action in actions[40:]:
        here, there = first.step(action), second.step(action[order])
        for one, other in zip(here[:4], there[:4], strict=True):
            assert_array_equal(one[order], other)
        assert_array_equal(here[4]["features"][order], there[4]["features"])
    assert_array_equal(first.get_state()[order], second.get_state())
    with pytest.raises(ValueError, match="state"):
        second.set_state(first.get_state())


def test_a_replay_comes_to_the_states_of_a_rollout() -> None:
    """Through the ends of episodes; from the states on, the same actions lead to the same observations."""
    task = make_highway()
    steps = rollout(task, task.prior, None, 60, np.random.default_rng(3))
    assert steps.episode[-1] >= 1
    assert steps.seed is not None
    rows = np.array([0, 5, 20, 45, 58])
    envs = task.make_vector_env(1)
    states, seen = repeat_actions(envs, int(steps.seed[0]), steps.action, rows)
    assert_array_equal(seen, steps.state[:59])
    for i, row in enumerate(rows):
        again = collect_from(
            envs,
            select_states(states, np.array([i])),
            Scripted(steps.action[row:]),
            1,
            np.random.default_rng(),
            0,
        )
        assert_array_equal(again.features[0, 0], steps.features[row])
    halves = [select_states(states, each) for each in (np.arange(2), np.arange(2, 5))]
    for part, whole in zip(join_states(halves), states, strict=True):
        assert_array_equal(part, whole)


class Scripted:
    """Takes given actions."""

    def __init__(self, actions: NDArray[Any]) -> None:
        self.actions = iter(actions)

    def sample(self, state: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
        """The next action."""
        return np.array([next(self.actions)])


# --- The learner ------------------------------------------------------------------------------------------


class CopyingTable(TabularVectorEnv):
    """The table, which can go back to a state."""

    def get_state(self) -> NDArray[np.int64]:
        """State index and time of each copy."""
        return np.column_stack([self._state, self._t])

    def set_state(self, state: NDArray[np.int64]) -> NDArray[np.float32]:
        """Go on from there."""
        self._state, self._t = state.T.copy()
        return one_hot(self.mdp, self._state)


class Known:
    """An agent that knows the exact policy and its score."""

    def __init__(self, learner: ExactLearner) -> None:
        self.learner = learner
        learner.solve(np.zeros(learner.mdp.n_features))

    def add(self, **transitions: Any) -> None:
        """Learn nothing."""

    def update(self, theta: Array, n_updates: int) -> dict[str, float]:
        """Solve."""
        self.learner.solve(theta)
        return {}

    def policy(self) -> OneHotPolicy:
        """The exact policy."""
        return OneHotPolicy(self.learner.policy.log_policy)

    def score(self, state: NDArray[Any], action: NDArray[Any]) -> Array:
        """The exact score."""
        return self.learner._centred_psi()[state.argmax(axis=1), action] / self.learner.temperature


def make_known(mdp: TabularMDP, envs: type[TabularVectorEnv] = CopyingTable) -> NeuralLearner:
    learner = NeuralLearner(
        Known(ExactLearner(mdp, 0.5, horizon=20)),  # type: ignore[arg-type]
        lambda n: envs(mdp, n, 20),
        horizon=20,
        config=LearnerConfig(num_envs=2, updates=1, first_rounds=1),
    )
    learner.solve(np.array([1.0, -0.5]))
    return learner


def make_rollout(mdp: TabularMDP, n: int, seed: int) -> Steps:
    """A rollout of random actions."""
    envs, actions = CopyingTable(mdp, 1, 20), np.random.default_rng(seed).integers(mdp.n_actions, size=n)
    state, _ = envs.reset(seed=seed)
    states = []
    for action in actions:
        states.append(state[0])
        state = envs.step(action[None])[0]
    return Steps(
        state=np.array(states), action=actions, policy_action=actions, features=np.zeros((n, 2)),
        is_intervention=np.ones(n, dtype=bool), episode=np.arange(n) // 20, t=np.arange(n) % 20,
        terminated=np.zeros(n, dtype=bool), truncated=np.zeros(n, dtype=bool),
        policy_version=np.zeros(n, dtype=np.int64), seed=np.full(n, seed),
    )  # fmt: skip


def test_simulated_sums_are_the_exact_ones_but_for_their_noise() -> None:
    """The means of 30 repeats, within 4.5 standard errors."""
    mdp = make_mdp(1)
    learner = make_known(mdp)
    steps = make_rollout(mdp, 50, seed=4)
    exact = learner.agent.learner  # type: ignore[attr-defined]
    rows, counts, varied = np.array([41, 3, 27, 3]), np.array([5, 3, 1, 0]), np.array([3, 3, 0, 0])
    states = replace(steps, state=steps.state.argmax(axis=1))
    expected = exact.feature_sums(states, rows, counts, varied, 2)
    found = []
    for number in range(30):
        learner._rollouts = number + 1
        found.append(learner.feature_sums(steps, rows, counts, varied, 60))
    for name in ("mean", "jacobian", "covariance"):
        values = np.array([getattr(each, name) for each in found])
        error = values.std(axis=0, ddof=1) / np.sqrt(len(values))
        assert_allclose((values.mean(axis=0) - getattr(expected, name)) / (error + 1e-9), 0, atol=4.5)
    spread = np.array([each.mean for each in found]).var(axis=0, ddof=1)
    told = np.mean([each.covariance for each in found], axis=0).diagonal(axis1=1, axis2=2) / 60
    assert_allclose(spread[:3], told[:3], rtol=0.8)
    assert_array_equal(found[0].mean[3], 0)


def test_the_paths_depend_on_the_solves_so_far_alone() -> None:
    mdp = make_mdp(1)
    steps, rows = make_rollout(mdp, 50, seed=4), np.array([10, 30])
    first, second = make_known(mdp), make_known(mdp)
    before = first.feature_sums(steps, rows, rows // 10, rows // 10, 3)
    first.feature_sums(steps, rows[:1], rows[:1], rows[:1], 9)
    for each in (first, second):
        again = each.feature_sums(steps, rows, rows // 10, rows // 10, 3)
        assert_array_equal(again.jacobian, before.jacobian)


def test_steps_that_cannot_be_replayed_are_refused() -> None:
    mdp, one = make_mdp(1), np.array([30])
    learner, steps = make_known(mdp), make_rollout(mdp, 50, seed=4)
    assert steps.seed is not None
    for broken in (replace(steps, seed=None), replace(steps, seed=steps.seed + 1)):
        with pytest.raises(ValueError, match=r"do not lead the simulator through these steps.*by MEReQ-R"):
            learner.feature_sums(broken, one, one // 10, one // 10, 2)


def test_a_learner_says_whether_its_simulator_can_go_back() -> None:
    assert make_known(make_mdp(1)).can_restart
    assert not make_known(make_mdp(1), TabularVectorEnv).can_restart


# --- The method -------------------------------------------------------------------------------------------


class Braker:
    """An expert who takes a step in three."""

    patience = 1

    def reset(self, rng: np.random.Generator) -> None:
        """Begin to count."""
        self.t = 0

    def intervene(self, state: NDArray[Any], action: NDArray[Any]) -> NDArray[Any] | None:
        """Slow down in every third step."""
        self.t += 1
        return np.int64(4) if self.t % 3 == 0 else None


def test_a_restored_method_goes_on_bit_for_bit() -> None:
    config = EstimatorConfig(
        likelihood=SegmentLikelihoodConfig(max_iterations=2),
        segments=SegmentMatchingConfig(longest=3, n_paths=2),
    )

    def make() -> Any:
        dqn = DQNConfig(hidden=(8,), batch_size=8, engine="torch")
        small = LearnerConfig(num_envs=2, updates=2, first_rounds=1)
        task = replace(make_highway(), learner=small, dqn=dqn)
        return task, make_aligner(task, METHODS["MEReQ-S"], config)

    run = partial(align, seed=0, expert=Braker())
    task, first = make()
    done = list(run(task, first, LoopConfig(iterations=2, steps_per_iteration=30)))
    _, second = make()
    steps = next(run(task, second, LoopConfig(1, 30))).steps
    _, third = make()
    third.restore(second.arrays(), steps, 1)
    (again,) = run(task, third, LoopConfig(2, 30), done=[steps])
    assert np.abs(done[-1].info["theta"]).max() > 0
    for name in ("theta", "standard_errors"):
        assert_array_equal(again.info[name], done[-1].info[name])
    assert_array_equal(
        again.policy.log_prob(steps.state, steps.action), done[-1].policy.log_prob(steps.state, steps.action)
    )
