"""Films of policies, with the expert's takeovers marked."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from io import BytesIO
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from mereq_min.interfaces import Policy, Task
from mereq_min.rollout import rollout

Frame = NDArray[np.uint8]
"""RGB image (height, width, 3)."""

POLICY_COLOUR, EXPERT_COLOUR = (0, 114, 178), (213, 94, 0)
"""Colours (red, green, blue) of the border while the policy or the expert is in control."""
BORDER, TITLE = 6, 26
"""Width of the border, and height of the title above the picture [pixels]."""

MOMENT = 8
"""Steps for which a film goes on once the task is done [steps]."""
COLOURS = 126
"""Colours of a GIF beside those of the borders; with both, seven bits hold them."""
LONGEST_FILM = 100
"""Most frames of a film, to bound its memory and its time [frames]."""
WIDEST = 400
"""Wider pictures are scaled down to this, so that three fit side by side [pixels]."""
SLOWEST, LONGEST_SHOW = 4.0, 12.5
"""Lowest frame rate of a film, and the longest it may play; the rate rises to keep within it [1/s, s]."""


def film(task: Task, policy: Policy, title: str, seed: int, *, watched: bool = True) -> list[Frame]:
    """Film as many steps as the longest episode has, or until the task has been done for a moment.

    The colour of the border and the title say who is in control, and how often it was the expert. A task is
    done where its environment says so (`info["success"]`), as it may in the middle of an episode.

    Args:
        task: gives the environment.
        policy: proposes the actions.
        title: written above the picture.
        seed: of the episode; with the same seed, several policies are shown in the same situation.
        watched: whether the simulated expert takes over where it sees fit, if the task has an oracle.

    Returns:
        RGB images (height, width, 3): one for each step or, if there are more than `LONGEST_FILM`, for every
        second, third, ... step.
    """
    rngs = [np.random.default_rng(stream) for stream in np.random.SeedSequence(seed).spawn(2)]
    env = _Success(task.make_env("rgb_array"))
    oracle = task.oracle if watched else None
    expert = None if oracle is None else oracle.make_expert()
    stride = -(-task.horizon // LONGEST_FILM)
    frames: list[Frame] = []
    controlled: list[bool] = []

    def take(intervened: bool) -> None:
        controlled.append(intervened)
        if len(controlled) % stride or env.longest > MOMENT:
            return
        colour = EXPERT_COLOUR if intervened else POLICY_COLOUR
        who = "EXPERT IN CONTROL," if intervened else "taken over in"
        count = f": {who} {sum(controlled)} of {len(controlled)} steps"
        frames.append(decorate(env.render(), title if expert is None else title + count, colour))

    rollout(task, policy, expert, task.horizon, rngs[0], expert_rng=rngs[1], env=env, on_step=take)
    return frames


class _Success(gym.Wrapper[Any, Any, Any, Any]):
    """Counts for how many steps on end the task has been done, and what the most was so far."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self.streak = self.longest = 0

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Take a step."""
        result = super().step(action)
        self.streak = self.streak + 1 if result[4].get("success", False) else 0
        self.longest = max(self.longest, self.streak)
        return result


def to_gif(films: Sequence[list[Frame]]) -> bytes:
    """Join films side by side into the bytes of a GIF file; shorter ones hold their last frame."""
    height, width = films[0][0].shape[:2]
    axis = 0 if width > 2 * height else 1  # wide pictures are stacked
    length = max(len(film) for film in films)
    images = [
        Image.fromarray(np.concatenate([film[min(i, len(film) - 1)] for film in films], axis=axis))
        for i in range(length)
    ]
    # All frames share one palette, made from all of them: a palette for each would make colours flicker and
    # the file larger. An octree keeps the colours of small things, such as a bottle, which a median cut gives
    # up for more shades of a large table.
    sample = Image.fromarray(np.concatenate([np.asarray(image)[::3, ::3] for image in images]))
    adapted = sample.quantize(COLOURS, Image.Quantize.FASTOCTREE).getpalette() or []
    colours = np.array([*adapted[: 3 * COLOURS], *POLICY_COLOUR, *EXPERT_COLOUR]).reshape(-1, 3)
    for colour in (POLICY_COLOUR, EXPERT_COLOUR):  # Pillow would mix borders up with colours close to theirs
        colours[np.abs(colours - colour).max(axis=1) < 16] = colour
    palette = Image.new("P", (1, 1))
    palette.putpalette(colours.ravel().tolist())
    small = [image.quantize(palette=palette, dither=Image.Dither.NONE) for image in images]
    file = BytesIO()
    pause = round(1000 / max(SLOWEST, length / LONGEST_SHOW))  # [ms]
    durations = [pause] * (length - 1) + [2000]  # the last frame rests
    small[0].save(file, "GIF", save_all=True, append_images=small[1:], duration=durations, loop=0)
    return file.getvalue()


def decorate(picture: Any, title: str, colour: tuple[int, int, int]) -> Frame:
    """Put a title above a picture and a border in the controller's colour around it."""
    image = Image.fromarray(np.asarray(picture, dtype=np.uint8))
    if image.width > WIDEST:
        image = image.resize((WIDEST, round(image.height * WIDEST / image.width)), Image.Resampling.HAMMING)
    canvas = Image.new("RGB", (image.width + 2 * BORDER, image.height + TITLE + BORDER), colour)
    canvas.paste(image, (BORDER, TITLE))
    font = _load_font(min(14, max(9, canvas.width // 24)))
    ImageDraw.Draw(canvas).text((BORDER, TITLE / 2), title, fill="white", font=font, anchor="lm")
    return np.asarray(canvas)


@cache
def _load_font(size: int) -> Any:
    return ImageFont.load_default(size=size)
