"""The command line `mereq`: most of its commands, and what other modules and packages add."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import tyro

from mereq_min.lab.commands.align import Align, align_command
from mereq_min.lab.commands.check import CheckPolicy, CheckTask
from mereq_min.lab.commands.console import complaints
from mereq_min.lab.commands.evaluate import Evaluate
from mereq_min.lab.commands.figures import Figures
from mereq_min.lab.commands.show import Show
from mereq_min.lab.commands.sweep import Compare, Reproduce
from mereq_min.lab.commands.tasks import Tasks
from mereq_min.lab.plugins import UsageError, load_commands
from mereq_min.lab.runs.files import RunError
from mereq_min.soft import NotConvergedError

COMMANDS: dict[str, Any] = {
    "tasks": Tasks,
    "align": Align,
    "compare": Compare,
    "reproduce": Reproduce,
    "show": Show,
    "figures": Figures,
    "evaluate": Evaluate,
    "check-policy": CheckPolicy,
    "check-task": CheckTask,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of `mereq`; returns the exit code: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    own = {**COMMANDS, "align": align_command(arguments)}
    # Commands of other packages may be slow to import: not before one is asked for, or all are listed.
    is_own = bool(arguments) and arguments[0] in COMMANDS
    commands = own if is_own else {**own, **load_commands()}
    command: Any = tyro.extras.subcommand_cli_from_dict(
        commands,
        prog="mereq",
        description="Alignment from intervention: infer what an expert wants beyond the prior policy.",
        args=arguments,
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    try:
        return command()
    except (UsageError, RunError, NotConvergedError, ValueError, OSError) as error:
        # Errors and paths may hold brackets, which are not markup.
        complaints.print(f"mereq: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        return 2 if isinstance(error, UsageError) else 1
    except KeyboardInterrupt:
        without = ", without --overwrite," if getattr(command, "overwrite", False) else ""
        complaints.print(f"mereq: interrupted; the same command{without} goes on where it stopped")
        return 130


if __name__ == "__main__":
    sys.exit(main())
