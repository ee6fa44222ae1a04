"""Train priors with Stable-Baselines3, as a user would: with its own algorithms, into its own files.

    python3 -m venv .venv-sb3
    .venv-sb3/bin/pip install -c constraints.txt torch==2.13.0
    .venv-sb3/bin/pip install -c constraints.txt stable-baselines3==2.9.0 -e '.[deep]'
    .venv-sb3/bin/python -m deep.examples.train_priors lunar-lander [FOLDER]

writes `lunar-lander-prior.zip` into the folder, by default this one. `highway` makes a DQN for the road,
which is aligned by `figures/foreign_prior.py`, or by `mereq align highway --prior` with its file. Each takes
up to a quarter of an hour on one core. The prior of half-cheetah comes from this package itself:

    mereq pretrain HalfCheetah-v5 --algo sac --temperature 0.1 --steps 300000 --num-envs 16 \\
        --steps-per-update 4 --anneal --steps-per-checkpoint 30000 --sac.batch-size 128 \\
        --sac.learning-rate 1e-3 --sac.target-rate 0.01
"""

import sys
from collections.abc import Callable
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecNormalize

from deep.highway.task import INPUT_SCALE

SEED = 0
SMALL = {"net_arch": [64, 64]}
"""Seed of every training, and the networks of small priors."""


def lunar_lander() -> PPO:
    """PPO for LunarLander-v3 whose stochastic policy lands; its settings are near those of the RL Zoo.

    Its rewards are normalised while it learns, its observations never: the file tells the whole policy.
    """
    model = PPO(
        "MlpPolicy",
        VecNormalize(make_vec_env("LunarLander-v3", n_envs=16, seed=SEED), norm_obs=False, gamma=0.999),
        learning_rate=LinearSchedule(1e-3, 0.0, 1.0),
        n_steps=512,
        batch_size=256,
        n_epochs=8,
        gamma=0.999,
        gae_lambda=0.98,
        ent_coef=0.01,
        policy_kwargs=SMALL,
        seed=SEED,
        device="cpu",
        verbose=1,
    )
    return model.learn(800_000)


def highway_dqn() -> DQN:
    """DQN that drives on mereq/Highway-v0, trained in units in which observations and a crash are of order 1.

    The file is in the environment's own units: the first and the last layer take over the scales. Without
    them the same training crashes in every fifth episode. The loss of this DQN is linear in large errors,
    such as the -60 of a crash, and so approaches the median of what may happen rather than its mean.
    """
    scale, unit = INPUT_SCALE.astype(np.float32), 60.0

    def rescale(env: gym.Env) -> gym.Env:
        env = gym.wrappers.TransformReward(env, lambda reward: reward / unit)
        return gym.wrappers.TransformObservation(
            env, lambda x: x * scale.reshape(5, 5), env.observation_space
        )

    model = DQN(
        "MlpPolicy",
        # By default Stable-Baselines3 asks for pictures, and would get highway-env itself, which is 1,000x
        # slower.
        make_vec_env(
            "mereq/Highway-v0", 8, seed=SEED, wrapper_class=rescale, env_kwargs={"render_mode": None}
        ),
        learning_rate=LinearSchedule(2e-3, 0.0, 1.0),
        buffer_size=100_000,
        learning_starts=5_000,
        batch_size=128,
        gamma=0.8,
        train_freq=1,
        gradient_steps=2,
        target_update_interval=400,
        exploration_fraction=0.2,
        exploration_final_eps=0.05,
        policy_kwargs={"net_arch": [128, 128]},
        seed=SEED,
        device="cpu",
        verbose=1,
    )
    model.learn(200_000)
    with torch.no_grad():
        for net in (model.q_net, model.q_net_target):
            net.q_net[0].weight *= torch.as_tensor(scale)
            net.q_net[-1].weight *= unit
            net.q_net[-1].bias *= unit
    return model


PRIORS: dict[str, Callable[[], BaseAlgorithm]] = {
    "lunar-lander": lunar_lander,
    "highway": highway_dqn,
}
"""Trainings by the name of their task."""


def save(model: BaseAlgorithm, path: Path) -> None:
    """Save what is needed to act; not the optimisers' moments, the clock, or the last episodes."""
    for module in model.policy.modules():
        optimiser = getattr(module, "optimizer", None)
        if optimiser is not None:
            optimiser.state.clear()
    model.save(path, exclude=["start_time", "ep_info_buffer", "ep_success_buffer"])


def main() -> None:
    """Train and save the prior of the given name."""
    name, *folder = sys.argv[1:]
    torch.set_num_threads(1)
    save(PRIORS[name](), Path(*folder or [Path(__file__).parent]) / f"{name}-prior.zip")


if __name__ == "__main__":
    main()
