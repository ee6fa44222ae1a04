"""The paper's figures say what records and policies say: the drawn numbers are read back and compared."""

import dataclasses
import sys

import numpy as np
import pytest
from matplotlib.colors import to_rgba
from PIL import Image

from mereq_min import LoopConfig
from mereq_min.exact import tabulate, visitation
from mereq_min.lab.commands.main import main
from mereq_min.lab.plugins import load_task
from mereq_min.lab.runs import episodes as episodes_module
from mereq_min.lab.runs.episodes import Episodes, load_behaviour, read_behaviour, roll_out, save_behaviour
from mereq_min.lab.runs.files import RunError, load_arrays
from mereq_min.lab.runs.records import bundle, find_runs
from mereq_min.lab.runs.run import RunConfig, run
from mereq_min.lab.show.film import film
from mereq_min.lab.show.plots import (
    COLOURS,
    METHOD_COLOURS,
    OTHER_COLOURS,
    draw_comparison,
    draw_features,
    draw_rate_panels,
    draw_returns,
    find_tasks,
    read_runs,
    save_figure,
)
from mereq_min.lab.show.published import read_published
from mereq_min.lab.show.tables import comparison_table, iterations_table, outcomes_table
from mereq_min.methods import METHODS, RECORDED_METHODS
from mereq_min.metrics import THRESHOLDS, samples_interval
from mereq_min.policies import TabularPolicy, UniformPolicy
from mereq_min.rollout import rollout

LOOP = LoopConfig(iterations=2, steps_per_iteration=60)
SHOWN = ("MEReQ", "HG-DAgger-FT")


@pytest.fixture(name="task", scope="module")
def _task():
    return load_task("carpet")


@pytest.fixture(name="root", scope="module")
def _root(task, tmp_path_factory):
    """Two methods, two seeds, and a third that has not finished."""
    root = tmp_path_factory.mktemp("runs")
    for method in SHOWN:
        for seed in range(2):
            run(task, RunConfig("carpet", method, seed, LOOP), root)
    path = run(task, RunConfig("carpet", "MEReQ", 2, LOOP), root)
    rows = (path / "iterations.jsonl").read_text().splitlines()
    (path / "iterations.jsonl").write_text(rows[0] + "\n")
    return root


# --- Rates and samples -----------------------------------------------------------------------------------


def make_rows(rates, samples):
    return [
        {"iteration": i + 1, "intervention_rate": rate, "expert_samples": count}
        for i, (rate, count) in enumerate(zip(rates, samples, strict=True))
    ]


def dots(ax):
    """Where each method's dot and cross stand, and whether they are hollow."""
    found = {}
    for line in ax.lines:
        method = list(METHOD_COLOURS)[int(line.get_ydata()[0])]
        if line.get_marker() in ("o", "x"):
            hollow = line.get_markerfacecolor() == "white"
            found[method, line.get_marker()] = (float(line.get_xdata()[0]), hollow)
    return found


def test_only_finished_runs_are_drawn_from_folders_or_their_bundle(root, tmp_path):
    runs = read_runs(root, "carpet")
    assert {method: len(each) for method, each in runs.items()} == dict.fromkeys(SHOWN, 2)
    assert all(len(rows) == 2 for each in runs.values() for rows in each)
    bundle(find_runs(root / "carpet"), tmp_path / "carpet.jsonl.gz")
    assert read_runs(tmp_path, "carpet") == runs
    assert read_runs(tmp_path, "lanes") == {}


def test_tasks_are_found_those_of_the_paper_first(root, tmp_path):
    assert find_tasks(root) == ["carpet"]
    for name in ("bottle", "zoo", "aisle", "highway"):
        bundle([], tmp_path / f"{name}.jsonl.gz")
    assert find_tasks(tmp_path) == ["highway", "bottle", "aisle", "zoo"]


def test_rates_and_samples_are_those_of_the_metrics():
    runs = {
        "MEReQ": [make_rows([0.4, 0.12, 0.02], [40, 52, 54]), make_rows([0.3, 0.2, 0.1], [30, 50, 60])],
        "IWR-FT": [make_rows([0.4, 0.3, 0.2], [40, 70, 90]), make_rows([0.2, 0.2, 0.2], [20, 40, 60])],
    }
    samples = draw_comparison({"carpet": runs}).axes
    assert samples[0].get_title() == "carpet\n(2 seeds)"
    for ax, threshold in zip(samples, THRESHOLDS, strict=True):
        found = dots(ax)
        assert found.keys() == {(method, "o") for method in runs}
        for method in runs:
            interval, censored = samples_interval(runs[method], threshold)
            assert found[method, "o"] == (interval.mean, censored > 0)
    # By hand: the first run of MEReQ is below 0.05 after 54, the second never, having used 60.
    assert dots(samples[0])["MEReQ", "o"] == (57, True)
    assert dots(samples[2])["MEReQ", "o"] == ((52 + 60) / 2, False)
    assert [text.get_text() for ax in samples for text in ax.texts] == ["1", "2", "1", "2", "2"]


def test_each_panel_of_rates_shows_one_method_among_the_others():
    runs = {
        "MEReQ": [make_rows([0.4, 0.12, 0.02], [40, 52, 54]), make_rows([0.3, 0.2, 0.1], [30, 50, 60])],
        "IWR-FT": [make_rows([0.4, 0.3, 0.2], [40, 70, 90]), make_rows([0.2, 0.2, 0.2], [20, 40, 60])],
    }
    means = {"MEReQ": [0.35, 0.16, 0.06], "IWR-FT": [0.3, 0.25, 0.2]}
    panels = draw_rate_panels({"carpet": runs, "lanes": {"IWR-FT": runs["IWR-FT"]}}).axes
    assert [ax.get_title() for ax in panels] == ["MEReQ", "IWR-FT", "", ""]
    for ax, method, other in zip(panels, means, reversed(means), strict=False):
        grey, own, _ = ax.lines
        np.testing.assert_allclose(grey.get_ydata(), means[other])
        np.testing.assert_allclose(own.get_ydata(), means[method])
        assert own.get_color() == METHOD_COLOURS[method]
    assert panels[0].get_ylim() == panels[1].get_ylim()
    assert panels[0].get_ylim()[1] > 0.4, "the interval fits"


def test_a_run_that_stopped_early_keeps_its_last_rate():
    runs = {"MEReQ": [make_rows([0.4, 0.04], [40, 42]), make_rows([0.4, 0.3, 0.2], [40, 70, 90])]}
    (panel,) = draw_rate_panels({"carpet": runs}).axes
    np.testing.assert_allclose(panel.lines[0].get_ydata(), [0.4, 0.17, 0.12])


@pytest.mark.parametrize("draw", [draw_comparison, draw_rate_panels])
def test_one_seed_is_drawn_without_an_interval(draw, tmp_path):
    figure = draw({"carpet": {"MEReQ": [make_rows([0.4, 0.3], [40, 70])]}})
    save_figure(figure, tmp_path / "one.png")
    with Image.open(tmp_path / "one.png") as picture:
        assert picture.format == "PNG"


def test_the_papers_numbers_stand_beside_its_tasks_alone():
    published = read_published()
    assert published.keys() == {"highway", "bottle", "eraser", "pillow"}
    assert published["bottle"]["MEReQ", 0.05] == 1687
    assert all(len(samples) == 6 * len(THRESHOLDS) for samples in published.values())
    runs = {"MEReQ": [make_rows([0.4, 0.3], [40, 70])] * 2}
    axes = np.reshape(draw_comparison({"bottle": runs, "carpet": runs}).axes, (3, 2))
    for row, threshold in zip(axes, THRESHOLDS, strict=True):
        crosses = {method: x for (method, marker), (x, _) in dots(row[0]).items() if marker == "x"}
        assert crosses == {
            method: x for (method, delta), x in published["bottle"].items() if delta == threshold
        }
        assert dots(row[1]).keys() == {("MEReQ", "o")}


# --- Behaviour -------------------------------------------------------------------------------------------


def test_rolled_out_episodes_are_whole(task):
    """The prior's episodes of a gridworld last until the time limit."""
    episodes = roll_out(task, task.prior, 3, seed=5)
    np.testing.assert_array_equal(episodes.episode, np.repeat(np.arange(3), task.horizon))
    steps = rollout(task, task.prior, None, 3 * task.horizon, np.random.default_rng(5))
    np.testing.assert_array_equal(episodes.features, steps.features)
    by_hand = [(steps.features[steps.episode == e] @ task.oracle.full_weights).sum() for e in range(3)]
    np.testing.assert_allclose(episodes.returns(task.oracle.full_weights), by_hand, rtol=1e-12)


def test_episodes_that_end_early_are_counted_not_steps(task):
    class Short:
        """Ends its episodes after 1, 2, 3, ... steps, far before the horizon."""

        def __getattr__(self, name):
            return getattr(task, name)

        def make_env(self):
            env = task.make_env()
            step, lengths = env.step, iter(range(1, 1000))
            left = next(lengths)

            def shortened(action):
                nonlocal left
                state, reward, _, truncated, info = step(action)
                left -= 1
                ended = left == 0
                left = left or next(lengths)
                return state, reward, ended, truncated, info

            env.step = shortened
            return env

    np.testing.assert_array_equal(
        roll_out(Short(), task.prior, 4, seed=0).episode, np.repeat(range(4), range(1, 5))
    )


def test_mean_features_and_returns_of_episodes_are_the_exact_ones(task):
    """Within four standard errors over episodes, for the expert of a gridworld."""
    episodes = roll_out(task, task.oracle.expert_policy, 300, seed=0)
    returns = episodes.returns(task.oracle.full_weights)
    exact = task.evaluate(task.oracle.expert_policy)["expert_return"]
    assert abs(returns.mean() - exact) < 4 * returns.std() / np.sqrt(300)
    visits = visitation(task.mdp, task.oracle.expert_policy.log_policy, task.horizon, 1.0).ravel()
    means = episodes.features.reshape(300, task.horizon, -1).mean(axis=1)
    exact_means = visits @ task.mdp.features.reshape(len(visits), -1) / visits.sum()
    errors = means.std(axis=0) / np.sqrt(300)
    assert (np.abs(means.mean(axis=0) - exact_means) < 4 * errors + 1e-12).all()


def read_all(task, folder, n_episodes=2):
    found = {}
    for label, episodes in read_behaviour(task, folder, n_episodes):
        found.setdefault(label, []).append(episodes)
    return found


def test_every_finished_run_is_rolled_out_once_and_then_read(task, root, monkeypatch):
    first = read_all(task, root / "carpet")
    assert {label: len(seeds) for label, seeds in first.items()} == dict.fromkeys(
        ("prior", "expert", *SHOWN), 2
    )
    assert list(first)[:2] == ["prior", "expert"]
    assert not np.array_equal(first["prior"][0].features, first["prior"][1].features)
    with monkeypatch.context() as patch:
        patch.setattr(
            episodes_module, "rollout", lambda *arguments, **options: pytest.fail("rolled out again")
        )
        again = read_all(task, root / "carpet")
    for label, seeds in first.items():
        for episodes, same in zip(seeds, again[label], strict=True):
            np.testing.assert_array_equal(episodes.features, same.features)
            np.testing.assert_array_equal(episodes.episode, same.episode)
    assert all(
        len(episodes.returns(task.oracle.full_weights)) == 3
        for episodes in read_all(task, root / "carpet", 3)["MEReQ"]
    )


def test_saved_episodes_come_back_to_seven_digits(task, root, tmp_path):
    found = read_all(task, root / "carpet")
    save_behaviour(tmp_path / "episodes", found)
    back = load_behaviour(tmp_path / "episodes")
    assert list(back) == list(found)
    for label, seeds in found.items():
        for episodes, same in zip(seeds, back[label], strict=True):
            np.testing.assert_allclose(same.features, episodes.features, rtol=1e-6)
            np.testing.assert_array_equal(same.episode, episodes.episode)


def test_episodes_of_another_policy_and_damaged_ones_are_rolled_out_anew(task, tmp_path):
    for method in SHOWN:
        run(task, RunConfig("carpet", method, 0, LOOP), tmp_path)
    found = read_all(task, tmp_path / "carpet", 5)
    other, kept = (tmp_path / f"carpet/{method}/seed0.episodes.safetensors" for method in SHOWN)
    whole = kept.read_bytes()
    for wrong in (other.read_bytes(), whole[:-1] + bytes([whole[-1] ^ 1]), b"", whole[:-9]):
        kept.write_bytes(wrong)
        again = read_all(task, tmp_path / "carpet", 5)
        for method in SHOWN:
            np.testing.assert_array_equal(again[method][0].features, found[method][0].features)
        assert kept.read_bytes() == whole


def test_runs_of_another_task_definition_are_refused(task, root):
    edited = dataclasses.replace(task, temperature=2 * task.temperature)
    with pytest.raises(RunError, match="was run before the task carpet was changed; run it again"):
        read_all(edited, root / "carpet")


@pytest.fixture(name="known", scope="module")
def _known(task):
    """Episodes of which everything is known: feature k of every step of a policy is a constant."""
    K = len(task.feature_names)
    levels = {"prior": 0.0, "expert": 1.0, "MEReQ": 0.75, "IWR-FT": 0.25}
    return {
        label: [Episodes(np.full((6, K), level), np.repeat([0, 1], [2, 4])) for _ in range(2)]
        for label, level in levels.items()
    }


def test_a_feature_of_few_values_is_drawn_as_bars_at_them(task, known):
    figure = draw_features(task, known)
    assert [ax.get_title() for ax in figure.axes] == list(task.feature_names)
    for ax in figure.axes:
        assert not ax.collections, "there is no density of four values"
        assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == list(known)
        tall = [bar for bar in ax.patches if bar.get_height() > 0]
        for bar, (label, seeds) in zip(tall, known.items(), strict=True):
            assert to_rgba(bar.get_facecolor()) == to_rgba(COLOURS[label])
            assert bar.get_x() + bar.get_width() / 2 == pytest.approx(seeds[0].features[0, 0])
        marks = [line.get_xdata()[0] for line in ax.lines if line.get_marker() == "|"]
        assert marks == [0.0, 1.0, 0.75, 0.25]
        assert [line.get_xdata()[0] for line in ax.lines if line.get_linestyle() == ":"] == [1.0]


def test_bars_are_as_high_as_the_shares_of_their_values(task):
    rng = np.random.default_rng(0)
    K = len(task.feature_names)
    values = rng.choice([0.0, 0.6, 1.0], (500, K), p=[0.5, 0.2, 0.3])
    known = {who: [Episodes(values, np.zeros(500, int))] for who in ("prior", "expert")}
    ax = draw_features(task, known).axes[1]
    shares = np.array([(values[:, 1] == level).mean() for level in (0.0, 0.6, 1.0)])
    np.testing.assert_allclose([bar.get_height() for bar in ax.patches[:3]], 0.9 * shares / shares.max())


def test_a_distribution_is_the_smoothed_histogram_of_all_seeds(task):
    """Against the kernel density written out for each place, on features with many values."""
    rng = np.random.default_rng(0)
    K = len(task.feature_names)
    seeds = [Episodes(rng.beta(2, 5, (50, K)), np.zeros(50, int)) for _ in range(3)]
    ax = draw_features(task, {"prior": seeds, "expert": seeds}).axes[1]
    values = np.concatenate([episodes.features[:, 1] for episodes in seeds])
    x, y = ax.collections[0].get_paths()[0].vertices.T
    expected = np.array([np.exp(-0.5 * ((place - values) / (0.02 * np.ptp(x))) ** 2).sum() for place in x])
    outline = y > 0
    np.testing.assert_allclose(y[outline], (0.9 * expected / expected.max())[outline], atol=1e-2)


def make_record(method, seed, rates, success, expert_return):
    rows = make_rows(rates, list(range(100, 100 + 10 * len(rates), 10)))
    for row in rows:
        row |= {"success": success, "expert_return": expert_return}
    return {"config": {"method": method, "seed": seed}, "iterations": rows}


def test_what_lasts_is_told_by_pairs_and_by_the_way_to_the_expert():
    """Seed 1's first crossing was luck; MEReQ needs 20 samples more on seed 0 and 10 more on seed 1."""
    records = [
        make_record("MEReQ", 0, [0.4, 0.3, 0.04, 0.03], 0.5, -6.0),
        make_record("MEReQ", 1, [0.4, 0.04, 0.3, 0.04], 0.7, -7.0),
        make_record("MEReQ-R", 0, [0.04, 0.03, 0.02, 0.01], 1.0, -3.0),
        make_record("MEReQ-R", 1, [0.4, 0.3, 0.04, 0.02], 1.0, -2.0),
        make_record("IWR-FT", 2, [0.4, 0.3, 0.3, 0.4], 1.0, -10.0),
    ]
    records[1]["iterations"][1]["remeasured_rate"] = 0.2
    table = outcomes_table("carpet", records, (-10.0, -2.0))
    cells = {column.header: list(column.cells) for column in table.columns}
    assert cells["method"] == ["MEReQ", "IWR-FT", "MEReQ-R"]
    assert [cell.split(" [")[0] for cell in cells["confirmed"]] == ["125", "130 c1", "110"]
    assert cells["stays below"][0] == "125 [120, 130] c1"
    assert [cell.split(" [")[0] for cell in cells["minus MEReQ"]] == ["-", "-", "-15"]
    assert cells["minus MEReQ"][2] == "-15 [-79, +49]"  # Student's interval of two pairs
    assert cells["success"] == ["0.60", "1.00", "1.00"]
    assert cells["norm. return"] == ["0.44", "0.00", "0.94"]
    unknown = outcomes_table("carpet", records, None)
    assert list(unknown.columns[-1].cells) == ["-"] * 3


def test_returns_are_those_under_the_experts_reward(task, known):
    figure = draw_returns([(task, known), (task, known)])
    for ax in figure.axes:
        total = task.oracle.full_weights.sum()
        expected = {label: 3 * total * seeds[0].features[0, 0] for label, seeds in known.items()}
        marks = [line.get_xdata()[0] for line in ax.lines if line.get_marker() == "|"]
        np.testing.assert_allclose(marks, list(expected.values()), atol=1e-12)  # 2 and 4 steps: 3 in the mean
        assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == list(known)
        heights = [bar.get_height() for bar in ax.patches if bar.get_height() > 0]
        np.testing.assert_allclose(heights, [0.9] + 6 * [0.9])  # two returns for each level but 0


def test_the_colours_name_every_method():
    assert tuple(METHOD_COLOURS) == RECORDED_METHODS
    assert [*METHOD_COLOURS, *OTHER_COLOURS] == list(METHODS)
    assert len(set(COLOURS.values())) == len(METHODS) + 2


# --- Command ---------------------------------------------------------------------------------------------


def test_the_command_draws_all_there_is_and_the_same_bytes_again(root, tmp_path, capsys):
    written = []
    for out in ("first", "second"):
        assert main(["figures", "--runs", str(root), "--out", str(tmp_path / out), "--episodes", "2"]) == 0
        names = ["rates", "comparison", "features-carpet", "returns"]
        assert capsys.readouterr().out.splitlines() == [
            f"picture: {tmp_path / out / name}.png" for name in names
        ]
        written.append([(tmp_path / out / f"{name}.png").read_bytes() for name in names])
    assert written[0] == written[1]


def test_bundles_alone_give_the_comparison(root, tmp_path, capsys):
    bundle(find_runs(root / "carpet"), tmp_path / "carpet.jsonl.gz")
    assert main(["figures", "--runs", str(tmp_path), "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"picture: {tmp_path / name}.png" for name in ("rates", "comparison")
    ]


def test_bundles_with_recorded_episodes_give_all(task, root, tmp_path, capsys, monkeypatch):
    bundle(find_runs(root / "carpet"), tmp_path / "carpet.jsonl.gz")
    save_behaviour(tmp_path / "carpet.episodes.safetensors", read_all(task, root / "carpet"))
    monkeypatch.setattr(
        episodes_module, "rollout", lambda *arguments, **options: pytest.fail("rolled out again")
    )
    assert main(["figures", "--runs", str(tmp_path), "--out", str(tmp_path)]) == 0
    assert "features-carpet.png" in capsys.readouterr().out


def test_a_task_without_an_oracle_is_drawn_without_expert_and_returns(task, tmp_path, capsys, monkeypatch):
    (tmp_path / "alone.py").write_text(
        "import dataclasses, numpy as np\n"
        "from gridworlds import TASKS\n"
        "def make():\n"
        "    return dataclasses.replace(TASKS['carpet'](), name='alone', oracle=None)\n"
        "class Expert:\n"
        "    patience = 1\n"
        "    def __init__(self, task):\n"
        "        self.prior = task.prior\n"
        "    def reset(self, rng):\n"
        "        self.rng = rng\n"
        "    def intervene(self, state, policy_action):\n"
        "        return np.int64(4) if self.rng.random() < 0.3 else None\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", ["", *sys.path])
    short = ["--iterations", "2", "--steps-per-iteration", "60"]
    align = ["align", "alone:make", "--expert", "alone:Expert", "--method", "MEReQ-L", *short]
    assert main(align) == 0
    printed = capsys.readouterr().out
    assert "Before and after" in printed
    assert not any(word in printed for word in ("KL", "true", "expert\u2019s", "STARC", "JS divergence"))
    path = tmp_path / "runs/alone-make/MEReQ-L/seed0"
    with Image.open(path / "film.gif") as pictures:
        frame = film(task, task.prior, "prior", 0)[0]
        assert pictures.size == (2 * frame.shape[1], frame.shape[0])  # no expert
    assert main(["show", "runs/alone-make/MEReQ-L/seed0"]) == 2
    assert "pass --task alone:make" in capsys.readouterr().err
    assert main(["show", "runs/alone-make/MEReQ-L/seed0", "--task", "alone:make"]) == 0
    assert capsys.readouterr().out == printed
    draw = ["figures", "--runs", "runs", "--out", "pictures", "--episodes", "2"]
    assert main(draw) == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines() == ["picture: pictures/rates.png", "picture: pictures/comparison.png"]
    assert "pass --task alone:make to import it" in printed.err
    assert main([*draw, "--tasks", "alone:make"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "picture: pictures/rates.png",
        "picture: pictures/comparison.png",
        "picture: pictures/features-alone-make.png",
    ]
    found = load_behaviour_labels(path.parents[1])
    assert found == {"prior", "MEReQ-L"}
    assert main(align[:2] + align[4:]) == 2
    assert "the task alone has no oracle to simulate an expert with" in capsys.readouterr().err


def load_behaviour_labels(folder):
    return {file.parent.name for file in folder.glob("*/seed0.episodes.safetensors")}


def test_behaviour_of_another_prior_is_drawn_with_that_prior(task, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    short = ["--iterations", "2", "--steps-per-iteration", "60"]
    assert main(["align", "carpet", "--prior", "random", "--method", "MEReQ-L", *short]) == 0
    capsys.readouterr()
    assert main(["figures", "--runs", "runs", "--out", "pictures", "--episodes", "2"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "picture: pictures/rates.png",
        "picture: pictures/comparison.png",
        "picture: pictures/features-carpet-random.png",
        "picture: pictures/returns.png",  # the expert is the task's own, whose full reward is known
    ]
    drawn = Episodes(
        **{
            name: array
            for name, array in load_arrays(
                tmp_path / "runs/carpet-random/prior/seed0.episodes.safetensors"
            ).items()
            if name not in ("origin", "sha256")
        }
    )
    uniform = UniformPolicy(task.make_env().action_space)
    np.testing.assert_array_equal(
        drawn.features, roll_out(task, TabularPolicy(tabulate(task.mdp, uniform)), 2, 0).features
    )


def test_returns_need_the_experts_full_weights(task, known):
    vague = dataclasses.replace(task, oracle=dataclasses.replace(task.oracle, full_weights=None))
    with pytest.raises(ValueError, match="full reward on carpet are not known"):
        draw_returns([(vague, known)])


def test_comparisons_without_an_oracle_have_no_kl_column():
    rows = make_rows([0.4, 0.3], [40, 70])
    records = [{"config": {"method": "MEReQ"}, "iterations": rows}]
    headers = [column.header for column in comparison_table("carpet", records).columns]
    assert headers[-1] == "last rate"
    rows[-1]["kl_to_expert"] = 0.25
    table = comparison_table("carpet", records)
    assert table.columns[-1].header == "KL to expert"
    assert list(table.columns[-1].cells) == ["0.250"]


def test_a_run_says_in_a_word_how_each_solve_for_theta_ended():
    rows = make_rows([0.4, 0.3, 0.2], [40, 70, 90])
    assert "solve for" not in str([column.header for column in iterations_table(rows, "it").columns])
    rows[0]["converged"], rows[1]["converged"] = True, False
    (column,) = (
        column for column in iterations_table(rows, "it").columns if "solve for" in str(column.header)
    )
    assert list(column.cells) == ["converged", "unfinished", "none"]
