"""Pictures say what happened: who was in control in each frame, and the numbers of the run in its curve."""

import dataclasses
from io import BytesIO

import gymnasium as gym
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageSequence

from mereq_min import LoopConfig
from mereq_min.lab.plugins import load_task
from mereq_min.lab.runs.records import read_rows
from mereq_min.lab.runs.run import RunConfig, run
from mereq_min.lab.show.film import BORDER, EXPERT_COLOUR, MOMENT, POLICY_COLOUR, TITLE, film, to_gif
from mereq_min.lab.show.plots import draw_curve
from mereq_min.rollout import rollout

GRIDWORLDS = ("carpet", "lanes", "shelf", "windy")


@pytest.fixture(name="task", scope="module")
def _task():
    return load_task("carpet")


@pytest.fixture(name="titles")
def _titles(monkeypatch):
    """Every text that is written into a picture."""
    written, real = [], ImageDraw.ImageDraw.text

    def text(self, place, words, **options):
        written.append(words)
        return real(self, place, words, **options)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", text)
    return written


class Recorder:
    """A task that remembers where its environment began, and the pictures that it showed."""

    def __init__(self, task):
        self.task, self.starts, self.pictures = task, [], []

    def __getattr__(self, name):
        return getattr(self.task, name)

    def make_env(self, render_mode=None, *, reference=False):
        assert render_mode == "rgb_array"
        env = self.task.make_env(render_mode, reference=reference)
        env.reset = remembering(env.reset, self.starts)
        env.render = remembering(env.render, self.pictures)
        return env


def remembering(function, returned):
    def call(*arguments, **options):
        returned.append(function(*arguments, **options))
        return returned[-1]

    return call


def colour_of_border(frame):
    """The one colour of a frame's border below the title."""
    sides = (frame[TITLE:, :BORDER], frame[TITLE:, -BORDER:], frame[-BORDER:])
    (colour,) = {tuple(pixel) for side in sides for pixel in side.reshape(-1, 3).tolist()}
    return colour


@pytest.mark.parametrize("seed", [0, 3])
def test_frames_are_marked_exactly_where_the_expert_controls(task, titles, seed):
    frames = film(task, task.prior, "prior", seed)
    rngs = [np.random.default_rng(stream) for stream in np.random.SeedSequence(seed).spawn(2)]
    expert = task.oracle.make_expert()
    steps = rollout(task, task.prior, expert, task.horizon, rngs[0], expert_rng=rngs[1])
    assert 0 < steps.is_intervention.sum() < task.horizon
    colours = [EXPERT_COLOUR if controls else POLICY_COLOUR for controls in steps.is_intervention]
    assert [colour_of_border(frame) for frame in frames] == colours
    counts = np.cumsum(steps.is_intervention)
    words = ["EXPERT IN CONTROL," if controls else "taken over in" for controls in steps.is_intervention]
    assert titles == [
        f"prior: {who} {count} of {i} steps"
        for i, (who, count) in enumerate(zip(words, counts, strict=True), start=1)
    ]


def test_a_frame_shows_the_environment_after_each_step_inside_its_border(task):
    recorder = Recorder(task)
    frames = film(recorder, task.prior, "prior", 0)
    assert len(frames) == len(recorder.pictures) == task.horizon
    for frame, picture in zip(frames, recorder.pictures, strict=True):
        height, width = picture.shape[:2]
        assert frame.shape == (height + TITLE + BORDER, width + 2 * BORDER, 3)
        np.testing.assert_array_equal(frame[TITLE:-BORDER, BORDER:-BORDER], picture)


def test_unwatched_the_policy_controls_every_frame(task, titles):
    frames = film(task, task.prior, "alone", 0, watched=False)
    assert {colour_of_border(frame) for frame in frames} == {POLICY_COLOUR}
    assert set(titles) == {"alone"}


def test_without_an_oracle_nobody_watches(task, titles):
    alone = dataclasses.replace(task, oracle=None)
    frames = film(alone, task.prior, "prior", 0)
    assert {colour_of_border(frame) for frame in frames} == {POLICY_COLOUR}
    assert set(titles) == {"prior"}


class Done(gym.Wrapper):
    """Says that the task is done after some of the steps of an episode."""

    def __init__(self, env, done):
        super().__init__(env)
        self.done, self.t = done, 0

    def step(self, action):
        *result, info = self.env.step(action)
        self.t += 1
        return *result, {**info, "success": self.t in self.done}


@pytest.mark.parametrize(
    ("done", "length"), [((3, *range(5, 99)), 4 + MOMENT), (range(10, 10 + MOMENT), None), ((), None)]
)
def test_a_film_ends_a_moment_after_the_task_is_done_for_good(task, done, length):
    recorder = Recorder(task)
    whole = film(recorder, task.prior, "prior", 0)
    recorder.make_env = lambda mode: Done(task.make_env(mode), done)
    cut = film(recorder, task.prior, "prior", 0)
    assert len(cut) == (length or task.horizon)
    np.testing.assert_array_equal(cut, whole[: len(cut)])


@pytest.mark.parametrize("name", GRIDWORLDS)
def test_titles_fit_into_the_picture(name):
    task = load_task(name)
    last = film(task, task.prior, "aligned", 0)[-1]
    bare = (last[:TITLE] == colour_of_border(last)).all(axis=(0, 2))  # columns without a letter
    assert not bare.all()
    assert bare[:2].all()
    assert bare[-2:].all()


def test_the_same_seed_shows_every_policy_in_the_same_situation(task):
    starts = []
    for seed in range(5):
        recorders = Recorder(task), Recorder(task)
        for recorder, policy in zip(recorders, (task.prior, task.oracle.expert_policy), strict=True):
            film(recorder, policy, "", seed, watched=False)
        first, second = (recorder.starts[0][0] for recorder in recorders)
        assert first == second
        starts.append(first)
    assert len(set(starts)) > 1


# --- GIF -------------------------------------------------------------------------------------------------


def block(height, width, *levels):
    """A film of plain frames of grey."""
    return [np.full((height, width, 3), level, dtype=np.uint8) for level in levels]


def read_gif(data):
    """Frames (height, width, 3), and how long each stands [ms]."""
    frames = [
        (np.array(f.convert("RGB")), f.info["duration"]) for f in ImageSequence.Iterator(open_gif(data))
    ]
    return [frame for frame, _ in frames], [duration for _, duration in frames]


def open_gif(data):
    return Image.open(BytesIO(data))


def test_films_run_side_by_side_and_a_shorter_one_stands_still_at_its_end():
    frames, durations = read_gif(to_gif([block(40, 60, 0, 200, 0), block(40, 60, 200, 0)]))
    assert durations == [250, 250, 2000]
    for frame, left, right in zip(frames, (0, 200, 0), (200, 0, 0), strict=True):
        assert frame.shape == (40, 120, 3)
        assert (frame[:, :60] == left).all()
        assert (frame[:, 60:] == right).all()


def test_wide_films_run_below_one_another():
    (frame, *_), _ = read_gif(to_gif([block(10, 60, 0), block(10, 60, 255)]))
    assert frame.shape == (20, 60, 3)
    assert (frame[:10] == 0).all()
    assert (frame[10:] == 255).all()


@pytest.mark.parametrize("name", GRIDWORLDS)
def test_the_film_of_a_gridworld_is_small_and_lasts_as_long_as_its_steps(name):
    task = load_task(name)
    policies = (task.prior, task.prior, task.oracle.expert_policy)
    data = to_gif([film(task, policy, "policy", 0) for policy in policies])
    assert len(data) < 2_000_000
    assert open_gif(data).info["loop"] == 0
    assert sum(read_gif(data)[1]) == 250 * (task.horizon - 1) + 2000


@pytest.mark.parametrize("name", GRIDWORLDS)
def test_takeovers_keep_their_colour_in_the_gif(name):
    task = load_task(name)
    frames = film(task, task.prior, "prior", 0)
    shown, _ = read_gif(to_gif([frames]))
    colours = {colour_of_border(frame) for frame in frames}
    assert len(colours) == 2
    for frame, picture in zip(frames, shown, strict=True):
        assert colour_of_border(picture) == colour_of_border(frame)


def test_a_rare_takeover_keeps_its_colour_among_many_others():
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 256, (60, 60, 3), dtype=np.uint8) for _ in range(20)]
    for frame, colour in zip(frames, [EXPERT_COLOUR] + [POLICY_COLOUR] * 19, strict=True):
        frame[:2] = colour
    shown, _ = read_gif(to_gif([frames]))
    assert (shown[0][:2] == EXPERT_COLOUR).all()
    assert (np.array(shown[1:])[:, :2] == POLICY_COLOUR).all()


def test_small_things_keep_their_colours_beside_a_large_table_with_many_shades():
    glass, goal = (26, 71, 36), (38, 140, 76)
    frames = []
    for i in range(10):
        shades = np.linspace(120, 220, 300 * 300).reshape(300, 300)[..., None] * [1.0, 0.95, 0.87]
        frame = shades.astype(np.uint8)
        frame[40:70, 20 + i : 30 + i], frame[80:83, 50:60] = glass, goal
        frames.append(frame)
    shown = np.array(read_gif(to_gif([frames]))[0], dtype=int)
    assert np.abs(shown[:, 40:70, 29] - glass).max() <= 8
    assert np.abs(shown[:, 81, 55] - goal).max() <= 8


# --- Curve -----------------------------------------------------------------------------------------------


@pytest.fixture(name="rows", scope="module")
def _rows(task, tmp_path_factory):
    config = RunConfig("carpet", "MEReQ", 0, LoopConfig(iterations=3, steps_per_iteration=80))
    return read_rows(run(task, config, tmp_path_factory.mktemp("runs")))


def dashed(axes):
    """Heights of the dashed lines from side to side."""
    return [line.get_ydata()[0] for line in axes.lines if line.get_linestyle() == "--"]


def test_the_curve_shows_the_rates_theta_and_its_standard_errors(task, rows):
    rows[1]["standard_errors"][1] = None
    figure = draw_curve(task, rows, "residual", "carpet, MEReQ, seed 0")
    left, right = figure.axes
    assert figure.get_suptitle() == "carpet, MEReQ, seed 0"
    np.testing.assert_array_equal(left.lines[0].get_xdata(), [1, 2, 3])
    np.testing.assert_array_equal(left.lines[0].get_ydata(), [row["intervention_rate"] for row in rows])
    assert dashed(left) == [0.05, 0.10, 0.15]
    assert [container.get_label() for container in right.containers] == list(task.feature_names)
    for k, container in enumerate(right.containers):
        line, _, (bars,) = container.lines
        np.testing.assert_array_equal(line.get_ydata(), [row["theta"][k] for row in rows])
        heights = [np.ptp(segment[:, 1]) / 2 for segment in bars.get_segments()]
        np.testing.assert_allclose(heights, [row["standard_errors"][k] or 0.0 for row in rows], atol=1e-12)
    np.testing.assert_array_equal(dashed(right), task.oracle.true_theta)


def test_a_full_reward_is_drawn_against_the_experts(task, rows):
    _, right = draw_curve(task, rows, "full", "").axes
    np.testing.assert_array_equal(dashed(right), task.oracle.full_weights)


def test_no_truth_is_drawn_where_none_is_known(task, rows):
    alone = dataclasses.replace(task, oracle=None)
    vague = dataclasses.replace(task, oracle=dataclasses.replace(task.oracle, full_weights=None))
    for unknown, reward in ((alone, "residual"), (alone, "full"), (vague, "full")):
        figure = draw_curve(unknown, rows, reward, "")
        assert dashed(figure.axes[1]) == []
        assert figure.legends[0].get_title().get_text() == ""
    assert len(dashed(draw_curve(vague, rows, "residual", "").axes[1])) == len(task.feature_names)


def test_imitation_has_rates_alone(task, rows):
    (left,) = draw_curve(task, rows, None, "").axes
    np.testing.assert_array_equal(left.lines[0].get_ydata(), [row["intervention_rate"] for row in rows])
