"""The calibration rates that lie beside the simulator tasks are those of their priors and experts."""

from pathlib import Path

import pytest

import deep
from mereq_min.experts import EXPERT_RATE, PRIOR_RATE
from mereq_min.lab.runs import calibration

KEPT = calibration.read(Path(deep.__file__).with_name("calibration.json"))


def test_every_task_is_calibrated():
    assert set(KEPT) == set(deep.TASKS)
    for kept in KEPT.values():
        assert PRIOR_RATE[0] <= kept.prior_rate <= PRIOR_RATE[1]
        assert kept.expert_rate <= EXPERT_RATE


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lunar-lander", "mountain-car", "half-cheetah"])
def test_the_rates_come_out_again(name):
    """Fewer steps than were recorded, on other seeds; the other tasks have tests of their own."""
    task, kept = deep.TASKS[name](), KEPT[name]
    again = calibration.measure(task, 5_000, seed=7)
    assert again.wish == kept.wish
    assert again.prior_rate == pytest.approx(kept.prior_rate, abs=0.1)
    assert again.expert_rate == pytest.approx(kept.expert_rate, abs=0.03)
    for measured, recorded in (
        (again.prior_success, kept.prior_success),
        (again.expert_success, kept.expert_success),
    ):
        assert measured is recorded or measured == pytest.approx(recorded, abs=0.03)
