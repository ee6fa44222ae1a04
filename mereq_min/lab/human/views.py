"""What pages are told of a session."""

from __future__ import annotations

from typing import Any

import numpy as np

from mereq_min.interfaces import Task
from mereq_min.lab.human.protocol import Action, ActionName, Frame, Welcome
from mereq_min.lab.human.scenes import Scene
from mereq_min.lab.human.session import Session
from mereq_min.lab.plugins import make_closed_env
from mereq_min.lab.runs.config import RunConfig


def make_welcome(task: Task, scene: Scene, config: RunConfig, tab: str, *, replay: bool) -> Welcome:
    """What does not change during a session."""
    env = make_closed_env(task)
    return Welcome(
        task=config.task,
        method=config.method,
        seed=config.seed,
        features=list(task.feature_names),
        actions=[ActionName(each.name, each.key, each.action) for each in scene.actions],
        discrete=hasattr(env.action_space, "n"),
        horizon=task.horizon,
        rate=scene.rate,
        story=list(scene.story),
        scene={"kind": scene.kind, **scene.still},
        tab=tab,
        replay=replay,
    )


def make_frame(session: Session, scene: Scene, *, rewound: bool = False) -> Frame:
    """What a session has come to."""
    drive, last = session.drive, session.last
    space = drive.env.action_space
    return Frame(
        n=session.n_steps,
        episode=drive.episode,
        t=drive.t,
        ended=session.ended,
        success=bool(session.info["success"]) if "success" in session.info else None,
        scene={"kind": scene.kind, **scene.moving(drive.env)},
        proposal=in_units(session.proposal, space),
        by=None if last is None else "policy" if last.action is None else "person",
        action=None if last is None else in_units(drive.last_action, space),
        version=session.version,
        round=len(session.rounds),
        round_steps=len(drive),
        round_person=session.person_steps,
        steps_per_round=session.steps_per_round,
        rewound=rewound,
    )


def in_units(action: Any, space: Any) -> Action | None:
    """An action of a space as `protocol.Action` has it."""
    if action is None:
        return None
    if hasattr(space, "n"):
        return int(action)
    scaled: list[float] = np.clip(
        2 * (np.asarray(action) - space.low) / (space.high - space.low) - 1, -1, 1
    ).tolist()
    return scaled
