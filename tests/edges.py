"""What users and strangers hand to the command line by mistake or malice, as a table; run it for the counts.

    python tests/edges.py [word of a group ...]

Each case is typed in this process, and must end with one sentence: no traceback leaves `main`, nothing hangs,
nothing wrong is accepted in silence, and no mistake of the user's is called a bug of ours.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import signal
import sys
import tempfile
import typing
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from importlib import import_module
from pathlib import Path
from types import FrameType, UnionType
from typing import Any

import numpy as np
from safetensors.numpy import save_file

DATA = Path(__file__).parent / "data"
SHORT = ("--iterations", "1", "--steps-per-iteration", "5")
LONGEST = 60
"""A case that takes longer hangs [s]; the slowest right one takes a few, and more on a busy machine."""


@dataclass(frozen=True)
class Case:
    """Something to type; FOLDER is the working directory, MODULE the name of a module with this source."""

    group: str
    arguments: tuple[str, ...]
    source: str | bytes = ""
    says: str = ""
    """What the answer must contain."""
    may_blame: bool = False
    """Whether the answer may be that the user's module handed us something unexpected."""


# --- Numbers ----------------------------------------------------------------------------------------------

INTEGERS = (str(2**63), str(2**64), str(10**30), str(-(2**64)), "9" * 5_000, "nan", "1e30", "-1", "")
FLOATS = ("nan", "inf", "-inf", "1e400", "9" * 5_000, "-1", "")
COMMANDS = {
    "mereq_min.lab.commands.tasks:Tasks": ("tasks", "carpet", "--measure"),
    "mereq_min.lab.commands.align:Align": ("align", "carpet", "--out", "FOLDER/runs", *SHORT),
    "mereq_min.lab.commands.sweep:Compare": ("compare", "carpet", "--out", "FOLDER/runs", *SHORT),
    "mereq_min.lab.commands.sweep:Reproduce": ("reproduce", "--tasks", "carpet", "--out", "FOLDER/runs"),
    "mereq_min.lab.commands.evaluate:Evaluate": ("evaluate", "random", "CartPole-v1"),
    "mereq_min.lab.commands.check:CheckPolicy": ("check-policy", "prior", "carpet"),
    "mereq_min.lab.commands.check:CheckTask": ("check-task", "carpet"),
    "mereq_min.lab.commands.figures:Figures": ("figures", "--runs", "FOLDER"),
    "deep.pretrain:Pretrain": ("pretrain", "CartPole-v1", "--out", "FOLDER/runs", "--steps", "64"),
}


def numeric_options(kind: Any, prefix: str = "") -> Iterator[tuple[str, bool]]:
    """Names of the numeric options of a command, and whether they are integers."""
    hints = typing.get_type_hints(kind, include_extras=False)
    for field in fields(kind):
        hint = hints[field.name]
        name = f"{prefix}{field.name.replace('_', '-')}"
        parts = {hint} | (set(typing.get_args(hint)) if isinstance(hint, UnionType) else set())
        if is_dataclass(hint):
            inner = f"{name}." if kind.__module__ == "deep.pretrain" else ""
            yield from numeric_options(hint, inner)
        elif parts & {int, float} or hint == tuple[int, ...]:
            yield name, float not in parts


def numbers(values: int | None = None) -> Iterator[Case]:
    """Numbers that do not fit, for every numeric option of every command."""
    for target, base in COMMANDS.items():
        module, _, name = target.partition(":")
        for option, is_integer in numeric_options(getattr(import_module(module), name)):
            kept = list(base)
            if f"--{option}" in kept:
                at = kept.index(f"--{option}")
                del kept[at : at + 2]
            for value in (INTEGERS if is_integer else FLOATS)[:values]:
                if option.endswith("target-entropy") and value == "-1":
                    continue  # over a Box an entropy may be negative
                yield Case("numbers", (*kept, f"--{option}={value}"))


# --- Modules of the user's own ----------------------------------------------------------------------------

BROKEN: dict[str, str | bytes] = {
    "syntax": "def make(:\n",
    "indentation": "def make():\nreturn 1\n",
    "null bytes": b"make = 1\0\n",
    "latin-1": b"make = '\xe9'\n",
    "too many brackets": "make = " + "(" * 300 + ")" * 300,
    "NameError": "undefined_name\n",
    "ZeroDivisionError": "1 / 0\n",
    "SystemExit 0": "import sys\nsys.exit(0)\n",
    "SystemExit 3": "raise SystemExit(3)\n",
    "exit()": "exit()\n",
    "no Exception": "class Stop(BaseException): pass\nraise Stop('halt')\n",
    "GeneratorExit": "raise GeneratorExit\n",
    "RecursionError": "def f(): f()\nf()\n",
    "MemoryError": "raise MemoryError\n",
    "StopIteration": "next(iter(()))\n",
    "KeyError": "{}['x']\n",
    "OSError": "open('/nowhere/at/all')\n",
    "ImportError": "import no_such_package_at_all\n",
    "ImportError from": "from numpy import no_such_thing\n",
    "AssertionError": "assert False\n",
    "ValueError of numpy": "import numpy as np\nnp.zeros(3) + np.zeros(4)\n",
    "TypeError": "len(3)\n",
    "UnicodeDecodeError": "b'\\xff'.decode()\n",
    "bare class": "class Odd(Exception):\n    def __str__(self): raise RuntimeError\nraise Odd\n",
    "odd __repr__": "raise ValueError('two\\nlines \\x1b[31m and a colour')\n",
}
MAKERS = {
    "absent": "x = 1\n",
    "None": "make = None\n",
    "number": "make = 3\n",
    "returns None": "def make(*given): return None\n",
    "returns number": "def make(*given): return 3\n",
    "needs more": "def make(a, b, c): return 1\n",
    "raises": "def make(*given): raise RuntimeError('not today')\n",
    "raises ValueError": "def make(*given): raise ValueError('not today')\n",
    "raises AttributeError": "def make(*given): return None.x\n",
    "exits": "import sys\ndef make(*given): sys.exit()\n",
    "class that raises": "class make:\n    def __init__(self, *given): 1 / 0\n",
    "class that exits": "class make:\n    def __init__(self, *given): raise SystemExit\n",
    "property that raises": "class make:\n    def __init__(self, *given): pass\n"
    "    @property\n    def log_prob(self): 1 / 0\n    make_learner = intervene = log_prob\n",
    "C function": "make = len\n",
    "type": "make = int\n",
    "module": "import math as make\n",
}
NAMED = (
    ":",
    "a:",
    ":b",
    "..:x",
    ".a:b",
    "a b:c",
    "math:",
    "math:x:y",
    "os:path.join",
    "no_such:x",
    "math.x:y",
    "\udcff:x",
)
ASKED = {
    "task": ("evaluate", "random", "MODULE:make"),
    "task to align": ("align", "MODULE:make", "--out", "FOLDER/runs", *SHORT),
    "task to compare": ("compare", "MODULE:make", "--out", "FOLDER/runs", *SHORT),
    "task to check": ("check-task", "MODULE:make"),
    "policy": ("evaluate", "MODULE:make", "carpet"),
    "policy to check": ("check-policy", "MODULE:make", "carpet"),
    "prior": ("align", "carpet", "--prior", "MODULE:make", "--out", "FOLDER/runs", *SHORT),
    "expert": ("align", "carpet", "--expert", "MODULE:make", "--out", "FOLDER/runs", *SHORT),
}


def modules() -> Iterator[Case]:
    """Modules that cannot be imported, or do not hold what was asked for."""
    for asked in ASKED.values():
        for source in (*BROKEN.values(), *MAKERS.values()):
            yield Case("modules", asked, source)
        for name in NAMED:
            yield Case("modules", tuple(each.replace("MODULE:make", name) for each in asked))


POLICY = """
import numpy as np
class make:
    calls = 0
    def log_prob(self, state, action):
        values = np.full(len(state), -np.log({n}))
        {log_prob}
        return values
    def sample(self, state, rng):
        actions = rng.integers({n}, size=len(state))
        self.calls += 1
        {sample}
        return actions
"""
SAMPLES = {
    "raises": "1 / 0",
    "exits": "raise SystemExit",
    "halts": "raise BaseException('halt')",
    "wrong keyword": "rng.no_such_thing",
    "list": "actions = actions.tolist()",
    "tensor": "import torch; actions = torch.as_tensor(actions)",
    "tuple": "actions = tuple(actions)",
    "scalar": "actions = int(actions[0])",
    "None": "actions = None",
    "column": "actions = actions[:, None]",
    "too few": "actions = actions[:-1]",
    "empty": "actions = actions[:0]",
    "floats": "actions = actions.astype(float)",
    "NaN": "actions = np.full(len(state), np.nan)",
    "strings": "actions = actions.astype(str)",
    "objects": "actions = actions.astype(object)",
    "booleans": "actions = actions > 0",
    "complex": "actions = actions.astype(complex)",
    "too large": "actions = actions + 100",
    "negative": "actions = -1 - actions",
    "2^64": "actions = np.full(len(state), 2**64 - 1, dtype=np.uint64)",
}
LOG_PROBS = {
    "raises": "1 / 0",
    "exits": "raise SystemExit",
    "list": "values = values.tolist()",
    "tensor": "import torch; values = torch.as_tensor(values)",
    "scalar": "values = float(values[0])",
    "None": "values = None",
    "column": "values = values[:, None]",
    "too few": "values = values[:-1]",
    "NaN": "values = values * np.nan",
    "infinite": "values = values + np.inf",
    "strings": "values = values.astype(str)",
    "objects": "values = values.astype(object)",
    "complex": "values = values.astype(complex)",
    "too large": "values = values + 0.3",
    "too small": "values = values - 0.3",
    "never": "values = values - np.inf",
    "probabilities": "values = np.exp(values)",
}
LATE = {
    name: f"if self.calls > 10: {SAMPLES[name]}"
    for name in ("raises", "exits", "NaN", "list", "column", "too large")
}
WATCHED = {
    "policy": (("evaluate", "MODULE:make", "carpet"), 5),
    "policy to check": (("check-policy", "MODULE:make", "carpet"), 5),
    "prior": (("align", "carpet", "--prior", "MODULE:make", "--out", "FOLDER/runs", *SHORT), 5),
    "in cartpole": (("evaluate", "MODULE:make", "CartPole-v1", "--episodes", "2"), 2),
    "to pretrain": (
        ("pretrain", "CartPole-v1", "--prior", "MODULE:make", "--out", "FOLDER/runs", "--steps", "64"),
        2,
    ),
}


def policies() -> Iterator[Case]:
    """Policies of the user's own that raise, or return what they should not."""
    for arguments, n in WATCHED.values():
        for sample in SAMPLES.values():
            yield Case("policies", arguments, POLICY.format(n=n, sample=sample, log_prob="pass"))
        for log_prob in LOG_PROBS.values():
            yield Case("policies", arguments, POLICY.format(n=n, sample="pass", log_prob=log_prob))
        yield Case("policies", arguments, POLICY.format(n=n + 1, sample="pass", log_prob="pass"))
    for sample in LATE.values():
        arguments, n = WATCHED["in cartpole"]
        yield Case("policies", arguments, POLICY.format(n=n, sample=sample, log_prob="pass"))


EXPERT = """
import numpy as np
class make:
    patience = {patience}
    def __init__(self, task): pass
    def reset(self, rng): {reset}
    def intervene(self, state, policy_action): {intervene}
"""
TAKEOVERS = (
    "1 / 0", "raise SystemExit", "return [4]", "return np.array([1, 2])", "return 5", "return -1",
    "return 2**64", "return 'left'", "return np.nan", "return 1.5", "return {}", "return True", "return b'x'",
    "return np.inf",
)  # fmt: skip
PATIENCES = ("'two'", "-1", "2**64", "float('nan')", "None", "1.5", "[]", "property(lambda self: 1 / 0)")


def experts() -> Iterator[Case]:
    """Experts of the user's own who raise, or do what no action is."""
    arguments = ASKED["expert"]
    for intervene in TAKEOVERS:
        yield Case("experts", arguments, EXPERT.format(patience=1, reset="pass", intervene=intervene))
    for patience in PATIENCES:
        yield Case(
            "experts", arguments, EXPERT.format(patience=patience, reset="pass", intervene="return None")
        )
    for reset in ("1 / 0", "raise SystemExit", "rng.nothing"):
        yield Case("experts", arguments, EXPERT.format(patience=1, reset=reset, intervene="return None"))


TASK = """
import dataclasses
import numpy as np
from gridworlds import TASKS
carpet = TASKS['carpet']()
class Mine:
    name, gamma, horizon, feature_names = 'mine', carpet.gamma, carpet.horizon, carpet.feature_names
    prior, temperature, scaled_prior_weight, oracle = carpet.prior, 0.1, 0.1, None
    make_env, make_learner, make_cloner = carpet.make_env, carpet.make_learner, carpet.make_cloner
    evaluate, load_policy = carpet.evaluate, carpet.load_policy
    {change}
def make(): return Mine()
"""
CHANGES = (
    "def make_env(self, *given, **named): 1 / 0",
    "def make_env(self, *given, **named): return None",
    "def evaluate(self, *given, **named): 1 / 0",
    "def evaluate(self, *given, **named): raise SystemExit",
    "def evaluate(self, *given, **named): return None",
    "def evaluate(self, *given, **named): return {{}}",
    "def evaluate(self, *given, **named): return {{'task_return': 'good'}}",
    "prior = property(lambda self: 1 / 0)",
    "prior = None",
    "prior = 3",
)
CHECKED_CHANGES = (
    "def make_env(self): return carpet.make_env()",
    "oracle = property(lambda self: 1 / 0)",
    "horizon = 2**64",
    "temperature = float('nan')",
)
"""Those that matter to other commands than evaluate."""
CONSTRUCTED = (
    "dataclasses.replace(carpet, temperature=0)", "dataclasses.replace(carpet, horizon=2**64)",
    "dataclasses.replace(carpet, feature_names=('a',))", "dataclasses.replace(carpet, prior=None)",
    "dataclasses.replace(carpet, env_weights=[1])", "dataclasses.replace(carpet, nothing=1)", "Mine(1)",
)  # fmt: skip


def tasks() -> Iterator[Case]:
    """Tasks of the user's own that raise, or do what they should not."""
    asked = ("evaluate", "prior", "MODULE:make"), ASKED["task to check"]
    for arguments in asked:
        for change in CHANGES if arguments[0] == "evaluate" else (*CHANGES, *CHECKED_CHANGES):
            source = TASK.format(change=change.replace("{{", "{").replace("}}", "}"))
            yield Case("tasks", arguments, source, may_blame=True)
    for part in ("name", "gamma", "horizon", "make_env", "prior", "evaluate", "oracle"):
        for arguments in (*asked, ASKED["task to align"]):
            source = TASK.format(change="pass").replace("return Mine()", f"del Mine.{part}; return Mine()")
            yield Case("tasks", arguments, source)
    for made in CONSTRUCTED:
        source = TASK.format(change="pass").replace("return Mine()", f"return {made}")
        yield Case("tasks", ASKED["task to align"], source)


# --- Files ------------------------------------------------------------------------------------------------

BAD_FILES: dict[str, bytes] = {
    "empty": b"",
    "text": b"hello\n" * 50,
    "zip": b"PK\x03\x04" + bytes(60),
    "long header": (2**62).to_bytes(8, "little") + b"{}",
    "null": (4).to_bytes(8, "little") + b"null",
    "list": (2).to_bytes(8, "little") + b"[]",
    "deep": (20_000).to_bytes(8, "little") + b'{"a":' * 4_000,
}


def files() -> Iterator[Case]:
    """Files and folders that are missing, damaged, or something else."""
    bad = [f"FOLDER/{name}" for name in (*BAD_FILES, "missing", "folder")]
    for path in bad:
        for suffix in (".safetensors", ".zip"):
            for task in ("carpet", "CartPole-v1"):
                yield Case("files", ("evaluate", f"{path}{suffix}", task))
            yield Case(
                "files", ("align", "carpet", "--prior", f"{path}{suffix}", "--out", "FOLDER/runs", *SHORT)
            )
            yield Case("files", ("check-policy", f"{path}{suffix}", "carpet"))
    for path in (
        "FOLDER/missing",
        "FOLDER/text.zip",
        "/dev/null",
        "/proc/nowhere",
        "x" * 5_000,
        "\udcff",
        "\x1b[31m",
    ):
        yield Case("files", ("show", path))
        yield Case("files", ("figures", "--runs", path))
        yield Case("files", ("evaluate", f"{path}.safetensors", "carpet"))
        yield Case("files", ("evaluate", f"{path}.zip", "carpet"))
    for path in ("FOLDER/text.zip", "/dev/null", "/proc/nowhere", "FOLDER/text.zip/deeper", "x" * 5_000):
        yield Case("files", ("align", "carpet", "--out", path, *SHORT))
        yield Case("files", ("compare", "carpet", "--out", path, *SHORT))
        yield Case("files", ("pretrain", "CartPole-v1", "--out", path, "--steps", "64"))
    for path in ("FOLDER", "FOLDER/text.zip/film.gif", "/proc/nowhere/film.gif", "x" * 5_000):
        yield Case("files", ("evaluate", "prior", "carpet", "--gif", path))


def shapes() -> Iterator[Case]:
    """Policies of another task: files of both kinds and tables."""
    fits = {
        ("dqn_cartpole", "CartPole-v1"),
        ("ppo_cartpole", "CartPole-v1"),
        ("ppo_elu_cartpole", "CartPole-v1"),
    }
    for file in sorted(DATA.glob("*.zip")):
        for task in ("carpet", "shelf", "CartPole-v1", "MountainCarContinuous-v0"):
            if (file.stem, task) not in fits:
                yield Case("shapes", ("evaluate", str(file), task), says="the task")
    for name in ("shelf", "taller", "wider", "narrower", "three", "five inputs"):
        for task in ("carpet", "CartPole-v1"):
            yield Case("shapes", ("evaluate", f"FOLDER/{name}.safetensors", task))
    table = "import numpy as np\nfrom mereq_min.policies import TabularPolicy\n"
    for shape in ("(3, 5)", "(500, 5)", "(48, 4)", "(48, 6)"):
        source = f"{table}make = TabularPolicy(np.log(np.full({shape}, 1 / {shape}[1])))\n"
        yield Case("shapes", ("evaluate", "MODULE:make", "carpet"), source)
        yield Case("shapes", ("evaluate", "MODULE:make", "CartPole-v1"), source)
        yield Case("shapes", ASKED["prior"], source)


def write_files(folder: Path) -> None:
    """Write the files that the cases name."""
    from deep.nets import mlp
    from deep.policies import DiscretePolicy
    from gridworlds import TASKS

    for name, content in BAD_FILES.items():
        for suffix in (".safetensors", ".zip"):
            (folder / f"{name}{suffix}").write_bytes(content)
    for suffix in (".safetensors", ".zip"):
        (folder / f"folder{suffix}").mkdir()
    save_file(TASKS["shelf"]().prior.arrays(), folder / "shelf.safetensors")
    S, A = TASKS["carpet"]().prior.log_policy.shape
    for name, shape in {"taller": (S + 1, A), "wider": (S, A + 1), "narrower": (S, A - 1)}.items():
        save_file({"log_policy": np.log(np.full(shape, 1 / shape[1]))}, folder / f"{name}.safetensors")
    save_file(DiscretePolicy(mlp([4, 8, 3], 0), 1.0).arrays(), folder / "three.safetensors")
    save_file(DiscretePolicy(mlp([5, 8, 2], 0), 1.0).arrays(), folder / "five inputs.safetensors")


# --- Usage ------------------------------------------------------------------------------------------------


def usage() -> Iterator[Case]:
    """Commands that ask for nothing, or for what does not exist."""
    out = ("--out", "FOLDER/runs")
    for arguments in (
        ("compare", "carpet", "--methods", *out), ("reproduce", "--tasks", "carpet", "--methods", *out),
        ("compare", *out), ("reproduce", "--tasks", *out), ("compare", "", *out), ("align", "", *out),
        ("align", "carpet", "--method", "", *out), ("align", "carpet", "--prior", "", *out),
        ("align", "carpet", "--expert", "", *out), ("evaluate", "", "carpet"), ("evaluate", "prior", ""),
        ("tasks", ""), ("tasks", "carpte"), ("tasks", "--record"), ("show",), ("show", ""), ("",),
        ("alinge",), ("pretrain", ""), ("pretrain", "carpet"), ("check-task", ""),
        ("check-policy", "", "carpet"),
        ("compare", "carpet", "--seeds", "1000000000", *out), ("compare", "carpet", "--engine", "", *out),
        ("evaluate", "expert", "CartPole-v1"), ("evaluate", "prior", "carpet", "--episodes", "5"),
        ("align", "CartPole-v1", *out, *SHORT), ("figures", "--tasks", "", "--runs", "x"),
        ("pretrain", "CartPole-v1", "--prior", "random", "--algo", "dqn", *out),
        ("pretrain", "CartPole-v1", "--algo", "sac", "--prior", "gone.zip", *out),
    ):  # fmt: skip
        yield Case("usage", arguments)


GROUPS = {
    group.__name__: group for group in (usage, experts, tasks, shapes, files, policies, modules, numbers)
}


# --- Typing them ------------------------------------------------------------------------------------------


class Hang(BaseException):
    """A case took too long."""


class Answer(typing.NamedTuple):
    """How the command line answered."""

    verdict: str
    """ok, traceback, hang, silent, unclear, or blames us."""
    code: Any
    printed: str


def write_module(case: Case, folder: Path, number: int) -> dict[str, str]:
    """Write the module of a case; returns what stands for MODULE and FOLDER."""
    name = f"edge_case_{number}"
    source = case.source if isinstance(case.source, bytes) else case.source.encode()
    if source:
        (folder / f"{name}.py").write_bytes(source)
    return {"MODULE": name, "FOLDER": str(folder)}


def type_case(case: Case, folder: Path, number: int) -> Answer:
    """Type a case in this process, in `folder`, and judge the answer."""
    from mereq_min.lab.commands import console
    from mereq_min.lab.commands.main import main

    names = write_module(case, folder, number)
    arguments = list(case.arguments)
    for placeholder, name in names.items():
        arguments = [argument.replace(placeholder, name) for argument in arguments]
    printed, hung = io.StringIO(), False

    def stop(signum: int, frame: FrameType | None) -> None:
        nonlocal hung
        hung = True
        raise Hang

    old = signal.signal(signal.SIGALRM, stop)
    signal.alarm(LONGEST)
    code: Any
    try:
        with (
            contextlib.redirect_stdout(printed),
            contextlib.redirect_stderr(printed),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            console.stderr_console.file = console.console.file = printed
            code = main(arguments)
    except SystemExit as error:
        # The parser's, after its own words; that of a user's module says nothing.
        code = error.code if "--help" in printed.getvalue() else error
    except BaseException as error:
        code = error
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, old)
        console.stderr_console.file = console.console.file = None  # type: ignore[assignment]
        shutil.rmtree(folder / "runs", ignore_errors=True)
    return Answer(judge(case, code, printed.getvalue(), hung), code, printed.getvalue())


def judge(case: Case, code: Any, printed: str, hung: bool) -> str:
    """Say what is wrong with an answer, or ok."""
    if hung:
        return "hang"
    if isinstance(code, BaseException) or "Traceback (most recent" in printed:
        return "traceback"
    if code == 0:
        return "silent"
    ours = [line for line in printed.splitlines() if line.startswith("mereq: ")]
    by_parser = "--help" in printed
    if len(ours) > 1 or (
        not ours and not by_parser and "finding" not in printed and "failed:" not in printed
    ):
        return "unclear"
    if "looks like a bug in mereq-min" in printed and not (case.may_blame and "handed it" in printed):
        return "blames us"
    return "ok" if case.says in printed else "unclear"


@contextlib.contextmanager
def workplace() -> Iterator[Path]:
    """A working directory with the files that the cases name."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        write_files(folder)
        os.chdir(folder)
        kept = tempfile.tempdir
        tempfile.tempdir = str(folder)  # for kept tracebacks
        try:
            yield folder
        finally:
            tempfile.tempdir = kept
            os.chdir(before)


def main_() -> None:
    """Type the cases of the groups named, or all; print the counts, and what is not ok as JSON lines."""
    counts: dict[str, Counter[str]] = {}
    with workplace() as folder:
        number = 0
        for name, group in GROUPS.items():
            if len(sys.argv) > 1 and name not in sys.argv[1:]:
                continue
            counts[name] = Counter()
            for case in group():
                number += 1
                answer = type_case(case, folder, number)
                counts[name][answer.verdict] += 1
                shown = [each[:80] for each in case.arguments]
                last = " ".join(answer.printed.split())[-400:]
                source = case.source if isinstance(case.source, str) else repr(case.source)
                report = {
                    "verdict": answer.verdict,
                    "typed": shown,
                    "code": repr(answer.code)[:200],
                    "said": last,
                }
                print(json.dumps({**report, "source": source[-200:]}), flush=True)
            print(name, dict(counts[name]), file=sys.stderr, flush=True)
    total = sum(counts.values(), Counter())
    print("total", sum(total.values()), dict(total), file=sys.stderr)


if __name__ == "__main__":
    main_()
