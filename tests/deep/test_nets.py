import numpy as np
import pytest
import torch

from deep.nets import (
    ACTIVATIONS,
    evaluate,
    load_optimiser,
    mlp,
    mlp_from_arrays,
    optimiser_to_arrays,
    to_arrays,
    zero_last_layer,
)


def test_a_network_is_the_product_of_its_layers():
    net = mlp([6, 5, 4], seed=0)
    arrays = to_arrays(net)
    x = np.random.default_rng(0).normal(size=(7, 2, 3)).astype(np.float32)
    hidden = np.maximum(x.reshape(7, 6) @ arrays["1.weight"].T + arrays["1.bias"], 0)
    expected = hidden @ arrays["3.weight"].T + arrays["3.bias"]
    np.testing.assert_allclose(net(torch.as_tensor(x)).detach().numpy(), expected, rtol=1e-5, atol=1e-6)


def test_the_seed_alone_decides_the_weights_and_torch_keeps_its_own_state():
    before = torch.random.get_rng_state()
    first, again, other = (to_arrays(mlp([3, 4, 2], seed)) for seed in (1, 1, 2))
    assert torch.equal(before, torch.random.get_rng_state())
    for name in first:
        np.testing.assert_array_equal(first[name], again[name])
        assert not np.array_equal(first[name], other[name])


def test_a_zeroed_last_layer_gives_zeros():
    net = mlp([3, 4, 2], seed=0)
    zero_last_layer(net)
    assert (net(torch.ones(5, 3)) == 0).all()
    assert (net[1].weight != 0).any()


def test_a_rebuilt_network_computes_the_same_bits():
    net = mlp([4, 8, 8, 3], seed=3)
    again = mlp_from_arrays(to_arrays(net, "q."), "q.")
    x = torch.as_tensor(np.random.default_rng(0).normal(size=(5, 4)), dtype=torch.float32)
    assert torch.equal(net(x), again(x))


def test_arrays_do_not_follow_the_network():
    net = mlp([2, 2], seed=0)
    arrays = to_arrays(net)
    before = arrays["1.weight"].copy()
    zero_last_layer(net)
    np.testing.assert_array_equal(arrays["1.weight"], before)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda arrays: arrays.clear(), "no network"),
        (lambda arrays: arrays.pop("3.bias"), "the network does not fit the arrays"),
        (lambda arrays: arrays.update({"3.weight": np.zeros((2, 9))}), "the network does not fit the arrays"),
        (lambda arrays: arrays["1.weight"].fill(np.nan), "not finite"),
        (lambda arrays: arrays.update({"9.weight": np.zeros((2, 2))}), "the network does not fit the arrays"),
    ],
    ids=["none", "missing", "wrong shape", "NaN", "too many"],
)
def test_damaged_arrays_are_refused(damage, message):
    arrays = to_arrays(mlp([3, 4, 2], seed=0))
    damage(arrays)
    with pytest.raises(ValueError, match=message):
        mlp_from_arrays(arrays)


def descend(net, optimiser, n):
    x = torch.linspace(-1, 1, 12).reshape(4, 3)
    for _ in range(n):
        optimiser.zero_grad()
        (net(x) - x[:, :2]).square().mean().backward()
        optimiser.step()


def make_pair():
    net = mlp([3, 4, 2], seed=0)
    return net, torch.optim.Adam(net.parameters(), lr=0.1, fused=True)


def test_a_restored_optimiser_goes_on_bit_for_bit():
    net, optimiser = make_pair()
    descend(net, optimiser, 5)
    again = mlp_from_arrays(to_arrays(net))
    adam = torch.optim.Adam(again.parameters(), lr=0.1, fused=True)
    load_optimiser(adam, optimiser_to_arrays(optimiser, "adam."), "adam.")
    for each in ((net, optimiser), (again, adam)):
        descend(*each, 5)
    for name, value in to_arrays(net).items():
        np.testing.assert_array_equal(value, to_arrays(again)[name])


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("0.exp_avg", np.zeros((2, 2)), "is not a moment"),
        ("17.exp_avg", np.zeros(2), "is not a moment"),
        ("0.exp_avg", np.full((4, 3), np.inf), "not finite"),
        ("0", np.zeros(()), "is not a moment"),
        ("0.exp_avg", np.zeros(()), "is not a moment"),
        ("0.momentum", np.zeros((4, 3)), "is not a moment"),
        ("first.exp_avg", np.zeros((4, 3)), "is not a moment"),
        ("0.exp_avg", None, "must have step, exp_avg, exp_avg_sq, got step, exp_avg_sq"),
    ],
)
def test_damaged_moments_are_refused(name, value, message):
    net, optimiser = make_pair()
    descend(net, optimiser, 1)
    arrays = {**optimiser_to_arrays(optimiser), name: value}
    arrays = {key: array for key, array in arrays.items() if array is not None}
    with pytest.raises(ValueError, match=message):
        load_optimiser(optimiser, arrays)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("scale", [None, np.linspace(0.5, 2, 6)])
@pytest.mark.parametrize("n", [1, 64])
def test_numpy_evaluates_a_network_as_torch_does(activation, scale, n):
    net = mlp([6, 5, 4], 0, scale, activation)
    x = np.random.default_rng(0).normal(size=(n, 2, 3))
    x.setflags(write=False)
    expected = net(torch.tensor(x, dtype=torch.float32)).detach().numpy()
    actual = evaluate(net, x)
    assert actual.dtype == np.float32
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


def test_an_evaluation_follows_the_network():
    net = mlp([3, 4, 2], seed=0)
    x = np.ones((5, 3))
    assert evaluate(net, x).any()
    zero_last_layer(net)
    assert not evaluate(net, x).any()


def test_torch_evaluates_networks_that_are_no_perceptrons():
    net = torch.nn.Sequential(torch.nn.LayerNorm(3), torch.nn.Linear(3, 2))
    x = np.array([[1.0, 2.0, 6.0]])
    np.testing.assert_array_equal(
        evaluate(net, x), net(torch.tensor(x, dtype=torch.float32)).detach().numpy()
    )
