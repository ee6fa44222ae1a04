"""The simulated expert's state machine: golden step tables, its definition by looking back, imperfections.

Patterns are read from left to right, one character a step: `v` a violation, `.` none, `|` a new episode; the
answer has P where the policy executed the step, E where the expert did.
"""

import itertools
from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Discrete
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import binomtest
from strategies import generators
from tiny import make_tiny

from mereq_min.experts import PRESETS, DemonstratingExpert, RuleOracle, SimulatedExpert, make_human
from mereq_min.interfaces import Imperfections, Policy
from mereq_min.policies import UniformPolicy
from mereq_min.soft import solve_soft

patterns = st.text("v.", max_size=40)
counts = st.integers(1, 4)
delays = st.integers(0, 4)


class Constant:
    """A policy that always answers with one action, and remembers where it was asked."""

    def __init__(self, action: int) -> None:
        self.action = action
        self.asked: list[int] = []

    def log_prob(self, state: Any, action: Any) -> Any:
        raise AssertionError("the expert has no use for its own likelihood")

    def sample(self, state: Any, rng: np.random.Generator) -> Any:
        self.asked.extend(state)
        return np.full(len(state), self.action)


class Uniform(Constant):
    """A policy that draws one of ten actions."""

    def sample(self, state: Any, rng: np.random.Generator) -> Any:
        return rng.integers(10, size=len(state))


ALWAYS_7 = Constant(7)
IDEAL = Imperfections()


def make_expert(
    patience: int,
    release: int,
    imperfections: Imperfections = IDEAL,
    *,
    policy: Policy = ALWAYS_7,
    seed: int = 0,
) -> SimulatedExpert:
    """An expert for whom state 1 is a violation and state 0 is not, at the start of an episode."""
    expert = SimulatedExpert(
        policy,
        lambda state, action: bool(state),
        patience=patience,
        release=release,
        imperfections=imperfections,
    )
    expert.reset(np.random.default_rng(seed))
    return expert


def watch(expert: SimulatedExpert, pattern: str) -> str:
    """Show the expert a pattern of violations; returns who executed each step."""
    who = ""
    for c in pattern:
        if c == "|":
            expert.reset(expert.rng)
            who += "|"
        else:
            who += "P" if expert.intervene(np.array(int(c == "v")), np.array(0)) is None else "E"
    return who


# Golden step tables ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("patience", "release", "pattern", "who"),
    [
        # The violating step itself is still executed by the policy, the expert acts from the next one on,
        (1, 1, "......", "PPPPPP"),
        (1, 1, "v.....", "PEPPPP"),
        # for as long as violations go on,
        (1, 1, "vvvv..", "PEEEEP"),
        # and hands back after `release` calm steps, the first step in control among them.
        (1, 2, "v.....", "PEEPPP"),
        (1, 3, "v.....", "PEEEPP"),
        (1, 2, "v.v.v..v", "PEEEEEEP"),
        (1, 2, "vv...v.", "PEEEPPE"),
        # Patience asks for violations in a row, all executed by the policy.
        (2, 1, "v.v.v.", "PPPPPP"),
        (2, 1, "v.vv..", "PPPPEP"),
        (2, 2, "v.vv....", "PPPPEEPP"),
        (3, 1, "vvvvv.", "PPPEEE"),
        (3, 1, "vv.vvv..", "PPPPPPEP"),
        # Violations under the expert's control do not count towards the next takeover,
        (2, 1, "vvv.v..", "PPEEPPP"),
        # nor do calm steps under the policy's count towards handing back.
        (2, 2, "..vv...", "PPPPEEP"),
        # The first step after handing back is the policy's, and watched like any other.
        (1, 1, "v.v.v.", "PEPEPE"),
        (1, 1, "v.vvv.", "PEPEEE"),
        # A new episode begins with the policy in control and nothing held against it,
        (1, 1, "v|v|.", "P|P|P"),
        (2, 1, "v|vv|.", "P|PP|P"),
        # and takes control from the expert.
        (1, 3, "vv.|...", "PEE|PPP"),
        (1, 2, "v.|v..", "PE|PEE"),
    ],
)
def test_golden_takeovers(patience: int, release: int, pattern: str, who: str) -> None:
    assert watch(make_expert(patience, release), pattern) == who


@pytest.mark.parametrize(
    ("delay", "patience", "pattern", "who"),
    [
        (1, 1, "v.....", "PPEPPP"),
        (2, 1, "v.....", "PPPEPP"),
        # Once decided, the takeover comes, whatever happens meanwhile; more violations do not add to it.
        (2, 1, "vvv....", "PPPEPPP"),
        (2, 2, "vv......", "PPPPEPPP"),
        (2, 1, "vvvv...", "PPPEEPP"),
        # An episode's end calls it off.
        (2, 1, "vv|....", "PP|PPPP"),
        (2, 1, "v..|v...", "PPP|PPPE"),
    ],
)
def test_golden_delays(delay: int, patience: int, pattern: str, who: str) -> None:
    assert watch(make_expert(patience, 1, Imperfections(reaction_delay=delay)), pattern) == who


def test_a_value_rule_judges_the_policys_action_under_either_control() -> None:
    """Action 1 violates; the expert, who always takes it, hands back once the policy would not."""
    expert = SimulatedExpert(
        Constant(1),
        lambda state, action: bool(action == 1),
        patience=1,
        release=1,
    )
    expert.reset(np.random.default_rng(0))
    answers = [expert.intervene(np.array(0), np.array(action)) for action in (0, 1, 1, 0, 0, 1, 0)]
    assert answers == [None, None, 1, 1, None, None, 1]


# Properties ------------------------------------------------------------------------------------------------


def look_back(pattern: str, patience: int, release: int, delay: int) -> str:
    """The semantics without a state machine: each step, look back over the run of whoever is in control."""
    who, start, expert = "", 0, False
    for i in range(len(pattern)):
        run = pattern[start:i]
        if expert:
            changes = run.endswith("." * release)
        else:
            changes = run[: max(len(run) - delay, 0)].endswith("v" * patience)
        if changes:
            start, expert = i, not expert
        who += "E" if expert else "P"
    return who


@given(patterns, counts, counts, delays)
def test_control_changes_exactly_when_looking_back_says_so(
    pattern: str, patience: int, release: int, delay: int
) -> None:
    who = watch(make_expert(patience, release, Imperfections(reaction_delay=delay)), pattern)
    assert who == look_back(pattern, patience, release, delay)


@given(patterns, patterns, counts, counts, delays)
def test_reset_forgets_everything(before: str, after: str, patience: int, release: int, delay: int) -> None:
    who = watch(make_expert(patience, release, Imperfections(reaction_delay=delay)), f"{before}|{after}")
    fresh = make_expert(patience, release, Imperfections(reaction_delay=delay))
    assert who.split("|")[1] == watch(fresh, after)


@given(patterns, counts, counts, delays, st.floats(0.0, 0.5), st.floats(0.0, 0.5))
def test_takeovers_do_not_depend_on_what_the_expert_does(
    pattern: str, patience: int, release: int, delay: int, miss_rate: float, false_alarm_rate: float
) -> None:
    """The expert's own action is drawn in its own steps alone, and changes nothing."""
    imperfections = Imperfections(miss_rate, false_alarm_rate, delay)
    policies = [Constant(action) for action in (0, 1)]
    experts = [make_expert(patience, release, imperfections, policy=policy) for policy in policies]
    first, second = (watch(expert, pattern) for expert in experts)
    assert first == second
    states = [int(c == "v") for c, controller in zip(pattern, first, strict=True) if controller == "E"]
    assert [policy.asked for policy in policies] == [states, states]


def test_the_expert_answers_with_its_own_action() -> None:
    expert = make_expert(1, 1, policy=Constant(4))
    answers = [expert.intervene(np.array(state), np.array(2)) for state in (1, 0, 0)]
    assert answers == [None, 4, None]


# Imperfections ---------------------------------------------------------------------------------------------


def assert_rate(happened: int, of: int, rate: float) -> None:
    assert binomtest(happened, of, rate).pvalue > 1e-3, (happened, of, rate)


@given(patterns, counts, counts)
def test_an_expert_who_misses_everything_never_takes_over(pattern: str, patience: int, release: int) -> None:
    assert watch(make_expert(patience, release, Imperfections(miss_rate=1.0)), pattern) == "P" * len(pattern)


@pytest.mark.parametrize(
    ("release", "delay", "pattern", "who"),
    [
        (1, 0, "....", "EPEP"),
        (2, 0, ".....", "EEPEE"),
        (1, 0, "vvv.", "EEEE"),
        (1, 0, "..|..", "EP|EP"),
        (1, 2, "......", "PPEPPP"),
    ],
)
def test_an_expert_who_is_always_needless_takes_over_at_once(
    release: int, delay: int, pattern: str, who: str
) -> None:
    imperfections = Imperfections(false_alarm_rate=1.0, reaction_delay=delay)
    assert watch(make_expert(3, release, imperfections), pattern) == who


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 0.9])
def test_violations_are_missed_at_the_stated_rate(rate: float) -> None:
    """A takeover after two violations asks that both were seen."""
    who = watch(make_expert(2, 1, Imperfections(miss_rate=rate), seed=1), "vv.|" * 4000)
    assert_rate(who.count("PPE"), 4000, (1.0 - rate) ** 2)


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_a_missed_violation_counts_as_calm_under_the_experts_control(rate: float) -> None:
    who = watch(make_expert(1, 1, Imperfections(miss_rate=rate), seed=2), "v" * 8000)
    assert_rate(who.count("EP"), who[:-1].count("E"), rate)
    assert_rate(who.count("PE"), who[:-1].count("P"), 1.0 - rate)


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 0.9])
def test_needless_takeovers_come_at_the_stated_rate(rate: float) -> None:
    who = watch(make_expert(1, 1, Imperfections(false_alarm_rate=rate), seed=3), "..|" * 4000)
    assert_rate(who.count("E"), 4000, rate + (1.0 - rate) * rate)
    assert_rate(who.count("EP|"), 4000, rate)


def test_the_seed_decides_imperfections_and_actions() -> None:
    def run(seed: int) -> list[Any]:
        expert = make_expert(
            1, 1, Imperfections(miss_rate=0.3, false_alarm_rate=0.2), policy=Uniform(0), seed=seed
        )
        answers = [expert.intervene(np.array(state), np.array(0)) for state in [1, 0, 0, 1, 1] * 10]
        return [-1 if answer is None else int(answer) for answer in answers]

    assert run(0) == run(0)
    assert len({tuple(run(seed)) for seed in range(5)}) == 5
    assert len(set(run(0))) > 3


@given(patterns, generators, counts, counts)
def test_the_generator_of_reset_is_the_only_source_of_randomness(
    pattern: str, rng: np.random.Generator, patience: int, release: int
) -> None:
    """Whatever an expert did before, equal generators at reset give equal episodes."""
    imperfections = Imperfections(miss_rate=0.3, false_alarm_rate=0.2)
    seed = int(rng.integers(2**32))

    def episode(expert: SimulatedExpert) -> list[int]:
        expert.reset(np.random.default_rng(seed))
        answers = [expert.intervene(np.array(int(c == "v")), np.array(0)) for c in pattern]
        return [-1 if answer is None else int(answer) for answer in answers]

    used = make_expert(patience, release, imperfections, policy=Uniform(0), seed=1)
    watch(used, "vv.v..")
    assert episode(used) == episode(make_expert(patience, release, imperfections, policy=Uniform(0)))


class Alternating(Constant):
    """A policy that never does the same twice in a row."""

    def sample(self, state: Any, rng: np.random.Generator) -> Any:
        self.action += 1
        return np.full(len(state), self.action)


def actions(imperfections: Imperfections, policy: Policy, pattern: str, seed: int = 0) -> list[int]:
    """What the expert does in the steps that it controls; slips are actions from 100 to 109."""
    expert = SimulatedExpert(
        policy,
        lambda state, action: bool(state),
        patience=1,
        release=1,
        imperfections=imperfections,
        slips=UniformPolicy(Discrete(10, start=100)),
    )
    expert.reset(np.random.default_rng(seed))
    answers = [expert.intervene(np.array(int(c == "v")), np.array(0)) for c in pattern]
    return [int(answer) for answer in answers if answer is not None]


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_actions_are_random_at_the_stated_rate_and_uniformly(rate: float) -> None:
    done = actions(Imperfections(random_action_rate=rate), Constant(7), "v" * 8000)
    assert_rate(sum(action != 7 for action in done), len(done), rate)
    assert set(done) == {7, *range(100, 110)}


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_actions_are_repeated_at_the_stated_rate(rate: float) -> None:
    done = actions(Imperfections(repeat_rate=rate), Alternating(0), "v" * 8000)
    repeated = [a == b for a, b in itertools.pairwise(done)]
    assert_rate(sum(repeated), len(repeated), rate)


def test_an_intervention_does_not_begin_with_an_action_of_the_last_one() -> None:
    assert actions(Imperfections(repeat_rate=1.0), Alternating(0), "vv..vv..") == [1, 1, 2, 2]


@pytest.mark.parametrize("spread", [0.5, 3.0])
def test_delays_spread_by_a_geometric_time(spread: float) -> None:
    """Its mean is the spread, and its probability of 0 is 1 / (1 + spread)."""
    expert = make_expert(1, 1, Imperfections(reaction_delay=2, reaction_delay_spread=spread), seed=4)
    who = watch(expert, ("v" + "." * 60 + "|") * 4000).split("|")[:-1]
    extra = np.array([each.index("E") - 3 for each in who])
    assert extra.min() == 0
    assert_rate(int((extra == 0).sum()), len(extra), 1 / (1 + spread))
    error = np.sqrt(spread * (1 + spread) / len(extra))
    assert abs(extra.mean() - spread) < 4 * error


def test_fatigue_grows_within_an_episode_and_ends_with_it() -> None:
    """At step t a violation is missed with probability 0.1 (1 + t / 2), from t = 18 on always."""
    errs = Imperfections(miss_rate=0.1, fatigue=0.5)
    for t, rate in ((0, 0.1), (4, 0.3), (18, 1.0), (25, 1.0)):
        who = watch(make_expert(1, 1, errs, seed=5), ("." * t + "v.|") * 2000)
        assert_rate(who.count("E"), 2000, 1.0 - rate)


def test_the_human_is_the_one_of_the_study() -> None:
    assert PRESETS["human"] == Imperfections(0.2, 0.01, 1, random_action_rate=0.1, temperature_ratio=1.5)
    assert PRESETS["none"] == Imperfections()


# A person's times ------------------------------------------------------------------------------------------


def takeover_steps(expert: SimulatedExpert, episodes: int) -> Any:
    """Steps from the takeover of an ideal expert to this one's, in episodes that begin with a violation."""
    who = watch(expert, ("v" + "." * 60 + "|") * episodes).split("|")[:-1]
    return np.array([each.index("E") - 1 for each in who])


@pytest.mark.parametrize("rate", [1.0, 3.0, 20.0])
def test_a_person_takes_over_after_0_3_to_0_8_seconds_whatever_the_rate(rate: float) -> None:
    """The time is uniform, and the takeover comes with the first step after it."""
    errors = make_human(rate)
    times = Imperfections(
        reaction_delay=errors.reaction_delay, reaction_delay_range=errors.reaction_delay_range
    )
    steps = takeover_steps(make_expert(1, 1, times, seed=3), 3000)
    edges = np.arange(0.0, 0.8 * rate + 1.0)
    chances = np.diff(np.clip((edges / rate - 0.3) / 0.5, 0.0, 1.0))
    assert chances.sum() == pytest.approx(1.0)
    for number, chance in enumerate(chances):
        assert_rate(int((steps == number).sum()), len(steps), chance)


def test_the_delay_is_told_before_it_is_rounded_down() -> None:
    expert = make_expert(1, 1, Imperfections(reaction_delay=1.25, reaction_delay_range=0.5))
    for _ in range(20):
        (steps,) = takeover_steps(expert, 1)
        assert 1.25 <= expert.delay < 1.75
        assert steps == 1


@pytest.mark.parametrize("mean", [0.5, 3.0])
def test_a_person_holds_on_for_a_geometric_time(mean: float) -> None:
    who = watch(make_expert(1, 2, Imperfections(release_delay=mean), seed=6), ("v" + "." * 80 + "|") * 4000)
    late = np.array([each.count("E") - 2 for each in who.split("|")[:-1]])
    assert late.min() == 0
    assert_rate(int((late == 0).sum()), len(late), 1 / (1 + mean))
    assert abs(late.mean() - mean) < 4 * np.sqrt(mean * (1 + mean) / len(late))


def test_whoever_is_not_human_at_all_is_ideal() -> None:
    assert make_human(3.0, 0.0) == Imperfections()


def test_a_whole_person_errs_as_the_preset_does() -> None:
    at_two, preset = make_human(2.0), PRESETS["human"]
    for name in ("miss_rate", "false_alarm_rate", "random_action_rate", "temperature_ratio"):
        assert getattr(at_two, name) == getattr(preset, name)
    assert at_two.reaction_delay + at_two.reaction_delay_range / 2 == pytest.approx(
        preset.reaction_delay, abs=0.2
    )
    assert make_human(4.0).fatigue == pytest.approx(at_two.fatigue / 2)


@pytest.mark.parametrize(
    ("rate", "share", "name"), [(0.0, 1.0, "rate"), (1.0, -0.1, "share"), (1, 2, "share")]
)
def test_a_person_without_a_rate_or_beyond_the_whole_is_refused(rate: float, share: float, name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be"):
        make_human(rate, share)


def test_an_expert_without_slips_to_draw_is_refused() -> None:
    with pytest.raises(ValueError, match="needs slips=UniformPolicy"):
        make_expert(1, 1, Imperfections(random_action_rate=0.1))


# The policies of experts who err ---------------------------------------------------------------------------


def erring(**errors: float) -> Any:
    oracle = make_tiny().oracle
    assert oracle is not None
    return oracle.erring_policy(Imperfections(**errors)).log_policy


def test_without_errors_the_policy_is_the_experts_own() -> None:
    task = make_tiny()
    assert task.oracle is not None
    assert_array_equal(
        task.oracle.erring_policy(Imperfections()).log_policy, task.oracle.expert_policy.log_policy
    )
    assert task.oracle.make_expert().policy is task.oracle.expert_policy


def test_an_expert_who_wants_nothing_acts_as_the_prior() -> None:
    assert_allclose(np.exp(erring(wish_share=0.0)), np.exp(make_tiny().log_prior), rtol=0, atol=1e-6)


def test_a_hot_expert_is_soft_optimal_for_the_same_reward_at_a_higher_temperature() -> None:
    task = make_tiny()
    assert task.oracle is not None and task.oracle.full_weights is not None
    expected = solve_soft(task.mdp, task.mdp.reward(task.oracle.full_weights), 2.0 * task.temperature)
    assert_allclose(np.exp(erring(temperature_ratio=2.0)), np.exp(expected.log_policy), rtol=0, atol=1e-6)


def test_a_wholly_myopic_expert_weighs_the_features_of_one_step_against_the_prior() -> None:
    task = make_tiny()
    assert task.oracle is not None
    logits = task.log_prior + task.mdp.reward(task.oracle.true_theta) / task.temperature
    found = np.exp(erring(myopia=1.0))
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert_allclose(found, expected, rtol=0, atol=1e-6)
    assert np.abs(found - np.exp(erring())).max() > 0.01


@pytest.mark.parametrize("errors", [{"temperature_ratio": 1.5}, {"wish_share": 0.5}, {"myopia": 0.3}])
def test_oracles_without_such_policies_say_so(errors: dict[str, float]) -> None:
    class Network(RuleOracle):
        patience = release = 1
        expert_policy = ALWAYS_7
        action_space = Discrete(2)

        def violates(self, state: Any, action: Any) -> bool:
            return False

    assert Network().make_expert(Imperfections(random_action_rate=0.1)).policy is ALWAYS_7
    with pytest.raises(ValueError, match=r"is a trained network.*leave them at 1, 1 and 0"):
        Network().make_expert(Imperfections(**errors))


# Demonstrations --------------------------------------------------------------------------------------------


def test_a_demonstrating_expert_controls_every_step_with_its_own_policy() -> None:
    """Its actions are those that its policy draws from the generator of reset, whatever is proposed."""
    expert, states = DemonstratingExpert(Uniform(0)), np.arange(50) % 2
    expert.reset(np.random.default_rng(4))
    answers = [int(expert.intervene(state, np.array(-1))) for state in states]
    assert answers == np.random.default_rng(4).integers(10, size=(50, 1))[:, 0].tolist()


# Refusals --------------------------------------------------------------------------------------------------


RATES = ["miss_rate", "false_alarm_rate", "random_action_rate", "repeat_rate", "myopia"]


@pytest.mark.parametrize("name", RATES)
@pytest.mark.parametrize("value", [-0.1, 1.1, np.nan])
def test_rates_that_are_no_probability_are_refused(name: str, value: Any) -> None:
    with pytest.raises(
        ValueError, match=f"{name} must be a finite number at least 0 and at most 1, got {value}"
    ):
        Imperfections(**{name: value})


DELAYS = ["reaction_delay", "reaction_delay_range", "reaction_delay_spread", "release_delay"]


@pytest.mark.parametrize("name", [*DELAYS, "wish_share", "fatigue", "temperature_ratio"])
def test_what_cannot_be_negative_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be a finite number (at least|above) 0, got -0.5"):
        Imperfections(**{name: -0.5})


@pytest.mark.parametrize(("patience", "release", "name"), [(0, 1, "patience"), (1, 0, "release")])
def test_patience_and_release_are_at_least_one_step(patience: int, release: int, name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be an integer at least 1, got 0"):
        make_expert(patience, release)
