"""Finding tasks, policies, experts and commands by name, without importing any task's package here.

Installed distributions offer them under entry points: dicts of factories under `mereq_min.tasks` and, for
environments to pretrain on where no expert watches, `mereq_min.environments`; loaders of policy files under
`mereq_min.policy_loaders`; commands under `mereq_min.commands`. Anything else is named as `module:attribute`.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mereq_min.lab.faults import describe_fault, find_place, is_refusal, remember_module
from mereq_min.policies import UniformPolicy, check_fit
from mereq_min.validation import check_number

if TYPE_CHECKING:
    from gymnasium import Env

    from mereq_min.interfaces import Expert, Policy, Task

SIMULATED = "simulated"
"""The name of the expert that a task's oracle simulates."""
HUMAN = "human"
"""The name of a person in the browser, see `mereq teach`."""


TASK_PARTS = (
    "name", "gamma", "horizon", "feature_names", "prior", "temperature", "scaled_prior_weight", "oracle",
    "make_env", "make_learner", "make_cloner", "evaluate", "load_policy",
)  # fmt: skip
"""What `mereq_min.interfaces.Task` has."""


class UsageError(ValueError):
    """What was typed cannot be done; the message says why in one sentence."""


def install_hint(extra: str) -> str:
    """How to install an optional extra of this distribution, which is on no package index."""
    return f"run pip install -e '.[{extra}]' in your checkout of mereq-min"


def find_entries(group: str) -> list[EntryPoint]:
    """The entry points of installed distributions in one of the groups above, by name."""
    return sorted(entry_points(group=f"mereq_min.{group}"), key=lambda entry: entry.name)


@functools.cache
def factories(group: str) -> dict[str, Callable[[], Any]]:
    """Everything that installed distributions offer in a group, by name."""
    found: dict[str, Callable[[], Any]] = {}
    for entry in find_entries(group):
        remember_module(entry.module)
        found.update(entry.load())
    return found


def task_factories() -> dict[str, Callable[[], Task]]:
    """Every installed task by name."""
    return factories("tasks")


def load_task(name: str) -> Task:
    """The task of that name, or the one that `module:attribute` makes.

    Raises:
        UsageError: if there is none, or it lacks something that a task must have.
    """
    task = find_task(name)
    _require("task", name, task, TASK_PARTS, "Task")
    return task


@functools.cache
def find_task(name: str) -> Any:
    """Like `load_task`, for a task that need not be complete.

    Raises:
        UsageError: if there is none, or it is not a task at all.
    """
    if name in task_factories() or ":" not in name:
        return _make(check_name("task", name, task_factories()), task_factories())
    with _loading("task", name):
        task = call(import_attribute(name))
    _require("task", name, task, ("make_learner",), "Task")
    return task


def prepare_task(
    name: str,
    *,
    prior: str | None = None,
    temperature: float | None = None,
    prior_weight: float | None = None,
    cache: Path | None = None,
) -> Task:
    """Load a task and put another prior, temperature or prior weight into it.

    Args:
        name: of the task, see `load_task`.
        prior: name of the policy to align, see `load_policy`; default: the task's own.
        temperature: alpha_hat [reward]; default: the task's own.
        prior_weight: omega; default: the task's own.
        cache: folder in which an oracle that trains its expert keeps it, so that it is trained once.

    Raises:
        UsageError: if the task or the prior cannot be loaded, or the task cannot be changed.
    """
    task = load_task(name)
    # Q-values as a prior are followed at the temperature that was asked for.
    policy = None if prior is None else load_policy(prior, change_task(task, temperature=temperature))
    return change_task(task, prior=policy, temperature=temperature, prior_weight=prior_weight, cache=cache)


def change_task(
    task: Task,
    *,
    prior: Policy | None = None,
    temperature: float | None = None,
    prior_weight: float | None = None,
    cache: Path | None = None,
) -> Task:
    """Put another prior, temperature or prior weight into a task; see `prepare_task`.

    The uniformly random policy has no reward. With it as the prior omega is 0, the whole reward of the expert
    is left to be inferred, and the expert stays the same.
    """
    wanted = {"prior": prior, "temperature": temperature, "prior_weight": prior_weight}
    changes: dict[str, Any] = {name: value for name, value in wanted.items() if value is not None}
    if not changes:
        return task
    if not is_dataclass(task) or missing(changes, task):
        raise UsageError(
            f"the task {task.name} does not let {' and '.join(changes)} be changed: it must be a dataclass "
            "with fields of these names"
        )
    oracle: Any = task.oracle
    if cache is not None and is_dataclass(oracle) and not missing(["cache"], oracle):
        changes["oracle"] = oracle = replace(oracle, cache=cache)
    if isinstance(prior, UniformPolicy):
        changes.setdefault("prior_weight", 0.0)
        if oracle is not None:
            changes["oracle"] = ask_for_full_reward(oracle, task.name)
    return replace(task, **changes)


def ask_for_full_reward(oracle: Any, name: str) -> Any:
    """An oracle with the same expert, whose theta* is the full reward; for a prior without a reward.

    Raises:
        UsageError: if nobody knows the full reward of the expert on the task of that name.
    """
    weights = oracle.true_weights("full")
    if weights is None:
        raise UsageError(
            f"a random prior leaves the whole reward to be inferred, which the oracle of {name} does not "
            "know; choose another prior"
        )
    kept: dict[str, Any] = {} if missing(["expert"], oracle) else {"expert": oracle.expert_policy}
    return replace(oracle, true_theta=weights, task=None, **kept)


def missing(names: Iterable[str], thing: Any) -> set[str]:
    """Which of the names are no fields of a dataclass."""
    return set(names) - {field.name for field in fields(thing) if field.init}


def load_environment(name: str) -> Any:
    """The task of that name, or an environment to pretrain on.

    Raises:
        UsageError: if there is none.
    """
    if name in task_factories():
        return load_task(name)
    try:
        known = factories("environments")
    except ImportError as error:
        if ":" not in name:
            raise UsageError(
                f"{name!r} is not a task, and the environments to pretrain on cannot be imported ({error}); "
                f"{install_hint('deep')}"
            ) from error
        known = {}  # a task of your own does without them
    if name in known:
        return _make(name, known)
    if ":" not in name:
        check_name("task", name, [*task_factories(), *known])
    return load_task(name)


def make_closed_env(task: Any) -> Env[Any, Any]:
    """A closed environment of a task, to read its spaces and metadata."""
    env: Env[Any, Any] = task.make_env()
    env.close()
    return env


def import_attribute(name: str) -> Any:
    """What `module:attribute` names, the working directory included in the search.

    Raises:
        UsageError: if there is none. What the module itself raises is left as it is.
    """
    module, _, attribute = name.partition(":")
    if not all(part.isidentifier() for part in (*module.split("."), attribute)):
        raise UsageError(f"it must be module:attribute, such as my_module:make, got {name!r}")
    if "" not in sys.path:
        sys.path.insert(0, "")  # a console script does not look in the working directory by itself
    remember_module(module)
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module}.".startswith(f"{error.name}."):
            raise UsageError(f"{error}; it is looked for in the working directory too") from error
        raise  # its own import of something else
    except SyntaxError as error:
        if error.filename is not None:
            raise  # which tells the file and the line
        raise UsageError(f"the source of module {module!r} cannot be read: {error.msg}") from error
    if not hasattr(found, attribute):
        raise UsageError(f"module {module!r} has no attribute {attribute!r}")
    return getattr(found, attribute)


def call(made_by: Any, *arguments: Any) -> Any:
    """Call what the user named.

    Raises:
        UsageError: if that cannot be called with such arguments. What its code raises is left as it is.
    """
    try:
        return made_by(*arguments)
    except Exception as error:
        if error.__traceback__ is None or error.__traceback__.tb_next is not None:
            raise
        given = "with the task" if arguments else "without arguments"
        raise UsageError(f"it cannot be called {given}: {error}") from error


@contextmanager
def _loading(kind: str, name: str) -> Iterator[None]:
    """Name what is being loaded in every error that is the user's; one of ours is left as it is."""
    try:
        yield
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a module may also exit
        if is_refusal(error):
            reason = str(error)
        elif isinstance(error, SystemExit) or is_users(error):
            reason = describe_fault(error)
        else:
            raise
        raise UsageError(f"cannot load {kind} {name!r}: {reason}") from error


def is_users(error: BaseException) -> bool:
    """Whether the user's code raised an exception."""
    place = find_place(error)
    return place is not None and not place.is_ours


def _require(kind: str, name: str, thing: Any, parts: Iterable[str], protocol: str) -> None:
    absent = [part for part in parts if part not in dir(thing) and not hasattr(thing, part)]
    if absent:
        raise UsageError(
            f"cannot load {kind} {name!r}: it is of type {type(thing).__name__}, which has no "
            f"{' and no '.join(absent)}; see mereq_min.interfaces.{protocol}"
        )


def _make(name: str, known: dict[str, Callable[[], Any]]) -> Any:
    try:
        return known[name]()
    except ModuleNotFoundError as error:
        raise UsageError(
            f"{name} needs the package {error.name}, which is not installed; {install_hint('deep')}"
        ) from error


def check_name(kind: str, name: str, known: Iterable[str]) -> str:
    """Return `name` if it is known.

    Raises:
        UsageError: otherwise, with the most similar known name.
    """
    known = list(known)
    if name in known:
        return name
    near = difflib.get_close_matches(name.lower(), [k.lower() for k in known], n=1)
    hint = next((f"; did you mean {k!r}?" for k in known if near and k.lower() == near[0]), "")
    raise UsageError(f"unknown {kind} {name!r}{hint} (known: {', '.join(known)})")


def load_policy(name: str, task: Any) -> Policy:
    """The policy of that name, for a task.

    Args:
        name: "prior" or "expert" for the task's own; "random" for actions drawn uniformly;
            `module:attribute` of a policy or of what makes one without arguments; a file that a run of the
            task saved (.safetensors); or a file with a suffix for which an installed distribution offers a
            loader, `(path, task) -> Policy`, under the entry point `mereq_min.policy_loaders`.
        task: the task that the policy is for, or an environment to pretrain on.

    Raises:
        UsageError: if there is none, or it does not fit the task, see `policies.check_fit`.
        ValueError: if the file is not one of that kind.
    """
    policy = find_policy(name, task)
    env = make_closed_env(task)
    try:
        check_fit(policy, env.observation_space, env.action_space, task.name)
    except ValueError as error:
        if error.__cause__ is not None and is_users(error.__cause__):
            raise UsageError(f"cannot load policy {name!r}: {describe_fault(error.__cause__)}") from error
        raise UsageError(f"cannot load policy {name!r}: {error}") from error
    return policy


def find_policy(name: str, task: Any) -> Policy:
    """Like `load_policy`, for a policy that need not fit the task.

    Raises:
        UsageError: if there is none.
        ValueError: if the file is not one of that kind.
    """
    suffix = Path(name).suffix.removeprefix(".")
    loaders = {entry.name: entry for entry in find_entries("policy_loaders")}
    if name in ("prior", "expert", "random"):
        policy: Any = _own_policy(name, task)
    elif suffix == "safetensors":
        arrays = _read_arrays(name)
        with _loading("policy", name):
            policy = task.load_policy(arrays)
    elif suffix in loaders:
        policy = _import_loader(loaders[suffix])(Path(name), task)
    elif ":" in name:
        with _loading("policy", name):
            policy = _import_policy(name)
    else:
        known = ", ".join(f".{kind}" for kind in sorted({"safetensors", *loaders}))
        raise UsageError(
            f"policy must be prior, expert, random, module:attribute or a file ({known}), got {name!r}"
        )
    _require("policy", name, policy, ("log_prob", "sample"), "Policy")
    return policy


def _import_loader(entry: EntryPoint) -> Callable[[Path, Any], Any]:
    """The loader of a kind of files.

    Raises:
        UsageError: if a package that it needs is missing.
    """
    remember_module(entry.module)
    try:
        return entry.load()
    except ModuleNotFoundError as error:
        raise UsageError(
            f"files of the kind .{entry.name} need the package {error.name}, which is not installed; "
            f"{install_hint('deep')}"
        ) from error


def _own_policy(name: str, task: Any) -> Policy:
    """The prior or expert of a task, or the uniform policy over its actions."""
    if name == "random":
        env = make_closed_env(task)
        return UniformPolicy(env.action_space)
    if name == "prior" and hasattr(task, "prior"):
        return task.prior
    oracle = getattr(task, "oracle", None)
    if name == "expert" and oracle is not None:
        return oracle.expert_policy
    raise UsageError(f"the task comes without {name}; name a policy by its file or as module:attribute")


def _read_arrays(name: str) -> dict[str, Any]:
    from mereq_min.lab.runs.files import ArraysError, load_arrays

    try:
        return load_arrays(Path(name))
    except ArraysError as error:
        reason = getattr(error.reason, "strerror", None) or error.reason
        raise UsageError(f"cannot load policy {name!r}: {reason}") from error


def _import_policy(name: str) -> Any:
    found = import_attribute(name)
    is_factory = isinstance(found, type) or (callable(found) and not hasattr(found, "log_prob"))
    return call(found) if is_factory else found


def load_expert(name: str, task: Task) -> Expert | None:
    """The expert of that name, who watches a task.

    Args:
        name: "simulated" for the one of the task's oracle, or `module:attribute` of an `interfaces.Expert` or
            of what makes one when called with the task.
        task: the task.

    Returns:
        The expert; None for the simulated one, which `loop.align` makes itself.

    Raises:
        UsageError: if there is none, or it lacks something that an expert must have.
    """
    if name == SIMULATED:
        if task.oracle is None:
            raise UsageError(
                f"the task {task.name} has no oracle to simulate an expert with; name an expert of your own "
                "with --expert module:attribute"
            )
        return None
    if ":" not in name:
        raise UsageError(f"expert must be {SIMULATED}, {HUMAN} or module:attribute, got {name!r}")
    with _loading("expert", name):
        expert = import_attribute(name)
        if isinstance(expert, type) or not hasattr(expert, "intervene"):
            expert = call(expert, task)
    _require("expert", name, expert, ("reset", "intervene", "patience"), "Expert")
    with _loading("expert", name):
        check_number("its patience", expert.patience, 0, integer=True)
    return expert
