"""The three manipulation tasks: each has a prior that does the job and an expert who minds how it is done.

Rewards are w . f, with the weights and temperatures of the paper divided by `SCALE`. The unit of a reward is
arbitrary, and critics learn values near 10 faster than values near 50.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deep.cloning import CloningConfig
from deep.fanuc.bottle import BottleCells
from deep.fanuc.cells import HORIZON, Cells
from deep.fanuc.envs import FanucEnv, FanucVectorEnv
from deep.fanuc.eraser import EraserCells
from deep.fanuc.pillow import PillowCells
from deep.fanuc.scene import cell_scene
from deep.gaussian import squashed_gaussian_policy
from deep.gym_task import OF_NETWORKS, GymTask
from deep.learner import LearnerConfig
from deep.oracle import SimulatorOracle, gram_of_values
from deep.residual_sac import SACConfig
from deep.rollouts import Rollout
from mereq_min.inverse import FeatureMatchingConfig
from mereq_min.lab.runs.files import load_arrays
from mereq_min.loop import LoopConfig, Settings
from mereq_min.validation import Array

HERE = Path(__file__).parent
"""Folder of the trained policies."""

SCALE = 5.0
"""Divisor of the paper's weights."""
TEMPERATURE = 0.02
"""alpha of the priors and alpha_hat of the aligned policies [reward]."""

PRIOR_WEIGHTS = {
    "bottle": np.array([-2.5, -5.0, -0.5, 0.0]) / SCALE,
    "eraser": np.array([-2.5, -5.0, -2.0, 0.0]) / SCALE,
    "pillow": np.array([-2.5, -5.0, -1.0, 0.0]) / SCALE,
}
"""(K,) weights w of each prior's reward w . f, which is the environment's own."""

RESIDUAL_WEIGHTS = {
    "bottle": np.array([0.0, 0.0, 0.0, -5.0]) / SCALE,
    "eraser": np.array([0.0, 0.0, 0.0, -5.0]) / SCALE,
    "pillow": np.array([0.0, 0.0, 0.0, -3.0]) / SCALE,
}
"""theta* (K,), the residual reward of each expert."""

CELLS: dict[str, type[Cells]] = {"bottle": BottleCells, "eraser": EraserCells, "pillow": PillowCells}
"""Kind of cell of each task; it defines features, success and the expert's rule."""

LEARNER = LearnerConfig(num_envs=16, updates=400, first_rounds=40)
"""Budget of a solve: 400 updates cost less than a rollout; with fewer, the critics lag behind theta."""

RECORDED = Settings(
    # 1000 steps are 10 episodes; in as few as 5, the expert may happen never to stop the prior. With 15
    # gradient steps of half a second each, a run takes a few minutes.
    LoopConfig(steps_per_iteration=1000),
    replace(OF_NETWORKS.estimators, matching=FeatureMatchingConfig(max_steps=15)),
)
"""Settings of the tasks' recorded runs."""


def make_bottle() -> GymTask:
    """Return the task of pushing a bottle to its goal; the expert wants it pushed low down."""
    return make_cell_task("bottle", limit=0.33, release=20, patience=8)


def make_eraser() -> GymTask:
    """Return the task of wiping ink off a board; the expert wants the pad pressed firmly."""
    return make_cell_task("eraser", limit=0.6, release=10)


def make_pillow() -> GymTask:
    """Return the task of lifting a pillow; the expert wants it held by its middle."""
    return make_cell_task("pillow", limit=0.1, release=40, patience=8)


def make_cell_task(name: str, *, limit: float, release: int, patience: int = 4) -> GymTask:
    """Return a task in a robot cell with the trained prior and expert of this package.

    Args:
        name: `bottle`, `eraser` or `pillow`.
        limit: threshold of the expert's rule, see `violates` of the kind of cell.
        release: consecutive steps without a violation before the expert hands back [steps].
        patience: consecutive violations before a takeover [steps].
    """
    cells, weights, theta = CELLS[name], PRIOR_WEIGHTS[name], RESIDUAL_WEIGHTS[name]
    prior, expert = (
        squashed_gaussian_policy(load_arrays(HERE / f"{name}-{who}.safetensors"))
        for who in ("prior", "expert")
    )
    prior.temperature = expert.temperature = TEMPERATURE  # the files do not state it

    def violates(state: NDArray[np.floating], action: NDArray[np.floating]) -> bool:
        return cells.violates(state, limit)

    return GymTask(
        name=name,
        env=partial(FanucEnv, cells, weights),
        features=None,
        feature_names=cells.features,
        prior=prior,
        gamma=0.98,
        temperature=TEMPERATURE,
        horizon=HORIZON,
        vector_env=partial(FanucVectorEnv, cells, weights=weights),
        input_scale=None,
        learner=LEARNER,
        sac=SACConfig(batch_size=128),
        cloning=CloningConfig(pull=5.0),
        measure=partial(measure_success, cells=cells),
        oracle=SimulatorOracle(
            theta,
            rule=violates,
            patience=patience,
            release=release,
            expert=expert,
            full_weights=weights + theta,
            make_gram=partial(advantage_gram, kind=cells),
        ),
        recorded_settings=RECORDED,
        scene=cell_scene(cells),
    )


def measure_success(steps: Rollout, *, cells: type[Cells]) -> dict[str, float]:
    """Measure whole episodes (T, E).

    Returns:
        `success`: share of episodes at whose end the task is done.
    """
    return {"success": float(cells.succeeded(steps.next_state[-1]).mean())}


def advantage_gram(task: GymTask, *, kind: type[Cells]) -> Array:
    """Estimate the mean (K, K) of A_k A_l, where A_k is the advantage of feature k along random actions.

    Advantages are simulated from states that the prior and the expert visit: some random actions are tried,
    and the same further random actions follow each of them. Cells are deterministic, so that potential-based
    shaping cancels along every single path, and products within one path make the matrix positive
    semidefinite.

    Args:
        task: gives prior, expert and discount factor.
        kind: kind of the cells.
    """
    rng = np.random.default_rng(0)
    cells = _visited_cells(task, kind, 40)
    first = rng.uniform(-1, 1, (len(cells.data), 4, cells.n_actions))
    values = _discounted_features(cells, first, task.gamma, rng)
    return gram_of_values(values, values)


def _visited_cells(task: GymTask, kind: type[Cells], count: int) -> Cells:
    """Return cells in the middle of an episode: half of them controlled by the prior, half by the expert."""
    assert task.oracle is not None
    cells, rng = kind(count), np.random.default_rng(0)
    policies = task.prior, task.oracle.expert_policy
    for n in range(count):
        cells.reset(n, rng)
    for _ in range(HORIZON // 2):
        halves = zip(policies, np.array_split(cells.observe(), 2), strict=True)
        cells.step(np.concatenate([policy.sample(state, rng) for policy, state in halves]))
    return cells


def _discounted_features(cells: Cells, first: Array, gamma: float, rng: np.random.Generator) -> Array:
    """Return discounted sums (N, A, K) of the features of first actions and the random actions after them.

    All copies of one cell take the same random actions, so that their noise cancels in differences.

    Args:
        cells: N cells to start from.
        first: (N, A, D) first actions.
        gamma: discount factor.
        rng: draws the later actions.
    """
    N, A, D = first.shape
    copies = type(cells)(N * A)
    for n in range(N * A):
        copies.copy(n, cells, n // A)
    action, total = first.reshape(N * A, D), np.zeros((N * A, len(cells.features)))
    for t in range(HORIZON):
        total += gamma**t * copies.step(action)
        action = np.repeat(rng.uniform(-1, 1, (N, D)), A, axis=0)
    return total.reshape(N, A, -1)
