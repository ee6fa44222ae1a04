"""The compiled updates against those in torch: from the same draws the same numbers."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium import spaces

from deep.engines import choose_engine, import_compiled
from deep.gaussian import SquashedGaussianPolicy
from deep.nets import ACTIVATIONS, mlp
from deep.residual_dqn import DQNConfig, ResidualDQN
from deep.residual_sac import ResidualSAC, SACConfig

pytest.importorskip("jax", reason="the compiled learners need JAX")

N_INPUTS, A, D, K, OMEGA = 5, 3, 2, 2, 0.3
BOX = spaces.Box(np.array([-2.0, 0.0]), np.array([2.0, 3.0]), dtype=np.float64)
THETA = np.array([0.4, -0.7])


class Fixed:
    """A policy over discrete actions that never takes the last one in half of the states."""

    def log_probs(self, state):
        with np.errstate(divide="ignore"):
            return np.log(np.where(state[:, :1] > 0, [[0.5, 0.3, 0.2]], [[0.4, 0.6, 0.0]]))


def make_sac(engine, space=BOX, *, prior=True, hidden=(16, 16), activation=torch.nn.ReLU, **config):
    net = mlp([N_INPUTS, *hidden, 2 * D], 7, np.linspace(0.5, 2, N_INPUTS), activation)
    own = Fixed() if isinstance(space, spaces.Discrete) else SquashedGaussianPolicy(net, BOX.low, BOX.high)
    return ResidualSAC(
        N_INPUTS, space, K, gamma=0.9, temperature=0.3, prior=own if prior else None,
        scaled_prior_weight=OMEGA, input_scale=np.linspace(1, 2, N_INPUTS),
        config=SACConfig(hidden=hidden, batch_size=32, replay_capacity=300, engine=engine, **config),
    )  # fmt: skip


def make_dqn(engine, *, prior=True, hidden=(16, 16), temperature=0.3):
    return ResidualDQN(
        N_INPUTS, A, K, gamma=0.9, temperature=temperature, prior=Fixed() if prior else None,
        scaled_prior_weight=OMEGA, input_scale=np.linspace(1, 2, N_INPUTS),
        config=DQNConfig(hidden=hidden, batch_size=32, replay_capacity=300, engine=engine),
    )  # fmt: skip


def fill(agent, seed=0, n=200):
    """Random transitions, of which a fifth terminates and the others might have met a time limit."""
    rng = np.random.default_rng(seed)
    in_box = hasattr(agent, "actor") and hasattr(agent.actor, "low")
    agent.add(
        rng.normal(size=(n, N_INPUTS)),
        rng.uniform(BOX.low, BOX.high, (n, D)) if in_box else rng.integers(A, size=n),
        rng.normal(size=(n, K)),
        rng.normal(size=(n, N_INPUTS)),
        rng.random(n) < 0.2,
    )


def assert_same_state(actual, desired, atol=0.0):
    assert set(actual) == set(desired)
    for name, value in desired.items():
        assert actual[name].dtype == value.dtype, name
        np.testing.assert_allclose(actual[name], value, rtol=0, atol=atol, err_msg=name)


DISCRETE = spaces.Discrete(A)
CASES = {
    "a Box": make_sac,
    "a Box without a prior": lambda engine: make_sac(engine, prior=False),
    "a Box with a tuned temperature": lambda engine: make_sac(engine, target_entropy=-1.0),
    "a Box with another activation": lambda engine: make_sac(engine, activation=torch.nn.SiLU),
    "discrete actions": lambda engine: make_sac(engine, DISCRETE),
    "discrete actions without a prior": lambda engine: make_sac(engine, DISCRETE, prior=False),
    "residual soft DQN": make_dqn,
    "soft DQN": lambda engine: make_dqn(engine, prior=False),
    "DQN": lambda engine: make_dqn(engine, prior=False, temperature=0.0),
    "one hidden layer": lambda engine: make_dqn(engine, hidden=(16,)),
}


@pytest.mark.parametrize("make", CASES.values(), ids=CASES)
def test_twenty_updates_are_those_of_torch(make):
    """From a state that torch reached: at the very start some gradients are 0 but for rounding, and Adam
    makes whole steps of them.
    """
    reference, compiled = make("torch"), make("jax")
    assert (reference.engine, compiled.engine) == ("torch", "jax")
    fill(reference)
    reference.update(THETA, 50)
    compiled.restore(reference.arrays())
    expected, metrics = reference.update(THETA, 20), compiled.update(THETA, 20)
    assert_same_state(compiled.arrays(), reference.arrays(), atol=1e-5)
    assert metrics == pytest.approx(expected, rel=1e-4, abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("units", [64, 128, 256])
@pytest.mark.parametrize("make", [make_sac, make_dqn])
def test_they_are_those_of_torch_in_large_networks(make, units):
    """Up to single units that rounding puts on different sides of the kink of their ReLU."""
    reference, compiled = (make(engine, hidden=(units, units)) for engine in ("torch", "jax"))
    fill(reference)
    reference.update(THETA, 50)
    compiled.restore(reference.arrays())
    for agent in (reference, compiled):
        agent.update(THETA, 20)
    actual, desired = compiled.arrays(), reference.arrays()
    assert_same_state(actual, desired, atol=1e-3)
    near = [np.isclose(actual[name], value, rtol=0, atol=1e-5).ravel() for name, value in desired.items()]
    assert np.mean(~np.concatenate(near)) < 1e-3


@pytest.mark.parametrize("make", [make_sac, make_dqn])
def test_the_first_updates_create_what_torch_creates(make):
    """The state of a new optimiser, and a checkpoint from which torch goes on."""
    reference, compiled = make("torch"), make("jax")
    for agent in (reference, compiled):
        fill(agent)
        agent.update(THETA, 20)
    assert_same_state(compiled.arrays(), reference.arrays(), atol=0.1)
    reference.restore(compiled.arrays())
    assert_same_state(reference.arrays(), compiled.arrays())
    for agent in (reference, compiled):
        agent.update(THETA, 20)
    assert_same_state(compiled.arrays(), reference.arrays(), atol=1e-3)


@pytest.mark.parametrize("make", [make_sac, make_dqn])
def test_a_resumed_agent_goes_on_bit_for_bit_and_nothing_is_compiled_again(make):
    agent, again = make("jax"), make("jax")
    updates = {make_sac: import_compiled().sac_updates, make_dqn: import_compiled().dqn_updates}[make]
    fill(agent)
    agent.update(THETA, 20)
    compiled = updates._cache_size()
    again.restore(agent.arrays())
    for seed in (1, 2):
        for each in (agent, again):
            fill(each, seed)  # fuller than before, and then full
            each.optimiser.param_groups[0]["lr"] = 1e-3 / seed
            each.update(seed * THETA, 20)
    assert_same_state(again.arrays(), agent.arrays())
    assert updates._cache_size() == compiled


def test_the_learning_rate_is_that_of_the_optimiser():
    agent = make_sac("jax")
    fill(agent)
    agent.update(THETA, 20)
    before = agent.actor.net[1].weight.detach().clone()
    agent.optimiser.param_groups[0]["lr"] = 0.0
    agent.update(THETA, 20)
    torch.testing.assert_close(agent.actor.net[1].weight, before, rtol=0, atol=0)


def test_activations_are_those_of_torch():
    x = np.linspace(-4, 4, 81, dtype=np.float32)
    for of_torch, compiled in zip(ACTIVATIONS, import_compiled().ACTIVATIONS, strict=True):
        np.testing.assert_allclose(compiled(x), of_torch()(torch.as_tensor(x)), atol=1e-6)


def test_only_networks_that_can_be_compiled_are():
    unusual = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(N_INPUTS, 2 * D), torch.nn.Dropout(0.0))
    assert choose_engine("jax", [mlp([2, 2], 0)]) == "jax"
    assert choose_engine("torch", [unusual]) == "torch"
    with pytest.raises(ValueError, match=r"built like `deep.nets.mlp`, got Sequential"):
        choose_engine("jax", [mlp([2, 2], 0), unusual])
    with pytest.raises(ValueError, match="engine must be 'torch', 'jax' or None, got 'numba'"):
        SACConfig(engine="numba")
    prior = SquashedGaussianPolicy(unusual, BOX.low, BOX.high)
    assert ResidualSAC(N_INPUTS, BOX, K, gamma=0.9, temperature=0.3, prior=prior).engine == "torch"
    assert make_sac(None).engine == "jax"


def test_the_environment_chooses_where_the_config_leaves_it_open(monkeypatch):
    monkeypatch.delenv("MEREQ_ENGINE", raising=False)
    assert make_dqn(None).engine == "jax"
    monkeypatch.setenv("MEREQ_ENGINE", "torch")
    assert make_dqn(None).engine == "torch"
    assert make_dqn("jax").engine == "jax"
    monkeypatch.setenv("MEREQ_ENGINE", "tensorflow")
    with pytest.raises(ValueError, match="MEREQ_ENGINE must be 'torch' or 'jax', got 'tensorflow'"):
        make_sac(None)


def test_without_jax_the_message_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr("deep.engines.find_spec", lambda name: None)
    assert make_dqn(None).engine == "torch"
    with pytest.raises(ImportError, match=r"pip install -e '\.\[fast\]'"):
        make_dqn("jax")


ONE_UPDATE = """
import sys
from pathlib import Path
import numpy as np
import deep.gym_task, deep.pretrain
from deep.residual_dqn import ResidualDQN

agent = ResidualDQN(2, 2, 1, gamma=0.9, temperature=1.0)
ones = np.ones((8, 2))
agent.add(ones, np.ones(8, int), ones[:, :1], ones, np.ones(8, bool))
print("jax" in sys.modules)
agent.update(np.ones(1), 1)
import jax
print(jax.config.jax_compilation_cache_dir)
print([name.read_text().strip() for name in Path("/proc/self/task").glob("*/comm")].count("tf_XLAEigen"))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="threads are counted in /proc")
def test_the_first_update_imports_jax_which_computes_on_one_thread_and_keeps_what_it_compiles(tmp_path):
    run = partial(
        subprocess.run, [sys.executable, "-c", ONE_UPDATE], check=True, capture_output=True, text=True
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("JAX", "XLA"))}
    done = run(env={**environment, "XDG_CACHE_HOME": str(tmp_path), "MEREQ_ENGINE": "jax"})
    imported, folder, threads = done.stdout.splitlines()
    assert imported == "False"
    assert folder.startswith(str(tmp_path / "mereq-min"))
    assert any(Path(folder).iterdir())
    assert int(threads) <= 1
    assert done.stderr == ""
