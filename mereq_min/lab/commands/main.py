"""The command line `mereq`: picks a command, and imports that command alone."""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Sequence
from importlib.metadata import EntryPoint, version
from typing import Any, NamedTuple


class Command(NamedTuple):
    """A command of this package."""

    target: str
    """`module:Class`; an instance does the work when called."""
    summary: str
    """One line for `mereq --help`."""


HERE = "mereq_min.lab.commands"
"""Package of the modules that define the commands."""

COMMANDS = {
    "tasks": Command(f"{HERE}.tasks:Tasks", "list the tasks, and how often their experts intervene"),
    "align": Command(f"{HERE}.align:Align", "align the prior of a task with an expert"),
    "teach": Command(f"{HERE}.teach:Teach", "teach a policy yourself, in the browser"),
    "study": Command(f"{HERE}.study:RunStudy", "run a user study that compares methods, in the browser"),
    "fit": Command(f"{HERE}.logs:Fit", "infer a reward and align offline, from a recorded log"),
    "export": Command(f"{HERE}.logs:Export", "export the steps of a run as CSV, Parquet, Minari or LeRobot"),
    "replay": Command(f"{HERE}.replay:Replay", "replay a teach session, in the browser or as a film"),
    "compare": Command(f"{HERE}.sweep:Compare", "run methods on tasks over many seeds"),
    "reproduce": Command(f"{HERE}.sweep:Reproduce", "run the experiments of the paper"),
    "show": Command(f"{HERE}.show:Show", "show a run, or list the runs in a folder"),
    "figures": Command(f"{HERE}.figures:Figures", "draw the figures of the paper from runs"),
    "evaluate": Command(f"{HERE}.evaluate:Evaluate", "measure a policy on a task"),
    "check-policy": Command(f"{HERE}.check:CheckPolicy", "check a policy of your own"),
    "check-task": Command(f"{HERE}.check:CheckTask", "check a task of your own"),
}
"""The commands of this package. Installed distributions add theirs by entry points of the group
`mereq_min.commands`."""
SUMMARIES = {"pretrain": "train a prior or an expert"}
"""For `mereq --help`: the commands of other packages of this distribution."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of `mereq`; returns the exit code: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    others = _find_others()
    parser = _make_parser(others)
    chosen = parser.parse_args(arguments)
    if chosen.command is None:
        parser.print_help(sys.stderr)
        return 2
    command: Any = None
    try:
        command = _parse(_import_command(chosen.command, others), chosen.command, chosen.arguments)
        return command()
    except KeyboardInterrupt:
        without = " without --overwrite" if getattr(command, "overwrite", False) else ""
        _complain(f"mereq: interrupted; repeat the command{without} to resume an unfinished run")
        return 130
    except BaseException as error:  # a user's module may also exit, or raise what is no Exception
        if chosen.debug or _is_exit(error):
            raise
        text, code = _explain(error, command)
        _complain(f"mereq: {text}", style="red")
        return code


def _find_others() -> dict[str, EntryPoint]:
    """Commands of other packages by name; nothing of them is imported yet."""
    from importlib.metadata import entry_points

    found = sorted(entry_points(group="mereq_min.commands"), key=lambda entry: entry.name)
    return {entry.name: entry for entry in found if entry.name not in COMMANDS}


def _make_parser(others: dict[str, EntryPoint]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mereq",
        description="Alignment from intervention: infer what an expert wants beyond the prior policy.",
        epilog=_list_commands(others),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"mereq-min {version('mereq-min')}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser.add_argument("command", metavar="COMMAND", nargs="?", help="one of the commands below")
    parser.add_argument(
        "arguments",
        metavar="...",
        nargs=argparse.REMAINDER,
        help="arguments of the command; see `mereq COMMAND --help`",
    )
    return parser


def _list_commands(others: dict[str, EntryPoint]) -> str:
    summaries = {name: command.summary for name, command in COMMANDS.items()}
    for name, entry in others.items():
        source = entry.dist.name if entry.dist else entry.module
        summaries[name] = SUMMARIES.get(name) or f"(from {source})"
    width = max(map(len, summaries))
    lines = [f"{name:{width}}  {summary}" for name, summary in summaries.items()]
    return "commands:\n" + textwrap.indent("\n".join(lines), "  ")


def _import_command(name: str, others: dict[str, EntryPoint]) -> Any:
    """The class of a command.

    Raises:
        UsageError: if there is none, or a package that it needs is missing.
    """
    from mereq_min.lab.plugins import UsageError, check_name, install_hint

    check_name("command", name, [*COMMANDS, *others])
    entry = others[name] if name in others else EntryPoint(name, COMMANDS[name].target, "")
    try:
        return entry.load()
    except ModuleNotFoundError as error:
        raise UsageError(
            f"the command {name} needs the package {error.name}, which is not installed; "
            f"{install_hint('live' if error.name == 'websockets' else 'deep')}"
        ) from error


def _parse(kind: Any, name: str, arguments: Sequence[str]) -> Any:
    """Parse the arguments of a command.

    A command with `with_recorded_settings` is parsed twice: the first time to learn which task is meant, the
    second time with that task's settings as the defaults.
    """
    import tyro

    command = tyro.cli(kind, prog=f"mereq {name}", args=arguments)
    if hasattr(command, "with_recorded_settings"):
        defaults = command.with_recorded_settings()
        command = tyro.cli(kind, prog=f"mereq {name}", args=arguments, default=defaults)
    return command


def _is_exit(error: BaseException) -> bool:
    """Whether the parser of arguments ended the command, which has said why."""
    from mereq_min.lab.plugins import is_users

    return isinstance(error, SystemExit) and not is_users(error)


def _explain(error: BaseException, command: Any) -> tuple[str, int]:
    """Say in a sentence what went wrong, and whose mistake it is; returns the exit code too.

    What the user can mend is told alone: wrong usage, a run that cannot be used, an argument that was
    refused, or what the operating system did not allow. Anything else comes from a mistake in code, the
    user's or ours, and its traceback is kept in a file.
    """
    from mereq_min.lab.faults import describe_fault, is_refusal, keep_traceback, named_modules
    from mereq_min.lab.plugins import UsageError, install_hint, is_users
    from mereq_min.lab.runs.files import RunError
    from mereq_min.soft import NotConvergedError

    if isinstance(error, UsageError):
        return str(error), 2
    if isinstance(error, RunError | NotConvergedError) or is_refusal(error):
        return str(error), 1
    if is_users(error):
        return f"{describe_fault(error)}; {keep_traceback(error)}", 1
    if isinstance(error, OSError):
        where = error.filename2 or error.filename or getattr(command, "out", None)
        return f"{'' if where is None else f'{where}: '}{error.strerror or error}", 1
    if isinstance(error, MemoryError):
        return f"out of memory; ask for less at once ({str(error) or 'no details'})", 1
    if isinstance(error, ModuleNotFoundError):
        return f"the package {error.name} is not installed; {install_hint('deep')}", 1
    others = named_modules()
    or_theirs = f", or {', '.join(others)} handed it something unexpected" if others else ""
    fault = f"this looks like a bug in mereq-min{or_theirs}: {describe_fault(error)}"
    return f"{fault}; {keep_traceback(error)}", 1


def _complain(text: str, style: str | None = None) -> None:
    from mereq_min.lab.commands.console import complain

    complain(text, style)


if __name__ == "__main__":
    sys.exit(main())
