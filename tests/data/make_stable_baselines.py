"""Make the Stable-Baselines3 files that tests/deep/test_stable_baselines.py reads, and the expected numbers.

    python3 -m venv .venv-sb3
    .venv-sb3/bin/pip install torch==2.13.0 stable-baselines3==2.9.0
    .venv-sb3/bin/python tests/data/make_stable_baselines.py

The models are small and untrained; they are saved beside this script. `stable_baselines3.json` holds what
Stable-Baselines3 itself computes for some observations: Q-values, or log-probabilities of some actions, which
for SAC are in its own units, from -1 to 1. With gSDE it also holds quantiles of actions that it sampled, each
with a new exploration matrix.
"""

import json
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3 import DQN, PPO, SAC

HERE = Path(__file__).parent
SMALL = {"net_arch": [8]}
REPLAY = {"buffer_size": 1}
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
DRAWS = 100_000


class Still(gym.Env):
    """Shows 3 numbers and takes 2 with different bounds; nothing ever happens."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (3,))
    action_space = gym.spaces.Box(np.float32([-2.0, 0.0]), np.float32([2.0, 0.5]))


CASES = {
    "dqn_cartpole": (DQN, "CartPole-v1", SMALL, REPLAY),
    "dqn_cliff": (DQN, "CliffWalking-v1", {"net_arch": [3]}, REPLAY),
    "ppo_cartpole": (PPO, "CartPole-v1", SMALL, {}),
    "ppo_elu_cartpole": (PPO, "CartPole-v1", {"net_arch": [6, 4], "activation_fn": torch.nn.ELU}, {}),
    "ppo_pendulum": (PPO, "Pendulum-v1", {**SMALL, "log_std_init": -0.5}, {}),
    "sac_pendulum": (SAC, "Pendulum-v1", SMALL, REPLAY),
    "sac_gsde": (SAC, Still(), {"net_arch": [3], "clip_mean": 1.4}, {**REPLAY, "use_sde": True}),
    "sac_gsde_expln": (
        SAC,
        Still(),
        {**SMALL, "use_expln": True, "clip_mean": 0.0},
        {**REPLAY, "use_sde": True, "ent_coef": 0.2},
    ),
}
N = 6


def randomise(policy: torch.nn.Module, rng: np.random.Generator) -> None:
    """Give all weights the order of 1; with the small initial ones not every layer shows in the outputs."""
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if name != "log_std":
                parameter.copy_(torch.as_tensor(rng.normal(scale=0.7, size=parameter.shape)))


def describe(model: DQN | PPO | SAC, rng: np.random.Generator) -> dict[str, object]:
    """Return observations, actions and what the model says about them."""
    if isinstance(model, DQN) and not model.observation_space.shape:
        observations = rng.integers(int(model.observation_space.n), size=N)
    else:
        # Smaller with gSDE, whose noise grows with the observation, so that few actions saturate.
        scale = 0.3 if getattr(model, "use_sde", False) else 1.0
        observations = rng.normal(scale=scale, size=(N, *model.observation_space.shape)).astype(np.float32)
    described = {"observations": observations.tolist()}
    tensor, _ = model.policy.obs_to_tensor(observations)
    if isinstance(model, DQN):
        return described | {"q_values": model.q_net(tensor).tolist()}
    if isinstance(model, SAC):
        if model.use_sde:
            described["quantiles"] = sample_quantiles(model, tensor)
        actions = rng.uniform(-0.9, 0.9, size=(N, *model.action_space.shape)).astype(np.float32)
        mean, log_std, latent = model.actor.get_action_dist_params(tensor)
        distribution = model.actor.action_dist.proba_distribution(mean, log_std, **latent)
    else:
        discrete = not model.action_space.shape
        actions = rng.integers(2, size=N) if discrete else rng.normal(size=(N, 1)).astype(np.float32)
        distribution = model.policy.get_distribution(tensor)
    log_prob = distribution.log_prob(torch.as_tensor(actions))
    return described | {"actions": actions.tolist(), "log_prob": log_prob.tolist()}


def sample_quantiles(model: SAC, observations: torch.Tensor) -> list[object]:
    """Return quantiles (N, 5, D) of actions, in SAC's units, of which each has its own exploration matrix."""
    quantiles = []
    for observation in observations:
        model.actor.reset_noise(DRAWS)
        actions = model.actor(observation.repeat(DRAWS, 1)).numpy()
        quantiles.append(np.quantile(actions, QUANTILES, axis=0).tolist())
    return quantiles


def main() -> None:
    """Write the files."""
    torch.set_num_threads(1)
    expected = {}
    for seed, (name, (algorithm, env, policy_kwargs, kwargs)) in enumerate(CASES.items()):
        rng = np.random.default_rng(seed)
        model = algorithm(
            "MlpPolicy", env, policy_kwargs=dict(policy_kwargs), seed=seed, device="cpu", **kwargs
        )
        randomise(model.policy, rng)
        model.save(HERE / f"{name}.zip")
        with torch.no_grad():
            expected[name] = describe(model, rng)
    (HERE / "stable_baselines3.json").write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    main()
