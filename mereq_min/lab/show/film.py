"""Pictures of a run: its curve, and a film of prior, aligned policy and expert with takeovers marked."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from mereq_min.experts import Imperfections
from mereq_min.interfaces import Policy, Task
from mereq_min.rollout import rollout

Frame = NDArray[np.uint8]

POLICY_COLOUR, EXPERT_COLOUR = (0, 114, 178), (213, 94, 0)
BORDER, TITLE = 6, 26  # [pixels]

LONGEST_FILM = 100
"""Most frames of a film, so that neither memory nor patience runs out [frames]."""
WIDEST = 400
"""Pictures wider than this are made smaller: three of them fit beside one another [pixels]."""
SLOWEST, LONGEST_SHOW = 4.0, 12.5
"""Frames a second of a film, more where it would take longer than this [1/s, s]."""


def film(task: Task, policy: Policy, title: str, seed: int, *, watched: bool = True) -> list[Frame]:
    """Film one time limit's worth of steps on the reference simulator.

    The border says who is in control, the title line how often it was the expert.

    Args:
        task: what is done.
        policy: who acts.
        title: written over the picture.
        seed: of the episode; the same for several policies shows them in the same situation.
        watched: whether the task's simulated expert takes over where it sees fit.

    Returns:
        RGB images (height, width, 3), one a step or, in episodes longer than `LONGEST_FILM`, one in a few.
    """
    rngs = [np.random.default_rng(stream) for stream in np.random.SeedSequence(seed).spawn(2)]
    env = task.make_env("rgb_array", reference=True)
    stride = -(-task.horizon // LONGEST_FILM)
    frames: list[Frame] = []
    controlled: list[bool] = []

    def take(intervened: bool) -> None:
        controlled.append(intervened)
        if len(controlled) % stride:
            return
        count = f": expert in control {sum(controlled)} of {len(controlled)} steps" if watched else ""
        frames.append(_decorate(env.render(), title + count, EXPERT_COLOUR if intervened else POLICY_COLOUR))

    expert = task.make_expert(rngs[1], Imperfections()) if watched else None
    rollout(task, policy, expert, task.horizon, rngs[0], env=env, on_step=take)
    return frames


def to_gif(films: Sequence[list[Frame]]) -> bytes:
    """Show films side by side, the shorter ones standing still at their end; returns a GIF file's bytes."""
    height, width = films[0][0].shape[:2]
    axis = 0 if width > 2 * height else 1  # wide pictures go below one another
    length = max(len(film) for film in films)
    images = [
        Image.fromarray(np.concatenate([film[min(i, len(film) - 1)] for film in films], axis=axis))
        for i in range(length)
    ]
    # One palette for all frames, from all of them, since the first has not every colour: one for each would
    # make colours flicker and the file larger. The borders' colours stand in it as they are, however rare.
    sample = Image.fromarray(np.concatenate([np.asarray(image)[::3, ::3] for image in images])).quantize(62)
    palette = Image.new("P", (1, 1))
    palette.putpalette([*(sample.getpalette() or [])[: 3 * 62], *POLICY_COLOUR, *EXPERT_COLOUR])
    small = [image.quantize(palette=palette, dither=Image.Dither.NONE) for image in images]
    file = BytesIO()
    pause = round(1000 / max(SLOWEST, length / LONGEST_SHOW))  # [ms]
    durations = [pause] * (length - 1) + [2000]  # with a rest on the last
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
