"""Policies read from Stable-Baselines3's files give its own numbers; hostile files are refused unexecuted.

`tests/data/make_stable_baselines.py` made the files and recorded what Stable-Baselines3 2.9.0 computes.
"""

import collections
import io
import json
import os
import pickle
import re
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from scipy.special import log_softmax
from scipy.stats import norm
from zips import write_members

from deep.stable_baselines import load_for_task, load_zip
from deep.torch_zip import read_tensors
from mereq_min.lab.conformance.policy import check_policy

DATA = Path(__file__).parents[1] / "data"
RECORDED = json.loads((DATA / "stable_baselines3.json").read_text())


def recorded(name):
    return {key: np.array(value) for key, value in RECORDED[name].items()}


@pytest.mark.parametrize("name", ["dqn_cartpole", "dqn_cliff"])
def test_a_dqn_is_the_softmax_of_its_recorded_q_values(name):
    expected = recorded(name)
    for temperature in (0.3, 2.0):
        policy = load_zip(DATA / f"{name}.zip", temperature=temperature)
        np.testing.assert_allclose(
            policy.log_probs(expected["observations"]),
            log_softmax(expected["q_values"] / temperature, axis=1),
            atol=1e-5,
        )


@pytest.mark.parametrize("name", ["ppo_cartpole", "ppo_elu_cartpole", "ppo_pendulum"])
def test_ppo_gives_the_recorded_log_probabilities(name):
    expected = recorded(name)
    log_prob = load_zip(DATA / f"{name}.zip").log_prob(expected["observations"], expected["actions"])
    np.testing.assert_allclose(log_prob, expected["log_prob"], rtol=1e-5, atol=1e-5)


def test_sac_gives_the_recorded_log_density_in_units_of_the_action_space():
    expected = recorded("sac_pendulum")  # torques from -2 to 2, recorded as fractions
    log_prob = load_zip(DATA / "sac_pendulum.zip").log_prob(expected["observations"], 2 * expected["actions"])
    # Stable-Baselines3 adds 1e-6 to 1 - tanh^2, which shows in the fifth digit at most here.
    np.testing.assert_allclose(log_prob, expected["log_prob"] - np.log(2), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "space", "temperature"),
    [
        ("dqn_cartpole", Discrete(2), 0.5),
        ("dqn_cliff", Discrete(4), 0.5),
        ("ppo_cartpole", Discrete(2), None),
        ("ppo_pendulum", Box(-np.inf, np.inf, (1,)), None),
        ("sac_pendulum", Box(-2, 2, (1,)), None),
        ("sac_gsde_expln", Box(np.float32([-2, 0]), np.float32([2, 0.5])), None),
    ],
)
def test_what_is_loaded_keeps_the_contract_of_a_policy(name, space, temperature):
    policy = load_zip(DATA / f"{name}.zip", temperature=temperature)
    # Near 0, where an untrained network is far from the bounds.
    states = recorded(name)["observations"]
    states = states if states.ndim == 1 else 0.2 * states.astype(np.float32)
    assert check_policy(policy, states, space, np.random.default_rng(0)) == []


# The bounds of `Still`, the environment of the gSDE models, whose unit actions are recorded.
CENTRE, HALF_WIDTH = np.array([0.0, 0.25]), np.array([2.0, 0.25])
GSDE = ["sac_gsde", "sac_gsde_expln"]


@pytest.mark.parametrize("name", GSDE)
def test_gsde_gives_the_recorded_log_density_marginal_over_the_exploration_matrix(name):
    expected = recorded(name)
    actions = CENTRE + HALF_WIDTH * expected["actions"]
    log_prob = load_zip(DATA / f"{name}.zip").log_prob(expected["observations"], actions)
    volume = np.log(HALF_WIDTH).sum()
    np.testing.assert_allclose(log_prob, expected["log_prob"] - volume, rtol=1e-5, atol=3e-5)


@pytest.mark.parametrize("name", GSDE)
def test_gsde_has_the_distribution_of_actions_each_sampled_with_its_own_exploration_matrix(name):
    expected, policy = recorded(name), load_zip(DATA / f"{name}.zip")
    levels = np.array([0.05, 0.25, 0.5, 0.75, 0.95])[:, None]
    for observation, quantiles in zip(expected["observations"], expected["quantiles"], strict=True):
        actions = CENTRE + HALF_WIDTH * quantiles
        z = policy.standardise(np.tile(observation, (len(levels), 1)), actions)
        drawn = policy.sample(np.tile(observation, (20_000, 1)), np.random.default_rng(0))
        share = (drawn[:, None] <= actions).mean(axis=0)
        usable = np.abs(quantiles) < 0.9999  # where float32 resolves tanh
        assert usable.sum() >= 5
        sigma = np.sqrt(levels * (1 - levels))
        assert (np.abs(norm.cdf(z) - levels) < 5 * sigma / np.sqrt(100_000))[usable].all()
        assert (np.abs(share - levels) < 5 * sigma * np.sqrt(1 / 100_000 + 1 / 20_000))[usable].all()


@pytest.mark.parametrize(
    ("clip_mean", "bound"), [({"clip_mean": 1.4}, 1.4), ({"clip_mean": 0.5}, 0.5), ({}, 2.0)]
)
def test_gsde_clips_the_mean_where_the_file_says_so(tmp_path, clip_mean, bound):
    states = torch.tensor(3 * recorded("sac_gsde")["observations"], dtype=torch.float32)
    net = load_zip(changed_zip(tmp_path, "sac_gsde", policy_kwargs={"net_arch": [3], **clip_mean})).net
    mean, unclipped = net(states).detach()[:, :2], net.net(states).detach()
    assert (unclipped.abs() > bound).any()
    assert torch.equal(mean, unclipped.clip(-bound, bound))


def log_entropy_coefficient(value):
    return save_tensors({"log_ent_coef": torch.tensor([value])})


def test_only_sac_knows_the_temperature_of_its_reward(tmp_path):
    assert load_zip(DATA / "sac_gsde_expln.zip").temperature == 0.2  # fixed
    assert load_zip(DATA / "sac_pendulum.zip").temperature == 1.0  # where tuning begins
    assert load_zip(DATA / "ppo_cartpole.zip").temperature is None
    assert not hasattr(load_zip(DATA / "ppo_pendulum.zip"), "temperature")
    assert load_zip(DATA / "dqn_cartpole.zip", temperature=0.3).temperature == 0.3

    tuned = changed_zip(tmp_path, "sac_pendulum")
    untuned = tuned.read_bytes()
    tuned.write_bytes(altered(untuned, "pytorch_variables.pth", log_entropy_coefficient(-2.0)))
    assert load_zip(tuned).temperature == pytest.approx(np.exp(-2.0))
    members = read_members(untuned)
    del members["pytorch_variables.pth"]
    tuned.write_bytes(write_members(members))
    assert load_zip(tuned).temperature is None
    assert load_zip(changed_zip(tmp_path, "sac_pendulum", ent_coef=0.0)).temperature is None


def test_a_hostile_entropy_coefficient_is_refused(tmp_path):
    path = changed_zip(tmp_path, "sac_pendulum")
    hostile = save_tensors({"log_ent_coef": Hostile(Path.touch, tmp_path / "executed")})
    path.write_bytes(altered(path.read_bytes(), "pytorch_variables.pth", hostile))
    with pytest.raises(ValueError, match=r"its pickle asks for __builtin__.getattr"):
        load_zip(path)
    path = changed_zip(tmp_path, "sac_pendulum", ent_coef=-1.0)
    with pytest.raises(ValueError, match="temperature must be a finite number above 0, got -1"):
        load_zip(path)


def test_a_task_follows_a_dqn_at_its_own_temperature_and_leaves_others_alone():
    task = SimpleNamespace(temperature=0.7)
    states = recorded("dqn_cartpole")["observations"]
    np.testing.assert_array_equal(
        load_for_task(DATA / "dqn_cartpole.zip", task).log_probs(states),
        load_zip(DATA / "dqn_cartpole.zip", temperature=0.7).log_probs(states),
    )
    assert load_for_task(DATA / "sac_gsde_expln.zip", task).temperature == 0.2
    assert load_for_task(DATA / "ppo_cartpole.zip", task).temperature is None


def test_a_squashed_density_is_zero_out_of_bounds():
    policy = load_zip(DATA / "sac_pendulum.zip")
    log_prob = policy.log_prob(np.zeros((3, 3)), np.array([[2.01], [-2.01], [0.0]]))
    assert (log_prob == -np.inf).tolist() == [True, True, False]


def save_tensors(tensors):
    stream = io.BytesIO()
    torch.save(tensors, stream)
    return stream.getvalue()


def read_members(data):
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def altered(data, name, content):
    return write_members({**read_members(data), name: content})


def test_tensors_come_back_exactly_and_views_of_one_storage_too():
    shared = torch.arange(12, dtype=torch.float64)
    tensors = {
        "single": torch.randn(3, 4, generator=torch.Generator().manual_seed(0)),
        "half": torch.tensor([1.5, -2.0], dtype=torch.float16),
        "scalar": torch.tensor(3.0),
        "view": shared[4:10].reshape(2, 3),
        "whole": shared,
    }
    read = read_tensors(save_tensors(collections.OrderedDict(tensors)))
    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert read[name].dtype == tensor.numpy().dtype
        np.testing.assert_array_equal(read[name], tensor.numpy())


def test_numbers_written_on_a_big_endian_machine_are_read_as_such():
    members = read_members(save_tensors({"a": torch.tensor([1.0, 2.5])}))
    members["archive/byteorder"] = b"big"
    members["archive/data/0"] = np.array([1.0, 2.5], dtype=">f4").tobytes()
    np.testing.assert_array_equal(read_tensors(write_members(members))["a"], [1.0, 2.5])


class Hostile:
    """Unpickles by calling a function."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def test_a_hostile_pickle_is_refused_by_name_and_not_run(tmp_path):
    marker = tmp_path / "executed"
    hostile = {"q_net.q_net.0.weight": Hostile(Path.touch, marker)}
    with pytest.raises(ValueError, match=r"its pickle asks for __builtin__.getattr"):
        read_tensors(save_tensors(hostile))
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        pickled = pickle.dumps(Hostile(os.system, f"touch {marker}"), protocol=protocol)
        with pytest.raises(ValueError, match=r"asks for posix.system|has the opcode"):
            read_tensors(altered(save_tensors({}), "archive/data.pkl", pickled))
    assert not marker.exists()
    pickle.loads(pickled)
    assert marker.exists()  # it would have


# Hand-written pickles of protocol 2; a storage of 4 floats is named data/0.
TORCH_GLOBAL = b"ctorch._utils\n_rebuild_tensor_v2\n"
STORAGE = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x04tQ"


def tensor_pickle(storage=STORAGE, offset=b"K\x00", shape=b"K\x04\x85", strides=b"K\x01\x85"):
    """Pickle of {"a": one tensor}."""
    rest = b"\x89ccollections\nOrderedDict\n)RtR"
    call = TORCH_GLOBAL + b"(" + storage + offset + shape + strides + rest
    return b"\x80\x02}X\x01\x00\x00\x00a" + call + b"s."


def with_pickle(pickled):
    return write_members({"a/data.pkl": pickled, "a/data/0": np.arange(4, dtype="<f4").tobytes()})


def test_the_hand_written_pickle_is_read_as_torch_reads_it():
    data = altered(with_pickle(tensor_pickle()), "a/version", b"3\n")
    np.testing.assert_array_equal(read_tensors(data)["a"], [0, 1, 2, 3])
    np.testing.assert_array_equal(torch.load(io.BytesIO(data), weights_only=True)["a"], [0, 1, 2, 3])


@pytest.mark.parametrize(
    ("pickled", "message"),
    [
        (tensor_pickle(shape=b"K\x05\x85"), r"tensor \(5,\) from 0 does not fit into 4 numbers"),
        (tensor_pickle(offset=b"K\x01"), r"tensor \(4,\) from 1 does not fit"),
        (tensor_pickle(offset=b"J\xff\xff\xff\xff"), "must have positive sizes, got .* from -1"),
        (tensor_pickle(shape=b"J\xff\xff\xff\xff\x85"), "must have positive sizes"),
        (tensor_pickle(shape=b"J\xff\xff\xff\x7f\x85", strides=b"K\x00\x85"), "does not fit"),
        (tensor_pickle(strides=b"K\x00\x85"), "must be stored row by row"),
        (tensor_pickle(shape=b"X\x01\x00\x00\x00a\x85"), "must have positive sizes"),
        (
            tensor_pickle(STORAGE.replace(b"K\x04", b"K\x05"), shape=b"K\x05\x85"),
            "must have 20 bytes, it has 16",
        ),
        (
            tensor_pickle(STORAGE.replace(b"K\x04", b"K\x03"), shape=b"K\x03\x85"),
            "at most 12 bytes, it has 16",
        ),
        (tensor_pickle(STORAGE.replace(b"0X", b"1X")), "it holds no 'a/data/1'"),
        (tensor_pickle(STORAGE.replace(b"storage", b"weights")), "refers to .* not a storage"),
        (tensor_pickle(STORAGE.replace(b"FloatStorage", b"LongStorage")), "asks for torch.LongStorage"),
        (
            tensor_pickle(STORAGE.replace(b"K\x04", b"J\xff\xff\xff\x7f")),
            "must have at most .* bytes in total",
        ),
        (b"\x80\x02ccollections\nOrderedDict\nK\x01\x85R.", "calls .*OrderedDict.* with"),
        (b"\x80\x02cbuiltins\neval\nX\x01\x00\x00\x001\x85R.", "asks for builtins.eval"),
        (b"\x80\x02" + TORCH_GLOBAL + b")R.", "calls .*_rebuild_tensor_v2.* with"),
        (b"\x80\x02K\x01.", "named tensors and nothing else"),
        (b"\x80\x02}X\x01\x00\x00\x00aK\x01s.", "named tensors and nothing else"),
        (b"\x80\x02}K\x01K\x01s.", "sets items of something other"),
        (b"\x80\x02K\x01K\x01K\x01s.", "sets items of something other"),
        (b"\x80\x02t.", "is damaged"),
        (b"\x80\x02R.", "is damaged"),
        (b"\x80\x02h\x07.", "is damaged"),
        (b"\x80\x02}(X\x01\x00\x00\x00au.", "zip|argument"),
        (b"\x80\x02}", "exhausted"),
        (b"not a pickle", "opcode"),
        (b"", "exhausted"),
        (b"\x80\x02" + b"\x80\x02" * 2**19 + b".", "must have at most 1048576 bytes"),
    ],
)
def test_a_pickle_that_does_not_describe_tensors_is_refused(pickled, message):
    with pytest.raises(ValueError, match=message):
        read_tensors(with_pickle(pickled))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a zip"),
        (b"\x80\x02}.", "not a zip"),
        (write_members({}), "one data.pkl, found 0"),
        (write_members({"a/data.pkl": b"", "b/data.pkl": b""}), "one data.pkl, found 2"),
        (
            write_members({"a/data.pkl": b"\x80\x02}.", "a/byteorder": b"middle"}),
            "byteorder must be little or big",
        ),
        (
            write_members({"a/data.pkl": b"0" * 10**6}, zipfile.ZIP_DEFLATED),
            "must be stored neither compressed",
        ),
        (with_pickle(tensor_pickle()).replace(b"\x00\x00\x80\x3f", b"\x00\x00\x80\x40"), "is damaged"),
    ],
)
def test_a_file_that_holds_no_tensors_is_refused(data, message):
    with pytest.raises(ValueError, match=message):
        read_tensors(data)


def test_damage_anywhere_gives_a_clear_error_or_none():
    data = (DATA / "ppo_pendulum.zip").read_bytes()
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        weights = archive.read("policy.pth")
    pickled = read_members(weights)["archive/data.pkl"]
    rng, refused = np.random.default_rng(0), 0
    for _ in range(500):
        damaged = bytearray(pickled)
        damaged[rng.integers(len(damaged))] = rng.integers(256)
        torn = bytearray(weights)
        torn[rng.integers(len(torn))] = rng.integers(256)
        for content in (altered(weights, "archive/data.pkl", bytes(damaged)), bytes(torn)):
            try:
                read_tensors(content)
            except ValueError:
                refused += 1
    assert refused > 500


def changed_zip(tmp_path, name, *, tensors=None, **settings):
    """A copy of a recorded file with other tensors (None: without that one) or other settings."""
    members = read_members((DATA / f"{name}.zip").read_bytes())
    if tensors is not None:
        arrays = {key: value.copy() for key, value in read_tensors(members["policy.pth"]).items()} | tensors
        kept = {key: torch.tensor(value) for key, value in arrays.items() if value is not None}
        members["policy.pth"] = save_tensors(kept)
    members["data"] = json.dumps({**json.loads(members["data"]), **settings}).encode()
    path = tmp_path / "changed.zip"
    path.write_bytes(write_members(members))
    return path


IMAGE = {":type:": "<class 'gymnasium.spaces.box.Box'>", "dtype": "uint8", "_shape": [84, 84, 3]}
PENDULUM = {":type:": "<class 'gymnasium.spaces.box.Box'>", "dtype": "float32", "_shape": [1]}
OWN = {"__module__": "my.policies"}


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("ppo_cartpole", {"use_sde": True}, "gSDE"),
        (
            "ppo_cartpole",
            {"policy_class": OWN},
            "only policy classes of Stable-Baselines3 can be read, this one is from 'my.policies'",
        ),
        (
            "ppo_cartpole",
            {"policy_kwargs": {"features_extractor_class": "X"}},
            "features_extractor_class are unknown",
        ),
        (
            "ppo_cartpole",
            {"policy_kwargs": {"activation_fn": "<class 'my.Sine'>"}},
            "activation_fn must be one of",
        ),
        ("ppo_cartpole", {"observation_space": IMAGE}, "images and dicts cannot be read"),
        ("ppo_cartpole", {"observation_space": None}, "must be a Box of floats or Discrete"),
        ("ppo_cartpole", {"observation_space": PENDULUM}, "expects 4 inputs where 1 come in"),
        (
            "ppo_cartpole",
            {"action_space": {":type:": "D.Discrete'>", "n": 3}},
            "asks for 3 outputs, .* has 2",
        ),
        ("ppo_cartpole", {"action_space": {":type:": "D.Discrete'>", "n": 2, "start": 1}}, "Discrete from 0"),
        (
            "ppo_cartpole",
            {"action_space": {":type:": "M.MultiDiscrete'>"}},
            "must be Discrete from 0, got Multi",
        ),
        ("sac_pendulum", {"action_space": PENDULUM}, "low and high of the action space cannot be read"),
        (
            "sac_pendulum",
            {"action_space": {**PENDULUM, "low": "[-inf]", "high": "[1]"}},
            "low must be finite",
        ),
        ("ppo_cartpole", {"tensors": {"action_net.bias": None}}, "layer action_net.bias is missing"),
        ("ppo_cartpole", {"tensors": {"action_net.bias": np.zeros(3)}}, "do not make a linear layer"),
        (
            "ppo_cartpole",
            {"tensors": {"action_net.bias": np.full(2, np.nan)}},
            "not finite in action_net.bias",
        ),
        ("ppo_pendulum", {"tensors": {"log_std": np.zeros((8, 1))}}, "log_std must have shape"),
        (
            "ppo_cartpole",
            {"tensors": {"features_extractor.cnn.0.weight": np.ones(2)}},
            "policies over images are not read",
        ),
        ("sac_pendulum", {"tensors": {"actor.log_std.weight": None}}, "actor.log_std.weight is missing"),
        (
            "sac_gsde",
            {"tensors": {"actor.log_std": np.zeros((2, 3))}},
            r"actor.log_std must have shape \(3, 2\)",
        ),
        ("sac_gsde", {"policy_kwargs": {"clip_mean": -1}}, "clip_mean must be a finite number above 0"),
    ],
)
def test_what_would_have_to_be_guessed_is_refused(tmp_path, name, changes, message):
    path = changed_zip(tmp_path, name, **changes)
    with pytest.raises(ValueError, match=f"cannot load {re.escape(str(path))} .*{message}"):
        load_zip(path)


def test_an_unchanged_copy_of_a_file_is_read(tmp_path):
    load_zip(changed_zip(tmp_path, "ppo_cartpole", tensors={}))


def test_a_policy_of_another_algorithm_is_refused_by_its_layers(tmp_path):
    path = changed_zip(tmp_path, "ppo_cartpole")
    td3 = {"actor.mu.0.weight": torch.ones(1, 4), "actor.mu.0.bias": torch.ones(1)}
    path.write_bytes(altered(path.read_bytes(), "policy.pth", save_tensors(td3)))
    with pytest.raises(ValueError, match=r"not those of DQN, SAC, PPO or A2C: actor.mu.0.bias"):
        load_zip(path)


def test_the_temperature_belongs_to_a_dqn_alone():
    with pytest.raises(ValueError, match="a DQN is greedy; pass a temperature"):
        load_zip(DATA / "dqn_cartpole.zip")
    with pytest.raises(ValueError, match="temperature must be a finite number above 0"):
        load_zip(DATA / "dqn_cartpole.zip", temperature=0.0)
    with pytest.raises(ValueError, match="temperature is for a DQN"):
        load_zip(DATA / "ppo_cartpole.zip", temperature=1.0)


@pytest.mark.parametrize(
    "content", [b"", b"PK", write_members({"data": b"{}"}), write_members({"data": b"{"})]
)
def test_what_is_no_such_file_is_refused(tmp_path, content):
    path = tmp_path / "policy.zip"
    with pytest.raises(ValueError, match="No such file"):
        load_zip(path)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"cannot load .*policy.zip as a policy of Stable-Baselines3"):
        load_zip(path)
