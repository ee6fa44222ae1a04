"""Gymnasium environments of the robot cells: one cell, or many stepped together; both use `Cells`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import mujoco
import numpy as np
from gymnasium.error import ResetNeeded
from gymnasium.spaces import Box
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import ArrayLike, NDArray

from deep.fanuc.cells import HORIZON, Cells
from deep.rollouts import make_generators
from mereq_min.validation import Array, check_array, check_number


class _Episodes:
    """Spaces, rewards and clocks of N cells, which both environments share."""

    def __init__(self, kind: type[Cells], count: int, weights: ArrayLike) -> None:
        self.cells = kind(count)
        self.weights = check_array("weights", weights, shape=(len(kind.features),))
        self.t = np.full(count, -1)
        self.observation_space = Box(-np.inf, np.inf, (kind.n_observations,), np.float32)
        self.action_space = Box(-1.0, 1.0, (kind.n_actions,), np.float32)

    def reset(self, n: int, generator: np.random.Generator) -> None:
        self.cells.reset(n, generator)
        self.t[n] = 0

    def observe(self) -> NDArray[np.float32]:
        return self.cells.observe().astype(np.float32)

    def get(self) -> Array:
        """Return all that the future depends on, but the random generators: one row for each cell."""
        return np.column_stack([self.cells.get_state(), self.t])

    def set(self, state: ArrayLike) -> NDArray[np.float32]:
        """Continue from such a state, and return its observations (N, n)."""
        width = self.cells.state_size + 1
        rows = check_array("state", state, shape=(len(self.t), width))
        self.cells.set_state(rows[:, :-1])
        self.t[:] = rows[:, -1]
        return self.observe()

    def step(self, action: ArrayLike) -> tuple[Array, Array, NDArray[np.bool_]]:
        """Take a step; return features (N, K), rewards (N,) and whether the time limit is reached (N,)."""
        if (self.t < 0).any():
            raise ResetNeeded("step needs a state: call reset first")
        N, D = len(self.t), self.cells.n_actions
        features = self.cells.step(np.clip(check_array("action", action, shape=(N, D)), -1, 1))
        self.t += 1
        # This is no matrix product, because its rounding would depend on N.
        return features, (features * self.weights).sum(axis=1), self.t >= HORIZON


class FanucVectorEnv(VectorEnv[Any, Any, Any]):
    """N cells stepped together; a cell whose episode ends is reset in the same step.

    Observations are (N, n) float32, actions (N, D) in [-1, 1]; `info["features"]` (N, K), `info["success"]`
    (N,) and `info["final_obs"]` (N, n) are always those of the step just taken, before any reset, and
    `info["_final_obs"]` (N,) says which cells were reset. Seed s gives cell i the seed s + i, and no
    cell's course depends on N.

    Args:
        kind: kind of the cells.
        num_envs: N [cells].
        weights: (K,) weights of the reward weights . f.

    Raises:
        ValueError: if an argument is malformed.
    """

    metadata = {"render_modes": [], "autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012 (gymnasium's own)

    def __init__(self, kind: type[Cells], num_envs: int, weights: ArrayLike) -> None:
        check_number("num_envs", num_envs, 1, integer=True)
        self.num_envs, self._episodes = num_envs, _Episodes(kind, num_envs, weights)
        self.single_observation_space = self._episodes.observation_space
        self.single_action_space = self._episodes.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._generators: list[np.random.Generator] = []

    def reset(
        self, *, seed: int | Sequence[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Draw an initial state for every cell; without a seed, the random generators continue.

        Raises:
            ValueError: if there is a list of seeds whose length is not N.
        """
        if seed is not None or not self._generators:
            self._generators = make_generators(seed, self.num_envs)
        for n, generator in enumerate(self._generators):
            self._episodes.reset(n, generator)
        return self._episodes.observe(), {}

    def step(
        self, actions: ArrayLike
    ) -> tuple[NDArray[np.float32], Array, NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """Take one step in every cell; actions are clipped to [-1, 1].

        Raises:
            ValueError: if the actions are not (N, D) finite numbers.
            ResetNeeded: before the first `reset`.
        """
        features, rewards, over = self._episodes.step(actions)
        final = self._episodes.observe()
        success = self._episodes.cells.succeeded(final)
        for n in np.flatnonzero(over).tolist():
            self._episodes.reset(n, self._generators[n])
        observations = self._episodes.observe() if over.any() else final.copy()
        info = {"features": features, "success": success, "final_obs": final, "_final_obs": over}
        return observations, rewards, np.zeros(self.num_envs, np.bool_), over, info

    def get_state(self) -> Array:
        """Return a copy of the cells' states, one row each, without their random generators.

        Raises:
            ResetNeeded: before the first `reset`.
        """
        if not self._generators:
            raise ResetNeeded("get_state needs a state: call reset first")
        return self._episodes.get()

    def set_state(self, state: ArrayLike) -> NDArray[np.float32]:
        """Continue from a state that `get_state` returned, and return its observations (N, n).

        Raises:
            ValueError: if it is not that of N cells of this kind.
            ResetNeeded: before the first `reset`, which seeds the random generators.
        """
        if not self._generators:
            raise ResetNeeded("set_state needs random generators: call reset first")
        return self._episodes.set(state)


class FanucEnv(gym.Env[Any, Any]):
    """One cell.

    Observations are (n,) float32, actions (D,) in [-1, 1]; `info["features"]` (K,) and `info["success"]` are
    those of the step. An episode is truncated after `cells.HORIZON` steps.

    Args:
        kind: kind of the cell.
        weights: (K,) weights of the reward weights . f.
        render_mode: "rgb_array" or None.

    Raises:
        ValueError: if an argument is malformed.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012 (gymnasium's own)

    def __init__(self, kind: type[Cells], weights: ArrayLike, render_mode: str | None = None) -> None:
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ValueError(f"render_mode must be rgb_array or None, got {render_mode!r}")
        self.render_mode, self._episodes = render_mode, _Episodes(kind, 1, weights)
        self.observation_space = self._episodes.observation_space
        self.action_space = self._episodes.action_space
        self._renderer: mujoco.Renderer | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Draw an initial state; without a seed, the random generator continues."""
        super().reset(seed=seed)
        self._episodes.reset(0, self.np_random)
        return self._episodes.observe()[0], {}

    def step(self, action: ArrayLike) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Take a step; the action is clipped to [-1, 1].

        Raises:
            ValueError: if the action is not (D,) finite numbers.
            ResetNeeded: before the first `reset`.
        """
        features, rewards, over = self._episodes.step(np.asarray(action)[None])
        observations = self._episodes.observe()
        info = {"features": features[0], "success": bool(self._episodes.cells.succeeded(observations)[0])}
        return observations[0], float(rewards[0]), False, bool(over[0]), info

    def render(self) -> NDArray[np.uint8]:
        """Return an RGB image (480, 640, 3) of the cell.

        Raises:
            RuntimeError: if OpenGL is not available.
        """
        cells = self._episodes.cells
        if self._renderer is None:
            self._renderer = make_renderer(cells.model)
        mujoco.mj_camlight(cells.model, cells.data[0])  # a reset does not place the camera
        self._renderer.update_scene(cells.data[0], camera="view")
        cells.draw_marks(self._renderer.scene)
        cells.draw_shadows(self._renderer.scene)
        return self._renderer.render()

    def close(self) -> None:
        """Free the renderer."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None


def make_renderer(model: mujoco.MjModel) -> mujoco.Renderer:
    """Return an offscreen renderer of 640 x 480 pixels.

    On Linux it uses EGL, unless the environment variable MUJOCO_GL names another backend.

    Raises:
        RuntimeError: if OpenGL is not available.
    """
    try:
        return mujoco.Renderer(model, 480, 640)
    except Exception as error:  # each backend raises its own
        raise RuntimeError(
            f"MuJoCo cannot draw with MUJOCO_GL={os.environ.get('MUJOCO_GL', '')} ({error}). Install EGL "
            "(Debian: apt-get install libegl1 libgl1-mesa-dri), or set MUJOCO_GL to osmesa or glfw. "
            "Everything but rendering works without OpenGL"
        ) from error
