"""A task made of any gymnasium environment: `interfaces.Task` with neural learners.

    task = GymTask("lander", "LunarLander-v3", features, ("engine", "tilt"), prior, 0.99, temperature=0.1)

An environment, named features and a prior are all it needs. The learner, cloning, vector environments,
observation scaling and evaluation come with it, each with defaults that can be replaced.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from numpy.typing import NDArray
from torch import nn

from deep.baselines import (
    LABEL_WEIGHTS,
    AgentCloner,
    InterventionCloner,
    PreferenceCloner,
    ResidualNeuralCloner,
    label_proxy_values,
    label_takeovers,
)
from deep.cloning import CloningConfig, Inside, NeuralCloner, clone_policy, squash
from deep.engines import Engine, choose_engine
from deep.first_solve import FirstSolves, SharingLearner
from deep.gaussian import SquashedGaussianPolicy, squashed_gaussian_policy
from deep.learner import Agent, LearnerConfig, NeuralLearner, TemperedNeuralLearner
from deep.nets import is_mlp, mlp, with_prefix, zero_last_layer
from deep.policies import DiscretePolicy, discrete_policy
from deep.prediction import STEP_ENVS, STEPS_EACH, DynamicsModel
from deep.residual_dqn import DQNConfig, ResidualDQN
from deep.residual_sac import ResidualSAC, SACConfig
from deep.rollouts import Rollout, collect
from deep.stable_baselines import load_for_task
from mereq_min.interfaces import Cloner, Oracle, Policy, RewardModel, Start
from mereq_min.inverse import RobustConfig
from mereq_min.lab.human.scenes import Scene
from mereq_min.lab.runs.files import load_arrays
from mereq_min.loop import Settings
from mereq_min.methods import Baseline, EstimatorConfig
from mereq_min.policies import UniformPolicy, check_fit
from mereq_min.residual import scaled_prior_weight
from mereq_min.validation import Array, check_array, check_number

Features = Callable[[NDArray[Any], Any, NDArray[Any], dict[str, Any]], Any]
"""(observation, action, next observation, info) -> the step's features (K,); info holds its `reward` too."""
MakeEnv = Callable[..., gym.Env[Any, Any]]
"""render_mode -> a new environment."""

SCALE_EPISODES, SCALE_STEPS = 8, 200
"""Size of the prior's rollout from which observations are scaled: environments, and steps of each."""

OF_NETWORKS = Settings(estimators=EstimatorConfig(robust=RobustConfig(temperature_sd=0.0)))
"""Settings that suit networks. An inferred temperature of the expert takes up the errors of the networks,
which look like noise of the expert; theta then comes out too large."""

MAX_PRIORS = 10
"""Largest number of priors in a file of a policy, each of which customises the next."""


def measure_length(steps: Rollout) -> dict[str, float]:
    """The mean `length` of an episode [steps]."""
    return {"length": float(steps.in_first_episode.sum(axis=0).mean())}


class BoundOracle(Oracle, Protocol):
    """An oracle that follows its task, and compares policies with its expert; see `SimulatorOracle`."""

    def bind(self, task: GymTask) -> BoundOracle:
        """Return this oracle for a task whose prior may be another one."""
        ...

    def measure(self, policy: Policy, steps: Rollout) -> dict[str, Any]:
        """Compare a policy with the expert, given whole episodes of it."""
        ...


@dataclass(frozen=True, eq=False)
class GymTask:
    """Any gymnasium environment with vector observations as a task; nothing about a reward is asked for.

    Attributes:
        name: name of the task.
        env: gymnasium id, or a function of the render mode that returns a new environment. Observations must
            be a Box of floats; they are flattened. Actions must be Discrete from 0 or a bounded Box of one
            axis.
        features: (observation, action, next observation, info) -> (K,), each about in [0, 1]; info also holds
            the environment's own `reward` of the step. None if the environment puts `features` into its info.
        feature_names: names (K,) of the features.
        prior: the policy to align: any object with `log_prob` and `sample`; a file, either .safetensors as
            written here or a .zip of Stable-Baselines3; or a torch module that maps observations to Q-values,
            followed at `temperature`. None is the uniformly random policy. Over a Box, a prior other than a
            squashed Gaussian with a plain network is cloned into one, see `clone_kl`.
        gamma: discount factor.
        temperature: alpha_hat [reward].
        horizon: time limit of an episode [steps]; default: that of the gymnasium id.
        prior_weight: omega, the weight of the prior's reward in the expert's reward.
        vector_env: num_envs -> a vector environment that reports `features` and resets in the step that ends
            an episode (AutoresetMode.SAME_STEP). Default: gymnasium's SyncVectorEnv of `env`. MEReQ-S needs
            one that can copy its state (`rollouts.CopyingEnvs`); with others it works like MEReQ-R.
        reference_env: like `env`, the simulator on which results are reported. Default: `env`.
        input_scale: (n,) factors of the flattened observation's entries; "prior" takes the reciprocal root
            mean square of what the prior's rollouts show; None leaves observations alone.
        learner: budget of a solve.
        dqn: settings of residual soft DQN, the learner over discrete actions.
        sac: settings of residual soft actor-critic, the learner over a Box.
        cloning: settings of behaviour cloning.
        episodes: episodes of an evaluation.
        reference_episodes: episodes of an evaluation on `reference_env`.
        measure: (rollout) -> the task's own metrics, such as `success`; it must mask by `in_first_episode`.
        oracle: the truth behind the simulated expert, None if nobody knows it. It is bound to this task: on
            another prior or temperature, another expert is trained when it is first needed.
        recorded_settings: those of the task's recorded runs; default: those that suit networks.
        scene: how the task is shown to a person, see `scenes`; None for the pictures of `env`.
        observation_space: space of one environment's observations.
        action_space: space of its actions.
        clone_kl: KL(prior || its clone) that remains if the prior had to be cloned, else None [nats].

    Raises:
        ValueError: naming the argument, what it got and what would be right.
    """

    name: str
    env: str | MakeEnv
    features: Features | None
    feature_names: tuple[str, ...]
    prior: Any
    gamma: float
    temperature: float
    horizon: int = 0
    prior_weight: float = 1.0
    vector_env: Callable[[int], VectorEnv[Any, Any, Any]] | None = None
    reference_env: MakeEnv | None = None
    input_scale: Any = "prior"
    learner: LearnerConfig = field(default_factory=lambda: LearnerConfig(num_envs=16))
    dqn: DQNConfig = field(default_factory=lambda: DQNConfig(replay_capacity=100_000))
    sac: SACConfig = field(default_factory=lambda: SACConfig(batch_size=128))
    cloning: CloningConfig = field(default_factory=CloningConfig)
    episodes: int = 100
    reference_episodes: int = 20
    measure: Callable[[Rollout], dict[str, float]] = measure_length
    oracle: BoundOracle | None = None
    recorded_settings: Settings | None = OF_NETWORKS
    scene: Scene | None = None
    observation_space: spaces.Box = field(init=False, repr=False)
    action_space: spaces.Discrete | spaces.Box = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._check_numbers()
        env = self._make(self.env, None)
        self._set("horizon", self.horizon or _find_time_limit(env))
        check_number("horizon", self.horizon, 1, integer=True)
        self._set("observation_space", _check_observations(env.observation_space))
        self._set("action_space", _check_actions(env.action_space))
        env.close()
        if self.input_scale is not None and not isinstance(self.input_scale, str):
            shape = (self.n_inputs,)
            self._set("input_scale", check_array("input_scale", self.input_scale, shape=shape))
        self._set("prior", self._resolve_prior())
        if self.oracle is not None:
            self._set("oracle", self.oracle.bind(self))

    @property
    def n_inputs(self) -> int:
        """Numbers in an observation."""
        return int(np.prod(self.observation_space.shape))

    @property
    def engine(self) -> Engine:
        """Engine that computes the updates of the task's learner, see `engines.choose_engine`."""
        if isinstance(self.action_space, spaces.Discrete):
            return choose_engine(self.dqn.engine)
        nets = (self.prior.net,) if isinstance(self.prior, SquashedGaussianPolicy) else ()
        return choose_engine(self.sac.engine, nets)

    @property
    def clone_kl(self) -> float | None:
        """KL(given prior || `prior`) where it had to be cloned into a squashed Gaussian [nats]; else None."""
        return getattr(self.prior, "clone_kl", None)

    @property
    def scaled_prior_weight(self) -> float:
        """omega' of the prior in use [reward]."""
        return scaled_prior_weight(self.prior, self.prior_weight, self.temperature)

    def make_env(self, render_mode: str | None = None, *, reference: bool = False) -> gym.Env[Any, Any]:
        """Return a new environment with the time limit applied and `features` in the info of each step."""
        maker = self.reference_env if reference and self.reference_env is not None else self.env
        env = self._make(maker, render_mode)
        if _time_limit(env) != self.horizon:
            env = gym.wrappers.TimeLimit(env, self.horizon)
        return env if self.features is None else ReportFeatures(env, self.features, len(self.feature_names))

    def make_vector_env(self, num_envs: int) -> VectorEnv[Any, Any, Any]:
        """Return `num_envs` environments that are stepped together; rewards are the environment's own."""
        if self.vector_env is not None:
            return self.vector_env(num_envs)
        return SyncVectorEnv([self.make_env] * num_envs, autoreset_mode=AutoresetMode.SAME_STEP)

    def make_learner(
        self, reward: RewardModel, discount: float, *, start: Start = "prior", seed: int = 0
    ) -> NeuralLearner:
        """Return a learner of the residual reward on the prior, or of the full one, see `interfaces.Task`."""
        agent = self._make_agent(reward, start, seed, len(self.feature_names))
        return SharingLearner(
            agent,
            self.make_vector_env,
            horizon=self.horizon,
            discount=discount,
            config=self.learner,
            seed=seed,
            shared=self._first_solves if reward == "residual" else {},  # only one method needs the full one
            key=(type(agent), start, seed),
        )

    def make_tempered_learner(self, *, seed: int = 0) -> TemperedNeuralLearner:
        """Return a neural learner of (theta, omega' / omega'_0 - 1), see `interfaces.TemperedLearner`."""
        log_det = 0.0
        if isinstance(self.action_space, spaces.Box):
            # The agent's densities over a Box are those of unit actions, rescaled to [-1, 1]^D.
            log_det = float(np.log((self.action_space.high - self.action_space.low) / 2).sum())
        return TemperedNeuralLearner(
            self._make_agent("residual", "prior", seed, len(self.feature_names) + 1),
            self.make_vector_env,
            horizon=self.horizon,
            config=self.learner,
            seed=seed,
            log_prior=lambda state, action: self.prior.log_prob(state, action) + log_det,
            scaled_prior_weight=self.scaled_prior_weight,
        )

    def make_cloner(self, *, seed: int = 0) -> NeuralCloner:
        """Return cloning by maximum likelihood, from the prior's weights."""
        return NeuralCloner(self.prior, self.action_space, self.cloning, seed=seed)

    def make_baseline(self, kind: Baseline, *, seed: int = 0) -> Cloner:
        """Return a method of `deep.baselines` on this task.

        Raises:
            ValueError: if there is none of that kind for networks.
        """
        arguments = self.prior, self.action_space, self.cloning
        if kind == "residual cloning":
            return ResidualNeuralCloner(*arguments, seed=seed)
        if kind == "intervention model":
            return InterventionCloner(*arguments, seed=seed)
        if kind == "predicted preferences":
            return PreferenceCloner(*arguments, predict=self._predict, seed=seed)
        if kind not in LABEL_WEIGHTS:
            raise ValueError(f"there is no {kind} with networks; choose one of the other methods")
        return AgentCloner(
            self.prior,
            lambda: self._make_agent("residual", "prior", seed, 1),
            label_takeovers if kind == "takeover reward" else label_proxy_values,
            LABEL_WEIGHTS[kind] * self.temperature,
        )

    def features_of(
        self,
        state: NDArray[Any],
        action: NDArray[Any],
        next_state: NDArray[Any],
        reward: NDArray[Any] | None = None,
    ) -> Array:
        """Compute the features (N, K) of recorded steps that lack them.

        Args:
            state: (N, ...) observations.
            action: (N, ...) actions.
            next_state: (N, ...) observations after the steps.
            reward: (N,) the environment's own, None if it was not recorded.

        Raises:
            ValueError: if the environment reports the features itself, or they need what was not recorded.
        """
        if self.features is None:
            raise ValueError(f"the features of {self.name} are reported by its environment, not computed")
        infos: list[dict[str, Any]] = [{}] * len(state) if reward is None else [{"reward": r} for r in reward]
        try:
            rows = [self.features(*step) for step in zip(state, action, next_state, infos, strict=True)]
        except KeyError as error:
            raise ValueError(
                f"the features of {self.name} need {error} of each step, which is missing"
            ) from error
        return check_array("features", rows, shape=(len(state), len(self.feature_names)))

    def load_policy(self, arrays: dict[str, NDArray[Any]]) -> Policy:
        """Rebuild a policy from the arrays of its `arrays()`; a prior of its own lies under `prior.`.

        Raises:
            ValueError: if they are not those of a policy for this task.
        """
        if any(name.startswith("prior." * (MAX_PRIORS + 1)) for name in arrays):
            raise ValueError(f"a policy may rest on at most {MAX_PRIORS} priors, one on the other")
        of_prior = with_prefix(arrays, "prior.")
        prior = self.load_policy(of_prior) if of_prior else self.prior
        policy = squashed_gaussian_policy(arrays) if "low" in arrays else discrete_policy(arrays, prior)
        check_fit(policy, self.observation_space, self.action_space, self.name)
        return policy

    def evaluate(
        self, policy: Policy, *, episodes: int | None = None, reference: bool = False
    ) -> dict[str, Any]:
        """Measure a policy over whole episodes, the same ones for every policy; see `interfaces.Task`.

        Returns:
            `task_return`: mean return of an episode under the environment's own reward; what `measure`
            returns; and the measures of the oracle, if there is one, see `SimulatorOracle.measure`.
        """
        steps = self.roll_out(policy, episodes, reference=reference)
        returns = (steps.reward * steps.in_first_episode).sum(axis=0)
        return {
            "task_return": float(returns.mean()),
            **self.measure(steps),
            **({} if self.oracle is None else self.oracle.measure(policy, steps)),
        }

    @property
    def reported_episodes(self) -> int:
        """Episodes that `evaluate` measures by default if it measures on the reference simulator."""
        return self.episodes if self.reference_env is None else self.reference_episodes

    def spot_check(self, policy: Policy, n_steps: int = 10) -> tuple[int, int] | None:
        """Replay the actions of `roll_out`'s first episode, or of its beginning, on the reference simulator.

        Args:
            policy: the policy.
            n_steps: most steps that are replayed.

        Returns:
            Steps that came out the same, with observations and features equal up to 1e-6 and the same end,
            and steps in all; None if there is no reference simulator.
        """
        if self.reference_env is None:
            return None
        steps = self.roll_out(policy, 1)
        lived = np.flatnonzero(steps.in_first_episode[:, 0])[:n_steps]
        env = self.make_env(reference=True)
        env.reset(seed=0)
        same = 0
        for t in lived:
            state, _, terminated, _, info = env.step(steps.action[t, 0])
            same += (
                np.allclose(state, steps.next_state[t, 0], rtol=0, atol=1e-6)
                and np.allclose(info["features"], steps.features[t, 0], rtol=0, atol=1e-6)
                and bool(terminated) == steps.terminated[t, 0]
            )
        env.close()
        return int(same), len(lived)

    def roll_out(self, policy: Policy, episodes: int | None = None, *, reference: bool = False) -> Rollout:
        """Roll a policy out for `horizon` steps in environments seeded 0, 1, ...

        An environment that ends early starts a new episode; `in_first_episode` masks the one whole episode.
        """
        if reference and self.reference_env is not None:
            makers = [lambda: self.make_env(reference=True)] * (episodes or self.reference_episodes)
            envs: VectorEnv[Any, Any, Any] = SyncVectorEnv(makers, autoreset_mode=AutoresetMode.SAME_STEP)
        else:
            envs = self.make_vector_env(episodes or self.episodes)
        return _collect_once(envs, policy, self.horizon)

    @cached_property
    def _first_solves(self) -> FirstSolves:
        """The last first solve of this task's learners."""
        return {}

    @cached_property
    def observation_scale(self) -> Array | None:
        """(n,) factors of the observation's entries, None for none; see `input_scale`."""
        if not isinstance(self.input_scale, str):
            return self.input_scale
        squares = np.mean(self._prior_states.reshape(-1, self.n_inputs).astype(np.float64) ** 2, axis=0)
        # Entries that hardly ever move keep their scale.
        return np.where(squares > 1e-8, 1 / np.sqrt(np.maximum(squares, 1e-8)), 1.0)

    @cached_property
    def _prior_states(self) -> NDArray[Any]:
        """Observations (N, ...) that the prior's rollouts show."""
        envs = self.make_vector_env(SCALE_EPISODES)
        return _collect_once(envs, self.prior, min(self.horizon, SCALE_STEPS)).transitions()["state"]

    def _predict(self, state: NDArray[Any], action: NDArray[Any], n_steps: int) -> NDArray[Any]:
        """Predict states by a `DynamicsModel`, which is fitted on first use."""
        return self._step_model(state, action, n_steps)

    @cached_property
    def _step_model(self) -> DynamicsModel:
        """A model of the next state, fitted to rollouts of the prior and of random actions."""
        n_steps = min(self.horizon, STEPS_EACH)
        parts = [
            _collect_once(self.make_vector_env(STEP_ENVS), policy, n_steps, seed).transitions()
            for seed, policy in enumerate((self.prior, UniformPolicy(self.action_space)))
        ]
        state, action, next_state = (
            np.concatenate([part[name] for part in parts]) for name in ("state", "action", "next_state")
        )
        return DynamicsModel(state, action, next_state, self.action_space, self.observation_scale)

    def _make_agent(self, reward: RewardModel, start: Start, seed: int, n_features: int) -> Agent:
        make = self._make_dqn if isinstance(self.action_space, spaces.Discrete) else self._make_sac
        return make(reward, start, seed, n_features)

    def _make_dqn(self, reward: RewardModel, start: Start, seed: int, n_features: int) -> Agent:
        assert isinstance(self.action_space, spaces.Discrete)
        residual = reward == "residual"
        agent = ResidualDQN(
            self.n_inputs,
            int(self.action_space.n),
            n_features,
            gamma=self.gamma,
            temperature=self.temperature,
            prior=self.prior if residual else None,
            scaled_prior_weight=self.scaled_prior_weight if residual else 0.0,
            input_scale=self.observation_scale,
            config=self.dqn,
            seed=seed,
        )
        if not residual and start == "prior":
            agent.start_from(self._network_prior)
        return agent

    def _make_sac(self, reward: RewardModel, start: Start, seed: int, n_features: int) -> Agent:
        return ResidualSAC(
            self.n_inputs,
            self.action_space,
            n_features,
            gamma=self.gamma,
            temperature=self.temperature,
            # Without a weight the prior is only where the actor starts.
            prior=self.prior if start == "prior" else None,
            scaled_prior_weight=self.scaled_prior_weight if reward == "residual" else 0.0,
            input_scale=self.observation_scale,
            config=self.sac,
            seed=seed,
        )

    @cached_property
    def _network_prior(self) -> Policy:
        """The prior as a single network, from which learning the full reward can start."""
        prior = self.prior
        is_network = isinstance(prior, DiscretePolicy) and prior.prior is None and prior.temperature != 0
        if is_network and is_mlp(prior.net):
            return prior
        return clone_policy(prior, self.action_space, self._prior_states, self.observation_scale)

    def _resolve_prior(self) -> Policy:
        prior = self._load_prior()
        if not hasattr(prior, "log_prob") or not hasattr(prior, "sample"):
            raise ValueError(
                "prior must offer log_prob and sample, or be a file or a torch module, got "
                f"{type(prior).__name__}"
            )
        check_fit(prior, self.observation_space, self.action_space, self.name)
        if getattr(prior, "temperature", None) == 0:
            raise ValueError("prior must not be greedy, it has temperature 0; give it a temperature above 0")
        if isinstance(self.action_space, spaces.Discrete):
            return prior
        if isinstance(prior, SquashedGaussianPolicy) and is_mlp(prior.net):
            return prior
        # The actor's gradient goes through the prior's log-density, so the prior must be one of our networks.
        self._set("prior", Inside(prior, self.action_space))  # keeps its draws inside the Box
        return squash(prior, self.action_space, self._prior_states, self.observation_scale)

    def _load_prior(self) -> Any:
        prior = self.prior
        if prior is None or isinstance(prior, UniformPolicy):
            return self._make_uniform()
        if isinstance(prior, nn.Module):
            if not isinstance(self.action_space, spaces.Discrete):
                raise ValueError(
                    "a torch module alone does not define a density over a Box; wrap it in an object with "
                    "log_prob and sample, such as deep.gaussian.SquashedGaussianPolicy"
                )
            return DiscretePolicy(prior, self.temperature)
        if isinstance(prior, (str, Path)):
            path = Path(prior)
            if path.suffix == ".zip":
                return load_for_task(path, self)
            arrays = load_arrays(path)
            return squashed_gaussian_policy(arrays) if "low" in arrays else discrete_policy(arrays)
        return prior

    def _make_uniform(self) -> Policy:
        """The uniformly random policy; over a Box the squashed Gaussian nearest to it.

        The latent of a uniform action is logistic, with variance pi^2 / 12 and entropy 2 - log 2; a Gaussian
        of that variance is 0.014 nats away on each axis.
        """
        if isinstance(self.action_space, spaces.Discrete):
            return UniformPolicy(self.action_space)
        n_axes = self.action_space.shape[0]
        net = mlp([self.n_inputs, *self.sac.hidden, 2 * n_axes], seed=0)
        zero_last_layer(net)
        with torch.no_grad():
            list(net.parameters())[-1][n_axes:] = math.log(math.pi / math.sqrt(12))
        policy = SquashedGaussianPolicy(net, self.action_space.low, self.action_space.high)
        entropy, cross_entropy = 2 - math.log(2), 0.5 * math.log(math.pi**3 / 6) + 0.5
        policy.clone_kl = n_axes * (cross_entropy - entropy)
        return policy

    def _make(self, maker: str | MakeEnv, render_mode: str | None) -> gym.Env[Any, Any]:
        if isinstance(maker, str):
            # The checker looks at every first step, which evaluation and learning need not pay for.
            try:
                return gym.make(
                    maker,
                    max_episode_steps=self.horizon or None,
                    render_mode=render_mode,
                    disable_env_checker=True,
                )
            except (gym.error.Error, ModuleNotFoundError) as error:
                raise ValueError(f"env must be an installed gymnasium id, got {maker!r}: {error}") from error
        return maker(render_mode)

    def _check_numbers(self) -> None:
        if not self.name or not isinstance(self.name, str):
            raise ValueError(f"name must be a string, got {self.name!r}")
        if not 0 < self.gamma < 1:
            raise ValueError(f"gamma must be above 0 and below 1, got {self.gamma!r}")
        check_number("temperature", self.temperature, 0, exclusive=True)
        check_number("prior_weight", self.prior_weight, 0)
        check_number("horizon", self.horizon, 0, integer=True)
        names = tuple(self.feature_names)
        if not names or len(set(names)) < len(names) or not all(isinstance(name, str) for name in names):
            raise ValueError(f"feature_names must be distinct strings, one for each feature, got {names}")
        self._set("feature_names", names)
        if isinstance(self.input_scale, str) and self.input_scale != "prior":
            raise ValueError(f"input_scale must be an array, 'prior' or None, got {self.input_scale!r}")

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)


class ReportFeatures(gym.Wrapper[Any, Any, Any, Any]):
    """Puts the features of each step into its info.

    Args:
        env: the environment.
        features: see `GymTask.features`.
        n_features: K.
    """

    def __init__(self, env: gym.Env[Any, Any], features: Features, n_features: int) -> None:
        super().__init__(env)
        self.function, self.shape = features, (n_features,)
        self.observation: Any = None

    def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
        """Begin an episode."""
        self.observation, info = self.env.reset(**options)
        return self.observation, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Take a step; info["features"] is (K,).

        Raises:
            ValueError: if the features are not K finite numbers.
        """
        before = self.observation
        self.observation, reward, terminated, truncated, info = self.env.step(action)
        values = self.function(before, action, self.observation, {**info, "reward": reward})
        features = check_array("features", values, shape=self.shape)
        return self.observation, reward, terminated, truncated, {**info, "features": features}


def _check_observations(space: spaces.Space[Any]) -> spaces.Box:
    if isinstance(space, spaces.Box) and space.dtype is not None and space.dtype.kind == "f":
        return space
    hint = {
        spaces.Dict: "wrap it in gymnasium.wrappers.FlattenObservation",
        spaces.Box: "images are not supported; wrap the environment so that it shows a vector of floats",
    }.get(type(space), "wrap the environment so that it shows a vector of floats")
    raise ValueError(f"observations must be a Box of floats, got {space}: {hint}")


def _check_actions(space: spaces.Space[Any]) -> spaces.Discrete | spaces.Box:
    if isinstance(space, spaces.Discrete) and space.start == 0:
        return space
    if isinstance(space, spaces.Box) and len(space.shape) == 1 and space.is_bounded():
        return space
    raise ValueError(f"actions must be Discrete from 0 or a bounded Box of one axis, got {space}")


def _collect_once(envs: VectorEnv[Any, Any, Any], policy: Policy, n_steps: int, seed: int = 0) -> Rollout:
    """Roll a policy out, see `rollouts.collect`, and close the environments."""
    steps = collect(envs, policy, n_steps, np.random.default_rng(seed), seed=seed)
    envs.close()
    return steps


def _time_limit(env: gym.Env[Any, Any]) -> int | None:
    """Time limit of an environment, None if it does not tell one [steps]."""
    layer: Any = env
    while isinstance(layer, gym.Wrapper):
        if isinstance(layer, gym.wrappers.TimeLimit):
            return layer._max_episode_steps
        layer = layer.env
    return getattr(layer, "horizon", None)


def _find_time_limit(env: gym.Env[Any, Any]) -> int:
    limit = _time_limit(env)
    if limit is None:
        raise ValueError("horizon must be given: this environment does not tell its time limit")
    return limit
