"""What page and server say to each other: JSON objects with a `type`, one per message of a WebSocket.

The page lies at `http://127.0.0.1:<port>/<token>/` and opens `ws` beside it (a relative URL), with a name for
the tab that it makes up, keeps for as long as the tab lives, and sends as the query: `ws?tab=k3f9`. All URLs
are relative, so that they carry the token, and go through `ssh -L` and into the frame of a notebook.

The server begins with `welcome`, `mode` and `frame`, and with a `report` for each round that is finished.
After that, a message of one kind replaces the one before it: nothing has to be added up, and a page that
connects again shows what it is sent.

    page                                            server
    ping {t}                every second            pong {t}
    begin {}                the tutorial is over    mode, frame
    act {action, down}      a key, a drag           mode at once, frame after the step
    hand_back {}                                    mode
    go {}                   one step further        frame
    pause {on}, pace {...}                          mode
    undo {steps}                                    frame (rewound: true)
    learn {}                                        mode (learning: true) ... report
    undo_update {}, save_policy {}, stop {}         mode, notice
    claim {}                a watching tab          mode

Whoever has not sent a message for `SILENCE` seconds is taken to be gone: if that tab was in control, the
session pauses. What comes too fast, is too large or is no message of this module ends the connection with the
code 1008 or 1009. Times are in seconds, unless a name ends in `_ms`; unknown values are null.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

import msgspec

LARGEST_MESSAGE = 4096
"""Size of the largest message from a page [bytes]."""
FASTEST = 120.0
"""Messages a second that a page may send, on average over some seconds."""
SILENCE = 4.0
"""Time without a message after which a page is taken to be gone; a page pings every second [s]."""

Pace = Literal["turns", "real time"]
"""Whether the steps of the person wait for keys, or come at the task's rate."""
Release = Literal["key", "letting go"]
"""What hands back: a key of its own, or letting go of all keys."""
Action = int | list[float]
"""An index, or the numbers (D,) of a Box, in units of its bounds: -1 is the low one and 1 the high one."""

_Speed = Annotated[float, msgspec.Meta(ge=0.1, le=10)]
_Steps = Annotated[int, msgspec.Meta(ge=1, le=10_000)]
_Index = Annotated[int, msgspec.Meta(ge=0, le=10_000)]
_Share = Annotated[float, msgspec.Meta(ge=-1, le=1)]
_Velocity = Annotated[list[_Share], msgspec.Meta(max_length=64)]


# --- From the page ------------------------------------------------------------------------------------------


class Ping(msgspec.Struct, tag="ping", forbid_unknown_fields=True):
    """Says that the page is alive; sent every second."""

    t: float
    """The page's own clock, which `Pong` gives back; any unit."""
    round_trip_ms: Annotated[float, msgspec.Meta(ge=0)] | None = None
    """What the page measured by the last pong, for the report [ms]."""


class Begin(msgspec.Struct, tag="begin", forbid_unknown_fields=True):
    """The tutorial is over: start driving."""


class Act(msgspec.Struct, tag="act", forbid_unknown_fields=True):
    """A key of an action went down or up, or a drag or stick moved; the first one takes over.

    Over a Box, each message replaces the velocity that is wanted; zeros let go.
    """

    action: _Index | _Velocity
    """See `Action`."""
    down: bool = True
    """False when the key is let go."""
    keys: Annotated[int, msgspec.Meta(ge=0, le=100)] = 1
    """Keystrokes behind this message, to measure effort."""


class HandBack(msgspec.Struct, tag="hand_back", forbid_unknown_fields=True):
    """Give control back to the policy."""


class Go(msgspec.Struct, tag="go", forbid_unknown_fields=True):
    """Take one step with what is in control, while paused: the policy's proposal, or the idle action."""


class Pause(msgspec.Struct, tag="pause", forbid_unknown_fields=True):
    """Pause or go on."""

    on: bool
    """Whether to pause."""


class SetPace(msgspec.Struct, tag="pace", forbid_unknown_fields=True):
    """Change how time runs; null leaves a setting as it is."""

    pace: Pace | None = None
    """Whether the person's steps wait for keys."""
    speed: _Speed | None = None
    """Factor on the task's own rate."""
    release: Release | None = None
    """What hands back."""


class Undo(msgspec.Struct, tag="undo", forbid_unknown_fields=True):
    """Take back the last steps of this round; the session then is paused."""

    steps: _Steps = 1
    """How many [steps]."""


class LearnNow(msgspec.Struct, tag="learn", forbid_unknown_fields=True):
    """End the round here and learn from it."""


class UndoUpdate(msgspec.Struct, tag="undo_update", forbid_unknown_fields=True):
    """Take back the last update, and all steps since the round that it was made from ended.

    That round goes on, and the next update comes after as many steps again; see `LearnNow`.
    """


class SavePolicy(msgspec.Struct, tag="save_policy", forbid_unknown_fields=True):
    """Keep a copy of the policy that drives now; a `Notice` says where."""


class Stop(msgspec.Struct, tag="stop", forbid_unknown_fields=True):
    """End the session; the run is finished, and can be taken up again later."""


class Claim(msgspec.Struct, tag="claim", forbid_unknown_fields=True):
    """Take control from the tab that has it."""


FromPage = (
    Ping
    | Begin
    | Act
    | HandBack
    | Go
    | Pause
    | SetPace
    | Undo
    | LearnNow
    | UndoUpdate
    | SavePolicy
    | Stop
    | Claim
)
"""Any message from a page."""


# --- From the server ----------------------------------------------------------------------------------------


class ActionName(msgspec.Struct):
    """The name of an action and its key."""

    name: str
    """In words, such as lane left."""
    key: str
    """Its `KeyboardEvent.key`."""
    action: Action
    """What to send in `Act`."""


class Welcome(msgspec.Struct, tag="welcome"):
    """What does not change during a session; the first message."""

    task: str
    """Name of the task."""
    method: str
    """Name of the method."""
    seed: int
    """Seed of the run."""
    features: list[str]
    """(K,) names."""
    actions: list[ActionName]
    """Keys over a Box are velocities along an axis; those of several keys at once add up."""
    discrete: bool
    """Whether actions are indices."""
    horizon: int
    """Most steps of an episode [steps]."""
    rate: float
    """Steps a second at speed 1 [1/s]."""
    story: list[str]
    """Two sentences for newcomers: what the policy does, and what a person may want instead; or none."""
    scene: dict[str, Any]
    """What stands still, by `kind`; see `scenes`."""
    tab: str
    """Name of the tab that this is sent to."""
    replay: bool
    """Whether this shows a recorded session: then nobody can take over, and `go`, `pause`, `pace` work."""


class Frame(msgspec.Struct, tag="frame"):
    """A state, and what the policy is about to do in it; sent after each step, undo and reset."""

    n: int
    """Steps so far in this session, without those that were taken back [steps]."""
    episode: int
    """Number of the episode, from 0."""
    t: int
    """Time within the episode [steps]."""
    ended: bool
    """Whether this is the last state of its episode; nothing is proposed then."""
    success: bool | None
    """Whether the task is done, if the task says so."""
    scene: dict[str, Any]
    """What moves, by the same `kind`."""
    proposal: Action | None
    """The policy's next action, which is taken unless somebody takes over."""
    by: Literal["policy", "person"] | None
    """Who took the step that led here; null at the start of an episode."""
    action: Action | None
    """What that step did."""
    version: int
    """Version of the policy that proposes; 0 is the prior, each update adds 1."""
    round: int
    """From 1."""
    round_steps: int
    """Steps of this round so far [steps]."""
    round_person: int
    """Those of them that the person controlled [steps]."""
    steps_per_round: int
    """Steps by the newest policy after which the round ends, at the end of the episode [steps]."""
    rewound: bool = False
    """Whether steps were taken back just now."""


class Mode(msgspec.Struct, tag="mode"):
    """Who is in control and what is going on; sent whenever any of it changes."""

    phase: Literal["tutorial", "driving", "finished"]
    """Before the first step, during the session, or after it."""
    paused: bool
    """Whether the session is paused."""
    why: str
    """Why it is paused, in words; empty if it is not, or if the person asked for it."""
    person: bool
    """Whether the person is in control."""
    pace: Pace
    """How time runs."""
    speed: float
    """Factor on the task's own rate."""
    release: Release
    """What hands back."""
    controller: str | None
    """Tab that is in control of the session; null if there is none."""
    tabs: int
    """Tabs that are connected."""
    learning: bool
    """Whether an update is being made."""
    ready: bool
    """Whether the first solve is done, so that updates are quick."""
    version: int
    """Version of the policy that drives."""
    can_learn: bool
    """Whether `LearnNow` would be granted."""
    can_undo: bool
    """Whether there is a step to take back."""
    can_undo_update: bool
    """Whether there is an update to take back."""


class Weight(msgspec.Struct):
    """The inferred weight of a feature."""

    feature: str
    """Its name."""
    theta: float
    """The weight [reward]."""
    error: float | None
    """Standard error; null if the steps do not determine it."""
    change: float
    """Against the round before."""
    words: str
    """Such as "keeps right more: +0.41"."""


class Film(msgspec.Struct):
    """An episode of a policy that nobody watches, as the `scene` of each frame."""

    version: int
    """Of the policy."""
    scenes: list[dict[str, Any]]
    """Its frames."""


class Report(msgspec.Struct, tag="report"):
    """What came of a round; sent when its update is done."""

    round: int
    """From 1."""
    version: int
    """Of the policy after the update."""
    rate: float
    """Share of the round's steps that the person controlled."""
    rates: list[float]
    """That of every round so far."""
    steps: int
    """Steps of the round [steps]."""
    takeovers: int
    """How often the person took over in it."""
    person_seconds: float
    """Time that the person was in control, at the pace they chose [s]."""
    keystrokes: int
    """Keys that the person pressed in it."""
    reaction: float | None
    """Median time from a violation to the key, where an oracle tells violations [s]."""
    patience: int
    """Steps before each takeover that count as its cause [steps]."""
    round_trip_ms: float | None
    """Median of what the page in control measured; null if it says nothing [ms]."""
    update_seconds: float
    """Time that the update took [s]."""
    weights: list[Weight] | None
    """None for imitation."""
    unsure: str
    """In words: what the next takeovers would tell most about; empty if unknown."""
    before: Film | None
    """An episode of the policy before the update."""
    after: Film | None
    """Both from the same start."""
    telling: int | None
    """Frame of `after` in which taking over would tell most about the weights; null if unknown."""
    heat: list[list[float | None]] | None
    """(rows, columns) theta . f of the best action in each cell, for a scene with cells [reward]."""
    arrows: list[list[int]] | None
    """[row, column, action] of the policy's most probable action in each cell, likewise."""


class Notice(msgspec.Struct, tag="notice"):
    """Something to read, such as why a wish was not granted."""

    text: str
    """What to read."""
    wrong: bool = False
    """Whether it is a complaint."""


class Pong(msgspec.Struct, tag="pong"):
    """The answer to a `Ping`."""

    t: float
    """As in the ping."""


_Message = TypeVar("_Message")
_decoder: msgspec.json.Decoder[FromPage] = msgspec.json.Decoder(FromPage)


def read(data: str | bytes) -> FromPage:
    """Read a message of a page.

    Raises:
        ValueError: if it is not a valid message, or too large.
    """
    return decode(_decoder, data)


def decode(decoder: msgspec.json.Decoder[_Message], data: str | bytes) -> _Message:
    """Read a message by the decoder of a page's protocol.

    Raises:
        ValueError: if it is not a valid message, or too large.
    """
    if len(data) > LARGEST_MESSAGE:
        raise ValueError(f"a message has {len(data)} bytes, more than the {LARGEST_MESSAGE} that are read")
    try:
        return decoder.decode(data)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ValueError(f"not a message of this protocol ({error})") from error


def write(message: msgspec.Struct) -> str:
    """Write a message for a page; numbers that are not finite become null."""
    return msgspec.json.encode(message).decode()
