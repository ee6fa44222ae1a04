"""Many runs: none stops another, the order, the time that is left, and the same results from Ray."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from mereq_min import LoopConfig, settings_of
from mereq_min.lab import plugins
from mereq_min.lab.commands.main import main
from mereq_min.lab.commands.sweep import Reproduce, describe_time_left
from mereq_min.lab.plugins import load_task
from mereq_min.lab.runs import sweep
from mereq_min.lab.runs.config import RunConfig, run_folder
from mereq_min.lab.runs.files import RunError
from mereq_min.lab.runs.records import read_bundle, read_rows
from mereq_min.lab.runs.sweep import Sweep
from mereq_min.lab.show.published import PAPER_NAMES

MEREQ = Path(sys.executable).with_name("mereq")
LOOP = LoopConfig(iterations=2, steps_per_iteration=40)

# --- Progress and the time left: synthetic runs on a clock whose every tick is known ---------------------


def duration(config, iteration):
    """Seconds that an iteration takes: other tasks and methods take other times, a first iteration longer."""
    first = {"MEReQ": 30.0, "MEReQ-L": 7.0}[config.method] if iteration == 1 else 0.0
    return first + {"bottle": 100.0, "pillow": 41.0}[config.task] * (2 if config.method == "MEReQ" else 1)


def write(out, config, count, *, timed=True, rate=0.5):
    """Leave a run as it is after `count` iterations."""
    path = run_folder(out, config)
    path.mkdir(parents=True, exist_ok=True)
    numbers = range(1, count + 1)
    rows = [
        {"iteration": i, "intervention_rate": rate, "expert_samples": i, "steps": 2 * i, "theta": None}
        for i in numbers
    ]
    (path / "iterations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if timed:
        (path / "seconds.json").write_text(json.dumps({i: duration(config, i) for i in numbers}))


def make_configs(seeds, iterations=10):
    return [
        RunConfig(task, method, seed, LoopConfig(iterations=iterations))
        for seed in range(seeds)
        for task in ("bottle", "pillow")
        for method in ("MEReQ", "MEReQ-L")
    ]


def schedule(configs, workers, done=None):
    """When each iteration ends if each run goes to the worker that is free first, and when all have ended."""
    free, ends = [0.0] * workers, {}
    for i, config in enumerate(configs):
        worker = int(np.argmin(free))
        for iteration in range((done or {}).get(i, 0) + 1, config.loop.iterations + 1):
            free[worker] += duration(config, iteration)
            ends.setdefault(i, []).append(free[worker])
    return ends, max(free)


@pytest.mark.parametrize("workers", [1, 2, 3, 7])
def test_the_time_left_is_right_once_each_method_was_timed_on_each_task(tmp_path, workers):
    configs = make_configs(seeds=4)
    ends, end = schedule(configs, workers)
    longest = max(duration(config, 1) for config in configs)
    watched = Sweep(configs, tmp_path, workers=workers)
    assert watched.progress() == (0, 160, 0, None)
    first_seed_done = max(ends[i][-1] for i in range(4))
    for now in np.linspace(first_seed_done, end, 25):
        counts = {i: sum(each <= now for each in ends[i]) for i in ends}
        for i, count in counts.items():
            write(tmp_path, configs[i], count)
        seen = watched.progress()
        assert seen.iterations == sum(counts.values())
        assert seen.total == 160
        assert seen.finished == sum(count == 10 for count in counts.values())
        # The iterations that are going on count whole, since nothing says how far they are; dealing out what
        # is left a little differently moves the end by no more than one of them.
        assert -longest <= seen.seconds_left - (end - now) <= 2 * longest
    assert watched.progress() == (160, 160, 16, 0.0)


def test_a_resumed_sweep_counts_only_what_is_still_to_do(tmp_path):
    configs = make_configs(seeds=2)
    done = {0: 10, 1: 10, 2: 10, 3: 10, 4: 3, 5: 9}
    for i, count in done.items():
        write(tmp_path, configs[i], count)
    _, end = schedule(configs, 2, done)
    seen = Sweep(configs, tmp_path, workers=2).progress()
    assert seen[:3] == (52, 80, 4)
    assert seen.seconds_left == pytest.approx(end)


def test_what_was_never_timed_is_taken_to_be_like_the_rest_of_its_task(tmp_path):
    quick, slow = (RunConfig(task, "MEReQ", 0, LoopConfig(iterations=1)) for task in ("pillow", "bottle"))
    write(tmp_path, quick, 1)
    write(tmp_path, slow, 1)
    other = RunConfig("pillow", "IWR-FT", 0, LoopConfig(iterations=3))
    seen = Sweep([quick, slow, other], tmp_path, workers=2).progress()
    assert seen.seconds_left == pytest.approx(3 * duration(quick, 1))
    stranger = RunConfig("eraser", "IWR-FT", 0, LoopConfig(iterations=3))
    seen = Sweep([quick, slow, stranger], tmp_path, workers=2).progress()
    assert seen.seconds_left == pytest.approx(3 * (duration(quick, 1) + duration(slow, 1)) / 2)


def test_failed_and_early_finished_runs_need_no_more_time(tmp_path):
    configs = make_configs(seeds=2)
    for config in configs[:4]:
        write(tmp_path, config, 10)
    write(tmp_path, configs[4], 2)
    run_folder(tmp_path, configs[4]).with_name("seed1.error.txt").write_text("it broke")
    stopped = RunConfig("bottle", "MEReQ-L", 1, LoopConfig(iterations=10, threshold=0.1))
    write(tmp_path, stopped, 3, rate=0.05)
    _, end = schedule(configs[6:], 2)
    seen = Sweep([*configs[:5], stopped, *configs[6:]], tmp_path, workers=2).progress()
    assert seen == (45, 65, 6, pytest.approx(end))


def test_runs_from_before_iterations_were_timed_and_damaged_ones_do_not_hurt(tmp_path):
    configs = make_configs(seeds=1)
    write(tmp_path, configs[0], 10, timed=False)
    write(tmp_path, configs[1], 10)
    write(tmp_path, configs[2], 5)
    (run_folder(tmp_path, configs[2]) / "iterations.jsonl").write_text("{")
    seen = Sweep(configs, tmp_path, workers=1).progress()
    assert seen[:3] == (20, 40, 2)
    assert seen.seconds_left == pytest.approx(2 * sum(duration(configs[1], i) for i in range(1, 11)))


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (None, "time left not known yet"),
        (0.0, "done"),
        (20, "less than a minute left"),
        (100, "2 min left"),
        (3540, "59 min left"),
        (3 * 3600 + 4 * 60 + 10, "3 h 04 min left"),
        (30 * 3600, "30 h 00 min left"),
    ],
)
def test_time_in_words(seconds, words):
    assert describe_time_left(seconds) == words


# --- Running ---------------------------------------------------------------------------------------------


class Fragile:
    """A task of which one part is broken for now."""

    broken = True

    def __init__(self, task):
        self.task = task

    def __getattr__(self, name):
        return getattr(self.task, name)

    def make_cloner(self, *, seed=0):
        if self.broken:
            raise ZeroDivisionError("no cloning today")
        return self.task.make_cloner(seed=seed)


def test_a_broken_task_or_method_stops_no_other_and_leaves_its_error(tmp_path, monkeypatch):
    configs = [RunConfig("carpet", method, 0, LOOP) for method in ("HG-DAgger-FT", "MEReQ-L", "IWR-FT")]
    configs.insert(1, RunConfig("nowhere", "MEReQ-L", 0, LOOP))
    work = Sweep(configs, tmp_path, workers=1)
    monkeypatch.setattr(plugins, "load_task", lambda name: Fragile(load_task(name)))
    failures = work.run()
    failed = [run_folder(tmp_path, config) for config in configs if config.method != "MEReQ-L"]
    failed.insert(1, run_folder(tmp_path, configs[1]))
    assert list(failures) == failed
    assert "unknown task 'nowhere'" in failures[failed[1]]
    for path in (failed[0], failed[2]):
        log = path.with_name("seed0.error.txt")
        assert failures[path] == f"ZeroDivisionError: no cloning today (see {log})"
        assert "make_cloner" in log.read_text()  # the whole traceback
    assert len(read_rows(run_folder(tmp_path, configs[2]))) == 2
    assert work.progress()[:3] == (2, 2, 4)
    monkeypatch.setattr(Fragile, "broken", False)
    assert list(work.run()) == [failed[1]]
    assert not failed[0].with_name("seed0.error.txt").exists()


def test_overwrite_discards_every_run_before_the_first_begins(tmp_path, monkeypatch):
    configs = [RunConfig("carpet", "MEReQ-L", seed, LOOP) for seed in range(2)]
    work = Sweep(configs, tmp_path, workers=1)
    work.run()
    seen = []
    monkeypatch.setattr(sweep, "attempt", lambda config, *_: seen.append(work.progress().iterations))
    work.run()
    work.run(overwrite=True)
    assert seen == [4, 4, 0, 0]


def test_seeds_come_first_and_each_task_has_its_own_settings(tmp_path, monkeypatch):
    pytest.importorskip("torch")  # of the highway
    begun = []
    monkeypatch.setattr(sweep, "attempt", lambda config, *_: begun.append(config) or "not today")
    arguments = ("--methods", "MEReQ", "IWR-FT", "--seeds", "2", "--workers", "1", "--out", str(tmp_path))
    assert main(["reproduce", "--tasks", "highway", "lanes", "--iterations", "4", *arguments]) == 1
    assert [(config.seed, config.task, config.method) for config in begun] == [
        (seed, task, method)
        for seed in (1000, 1001)
        for task in ("highway", "lanes")
        for method in ("MEReQ", "IWR-FT")
    ]
    for config in begun:
        recorded = settings_of(load_task(config.task))
        assert config.loop == LoopConfig(4, recorded.loop.steps_per_iteration)
        assert config.estimators == recorded.estimators
    assert begun[0].loop.steps_per_iteration == 500


def test_the_whole_paper_is_run_unless_told(monkeypatch):
    asked = []
    monkeypatch.setattr(
        Reproduce, "sweep", lambda self, tasks, settings: asked.append((tasks, settings)) or 0
    )
    assert main(["reproduce"]) == 0
    ((tasks, settings),) = asked
    assert tasks == tuple(PAPER_NAMES) == ("highway", "bottle", "eraser", "pillow")
    assert settings("lanes") == settings_of(load_task("lanes"))


DEADLY = """
import os
from gridworlds import TASKS

class Deadly:
    def __init__(self, task):
        self.task = task
    def __getattr__(self, name):
        return getattr(self.task, name)
    def make_learner(self, *arguments, **options):
        os._exit(1)

def make():
    return Deadly(TASKS["carpet"]())
"""


@pytest.mark.slow
def test_a_worker_that_dies_is_reported_in_a_sentence(tmp_path, monkeypatch):
    # Workers of an earlier sweep, which still stood in its folder, would not find the module.
    elsewhere = [RunConfig("carpet", "MEReQ", seed, LOOP) for seed in range(2)]
    assert Sweep(elsewhere, tmp_path / "elsewhere", workers=2).run() == {}
    (tmp_path / "deadly.py").write_text(DEADLY)
    monkeypatch.chdir(tmp_path)
    configs = [RunConfig("deadly:make", "MEReQ", seed, LOOP) for seed in range(2)]
    with pytest.raises(RunError, match=r"a worker died, .* repeat the command to resume"):
        Sweep(configs, tmp_path, workers=2).run()


# --- Ray -------------------------------------------------------------------------------------------------


def test_ray_is_asked_for_where_it_is_missing(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(["compare", "carpet", "--engine", "ray", "--out", str(tmp_path)]) == 1
    assert "--engine ray needs Ray; run pip install -e '.[cluster]'" in capsys.readouterr().err


ENVIRONMENT = {
    **os.environ,
    "OMP_NUM_THREADS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "GIT_DIR": "/nowhere",  # records without the hash of a working tree that may change meanwhile
}


def reproduce(out, engine, **environment):
    """Two methods on two tasks for two seeds; returns the bytes of each bundle."""
    command = [MEREQ, "reproduce", "--tasks", "carpet", "lanes", "--methods", "MEReQ", "HG-DAgger-FT"]
    command += ["--seeds", "2", "--iterations", "2", "--out", out, "--engine", engine]
    shown = subprocess.run(
        command, env=ENVIRONMENT | environment, capture_output=True, text=True, timeout=300
    )
    assert shown.returncode == 0, shown.stdout + shown.stderr
    bundles = {file.name: file.read_bytes() for file in out.glob("*.jsonl.gz")}
    assert sum(len(list(read_bundle(out / name))) for name in bundles) == 8
    return bundles


def ray_processes():
    """Process numbers of everything that belongs to a Ray cluster on this machine."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes()
        except OSError:  # it has ended meanwhile
            continue
        if b"/ray/" in words or words.startswith(b"ray::"):
            found.add(process.name)
    return found


@pytest.fixture(name="local", scope="module")
def _local(tmp_path_factory):
    return reproduce(tmp_path_factory.mktemp("local"), "local")


@pytest.mark.slow
def test_a_cluster_of_its_own_gives_the_same_bytes_and_is_gone_afterwards(tmp_path, local):
    before = ray_processes()
    assert reproduce(tmp_path, "ray") == local
    patience = time.monotonic() + 60  # they end by themselves, on a busy machine after some seconds
    while not ray_processes() <= before and time.monotonic() < patience:
        time.sleep(0.2)
    assert ray_processes() <= before


CLUSTER = """
import sys
from ray.cluster_utils import Cluster

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
cluster.add_node(num_cpus=1)
print(cluster.address, flush=True)
sys.stdin.readline()
cluster.shutdown()
"""


@pytest.fixture(name="cluster")
def _cluster():
    """Address of a Ray cluster of two nodes with one worker each."""
    process = subprocess.Popen(
        [sys.executable, "-c", CLUSTER],
        env=ENVIRONMENT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    lines = iter(process.stdout.readline, "")
    yield next(line.strip() for line in lines if line.count(":") == 1 and line.strip()[-1].isdigit())
    process.communicate("\n", timeout=60)


@pytest.mark.slow
def test_a_cluster_of_two_nodes_gives_the_same_bytes_and_stays_up(tmp_path, local, cluster):
    before = ray_processes()
    assert before
    assert reproduce(tmp_path, "ray", RAY_ADDRESS=cluster) == local
    code = f"import ray; ray.init({cluster!r}, log_to_driver=False); print(len(ray.nodes()))"
    command = [sys.executable, "-c", code]
    asked = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=True)
    assert asked.stdout.strip() == "2"


@pytest.mark.slow
def test_an_address_where_no_cluster_answers_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    assert main(["compare", "carpet", "--engine", "ray", "--out", str(tmp_path)]) == 1
    assert "no Ray cluster answers at RAY_ADDRESS=127.0.0.1:1" in capsys.readouterr().err
