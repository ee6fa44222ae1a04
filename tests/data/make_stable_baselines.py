"""Make the Stable-Baselines3 files that tests/deep/test_stable_baselines.py reads, with what they must give.

    python3 -m venv .venv-sb3
    .venv-sb3/bin/pip install torch==2.13.0 stable-baselines3==2.9.0
    .venv-sb3/bin/python tests/data/make_stable_baselines.py

Small untrained models, saved beside this script; `stable_baselines3.json` holds what Stable-Baselines3 itself
computes for some observations: Q-values, or log-probabilities of some actions (in SAC's units, -1 to 1).
"""

import json
from pathlib import Path

import numpy as np
import torch
from stable_baselines3 import DQN, PPO, SAC

HERE = Path(__file__).parent
SMALL = {"net_arch": [8]}
REPLAY = {"buffer_size": 1}
CASES = {
    "dqn_cartpole": (DQN, "CartPole-v1", SMALL, REPLAY),
    "dqn_cliff": (DQN, "CliffWalking-v1", {"net_arch": [3]}, REPLAY),
    "ppo_cartpole": (PPO, "CartPole-v1", SMALL, {}),
    "ppo_elu_cartpole": (PPO, "CartPole-v1", {"net_arch": [6, 4], "activation_fn": torch.nn.ELU}, {}),
    "ppo_pendulum": (PPO, "Pendulum-v1", {**SMALL, "log_std_init": -0.5}, {}),
    "sac_pendulum": (SAC, "Pendulum-v1", SMALL, REPLAY),
}
N = 6


def randomise(policy: torch.nn.Module, rng: np.random.Generator) -> None:
    """Weights of order 1 instead of the small initial ones, so that every layer shows in the outputs."""
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if name != "log_std":
                parameter.copy_(torch.as_tensor(rng.normal(scale=0.7, size=parameter.shape)))


def describe(model: DQN | PPO | SAC, rng: np.random.Generator) -> dict[str, object]:
    """Observations, actions and what the model says about them."""
    if isinstance(model, DQN) and not model.observation_space.shape:
        observations = rng.integers(int(model.observation_space.n), size=N)
    else:
        observations = rng.normal(size=(N, *model.observation_space.shape)).astype(np.float32)
    described = {"observations": observations.tolist()}
    tensor, _ = model.policy.obs_to_tensor(observations)
    if isinstance(model, DQN):
        return described | {"q_values": model.q_net(tensor).tolist()}
    if isinstance(model, SAC):
        actions = rng.uniform(-0.9, 0.9, size=(N, 1)).astype(np.float32)
        mean, log_std, _ = model.actor.get_action_dist_params(tensor)
        distribution = model.actor.action_dist.proba_distribution(mean, log_std)
    else:
        discrete = not model.action_space.shape
        actions = rng.integers(2, size=N) if discrete else rng.normal(size=(N, 1)).astype(np.float32)
        distribution = model.policy.get_distribution(tensor)
    log_prob = distribution.log_prob(torch.as_tensor(actions))
    return described | {"actions": actions.tolist(), "log_prob": log_prob.tolist()}


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
