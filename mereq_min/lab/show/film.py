"""Films of policies, with the expert's takeovers marked."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from typing import Any

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

LONGEST_FILM = 100
"""Most frames of a film, to bound its memory and its time [frames]."""
WIDEST = 400
"""Wider pictures are scaled down to this, so that three fit side by side [pixels]."""
SLOWEST, LONGEST_SHOW = 4.0, 12.5
"""Lowest frame rate of a film, and the longest it may play; the rate rises to keep within it [1/s, s]."""


def film(task: Task, policy: Policy, title: str, seed: int, *, watched: bool = True) -> list[Frame]:
    """Film as many steps as the longest episode has, on the reference simulator.

    The colour of the border says who is in control, the title how often it was the expert.

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
    env = task.make_env("rgb_array", reference=True)
    oracle = task.oracle if watched else None
    expert = None if oracle is None else oracle.make_expert()
    stride = -(-task.horizon // LONGEST_FILM)
    frames: list[Frame] = []
    controlled: list[bool] = []

    def take(intervened: bool) -> None:
        controlled.append(intervened)
        if len(controlled) % stride:
            return
        colour = EXPERT_COLOUR if intervened else POLICY_COLOUR
        count = f": expert in control {sum(controlled)} of {len(controlled)} steps"
        frames.append(_decorate(env.render(), title if expert is None else title + count, colour))

    rollout(task, policy, expert, task.horizon, rngs[0], expert_rng=rngs[1], env=env, on_step=take)
    return frames


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
    # the file larger. The colours of the borders are added as they are, since a rare one could be lost.
    sample = Image.fromarray(np.concatenate([np.asarray(image)[::3, ::3] for image in images])).quantize(62)
    palette = Image.new("P", (1, 1))
    palette.putpalette([*(sample.getpalette() or [])[: 3 * 62], *POLICY_COLOUR, *EXPERT_COLOUR])
    small = [image.quantize(palette=palette, dither=Image.Dither.NONE) for image in images]
    file = BytesIO()
    pause = round(1000 / max(SLOWEST, length / LONGEST_SHOW))  # [ms]
    durations = [pause] * (length - 1) + [2000]  # the last frame rests
    small[0].save(file, "GIF", save_all=True, append_images=small[1:], duration=durations, loop=0)
    return file.getvalue()


def _decorate(picture: Any, title: str, colour: tuple[int, int, int]) -> Frame:
    """Put a title above a picture and a border in the controller's colour around it."""
    image = Image.fromarray(np.asarray(picture, dtype=np.uint8))
    if image.width > WIDEST:
        image = image.resize((WIDEST, round(image.height * WIDEST / image.width)), Image.Resampling.LANCZOS)
    canvas = Image.new("RGB", (image.width + 2 * BORDER, image.height + TITLE + BORDER), colour)
    canvas.paste(image, (BORDER, TITLE))
    font = ImageFont.load_default(size=min(14, max(9, canvas.width // 24)))
    ImageDraw.Draw(canvas).text((BORDER, TITLE / 2), title, fill="white", font=font, anchor="lm")
    return np.asarray(canvas)
