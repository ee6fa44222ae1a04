"""A run that dies at any call that changes the disk ends, run again, byte for byte as an unbroken one.

A child process counts the calls and dies at one of them. Between two calls nothing on disk changes, so that
to die before each call is also to die after the one before. A torn write leaves half of the bytes.
"""

import dataclasses
import io
import itertools
import os
import shutil
import warnings

import numpy as np
import pytest
from tiny import make_tiny

from mereq_min import EstimatorConfig, FeatureMatchingConfig, LoopConfig, SegmentLikelihoodConfig
from mereq_min.lab.runs import run as run_module
from mereq_min.lab.runs.config import RunConfig, run_folder
from mereq_min.lab.runs.files import RunError
from mereq_min.lab.runs.run import run
from mereq_min.policies import TabularPolicy

pytestmark = pytest.mark.slow

CALLS = ("open", "write", "ftruncate", "fsync", "replace", "rename", "unlink", "remove", "mkdir", "rmdir")
"""Functions of `os`; those that only read count too, which adds deaths at which nothing has changed."""

LOOP = LoopConfig(iterations=2, steps_per_iteration=25)
FEW = EstimatorConfig(
    matching=FeatureMatchingConfig(max_steps=2), likelihood=SegmentLikelihoodConfig(max_iterations=2)
)


def config(method="MEReQ-L", loop=LOOP):
    return RunConfig("tiny", method, 0, loop, FEW)


@pytest.fixture(name="task", scope="module")
def _task():
    return make_tiny()


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """Without git and the disk itself, which would be asked ten thousand times."""
    monkeypatch.setattr(run_module, "provenance", lambda: {"versions": {"python": "3"}, "git": None})
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


class Death:
    """Dies at the n-th call; patches `os` in a process that is about to end anyway."""

    def __init__(self, n):
        self.n, self.seen = n, itertools.count()

    def point(self, half=lambda: None):
        if next(self.seen) == self.n:
            half()
            os._exit(77)

    def patch(self):
        for name in CALLS:
            setattr(os, name, self.before(getattr(os, name)))
        death = self

        class Torn(io.BufferedWriter):
            def write(self, data):
                death.point()
                death.point(lambda: (super(Torn, self).write(data[: len(data) // 2]), self.flush()))
                return super().write(data)

        real = os.fdopen
        os.fdopen = lambda descriptor, mode: (
            Torn(io.FileIO(descriptor, "wb")) if "w" in mode else real(descriptor, mode)
        )

    def before(self, function):
        def call(*arguments, **options):
            self.point()
            return function(*arguments, **options)

        return call


def dies_at(n, work):
    """Do `work` in a child that dies at its n-th call; False if it came to its end before."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside idle threads of BLAS
        child = os.fork()
    if child == 0:
        try:
            Death(n).patch()
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, 77), "it failed by itself"
    return code == 77


def contents(path):
    """Every file but the wall times, hidden ones too."""
    files = (file for file in path.iterdir() if file.is_file() and file.name != "seconds.json")
    return {file.name: file.read_bytes() for file in files}


def die_at_every_call(out, work, check, prepare=lambda: None):
    """Let `work` die at each of its calls in a new folder and `check` what comes after; returns how often."""
    n = -1
    died = True
    while died:
        n += 1
        shutil.rmtree(out, ignore_errors=True)
        prepare()
        died = dies_at(n, work)
        check(n)
    return n


# The other methods keep what one of these keeps.
@pytest.mark.parametrize("method", ["MEReQ", "MaxEnt", "IWR-FT", "MEReQ-R"])
def test_a_death_at_any_call_changes_nothing_in_the_end(task, tmp_path, method):
    unbroken = contents(run(task, config(method), tmp_path / "unbroken"))
    out = tmp_path / "broken"

    def check(n):
        assert contents(run(task, config(method), out)) == unbroken, n

    points = die_at_every_call(out, lambda: run(task, config(method), out), check)
    print(f"{method}: {points} deaths")
    assert points > 60


def test_a_death_while_a_run_is_made_longer_changes_nothing_in_the_end(task, tmp_path):
    unbroken = contents(run(task, config(), tmp_path / "unbroken"))
    out, short = tmp_path / "broken", config(loop=dataclasses.replace(LOOP, iterations=1))

    def check(n):
        assert contents(run(task, config(), out)) == unbroken, n

    points = die_at_every_call(
        out, lambda: run(task, config(), out), check, prepare=lambda: run(task, short, out)
    )
    print(f"longer: {points} deaths")
    assert points > 30


def test_a_death_while_a_run_is_overwritten_leaves_the_old_one_or_none(task, tmp_path):
    old = config(loop=dataclasses.replace(LOOP, steps_per_iteration=20))
    before = contents(run(task, old, tmp_path / "old"))
    unbroken = contents(run(task, config(), tmp_path / "unbroken"))
    out = tmp_path / "broken"
    path = run_folder(out, config())

    def prepare():
        shutil.copytree(tmp_path / "old", out)
        (path / "tensorboard").mkdir()
        (path / "tensorboard/events").write_bytes(b"drawn")

    def check(n):
        shutil.rmtree(tmp_path / "twin", ignore_errors=True)
        shutil.copytree(out, tmp_path / "twin")
        again = run(task, config(), tmp_path / "twin", overwrite=True)
        assert contents(again) == unbroken, n
        try:
            run(task, config(), out)
        except RunError as error:
            assert "holds a run with other settings" in str(error)
            assert contents(path) == before, n
        else:
            assert contents(path) == unbroken, n

    points = die_at_every_call(out, lambda: run(task, config(), out, overwrite=True), check, prepare)
    print(f"overwritten: {points} deaths")
    assert points > 60


def test_a_death_with_a_prior_of_ones_own_changes_nothing_in_the_end(task, tmp_path):
    log_policy = 2.0 * task.log_prior
    log_policy -= np.logaddexp.reduce(log_policy, axis=1, keepdims=True)
    other = dataclasses.replace(task, prior=TabularPolicy(log_policy, 0.05))
    made = dataclasses.replace(config("HG-DAgger-FT"), prior="gone:prior")
    unbroken = contents(run(other, made, tmp_path / "unbroken"))
    out = tmp_path / "broken"

    def check(n):
        assert contents(run(other, made, out)) == unbroken, n

    points = die_at_every_call(out, lambda: run(other, made, out), check)
    print(f"prior: {points} deaths")
    assert points > 60


def test_a_second_death_on_the_way_changes_nothing_in_the_end(task, tmp_path):
    unbroken, out = contents(run(task, config(), tmp_path / "unbroken")), tmp_path / "broken"
    rng = np.random.default_rng(0)
    for _ in range(60):
        shutil.rmtree(out, ignore_errors=True)
        for n in rng.integers(90, size=2):
            dies_at(n, lambda: run(task, config(), out))
        assert contents(run(task, config(), out)) == unbroken
