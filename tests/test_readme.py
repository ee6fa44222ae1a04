"""What README shows works as it stands there."""

import json
import re
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

from mereq_min.lab.commands.main import COMMANDS
from mereq_min.lab.plugins import find_entries

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)


def test_a_prior_of_ones_own_is_aligned(capsys):
    (code,) = (block for block in BLOCKS if "sleepy" in block)
    exec(compile(code, "README.md", "exec"), {})
    rates = [float(line.split()[1]) for line in capsys.readouterr().out.splitlines() if line[0].isdigit()]
    assert len(rates) == 5
    assert rates[0] > 0.2
    assert rates[-1] < 0.1


def test_a_torch_module_is_a_prior_for_the_highway(capsys):
    (code,) = (block for block in BLOCKS if "torch.nn" in block)
    exec(compile(code, "README.md", "exec"), {})
    assert 0.0 <= float(capsys.readouterr().out) <= 1.0


def test_a_task_of_ones_own_is_aligned(tmp_path):
    (code,) = (block for block in BLOCKS if "garden" in block)
    (tmp_path / "my_task.py").write_text(code)
    command = [Path(sys.executable).with_name("mereq"), "align", "my_task:make", "--method", "MEReQ-L"]
    shown = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert shown.returncode == 0, shown.stdout + shown.stderr
    (rates,) = re.findall(r"intervention rate +│ +([\d.]+) │ +([\d.]+) │", shown.stdout)
    assert float(rates[0]) > 0.25
    assert float(rates[1]) < 0.05


@pytest.mark.slow
def test_a_lander_of_ones_own_is_aligned_in_an_empty_folder(tmp_path):
    (code,) = (block for block in BLOCKS if "LunarLander" in block)
    assert len([line for line in code.splitlines() if line.strip()]) <= 25
    (tmp_path / "my_lander.py").write_text(code)
    shown = subprocess.run(
        [sys.executable, "my_lander.py"], cwd=tmp_path, capture_output=True, text=True, timeout=1800
    )
    assert shown.returncode == 0, shown.stderr
    *iterations, returns = shown.stdout.splitlines()
    assert float(iterations[0].split()[1]) > 0.25
    assert float(iterations[-1].split()[1]) < 0.05
    before, after = map(float, returns.split())
    assert after > 0.9 * before


def test_a_task_is_a_gymnasium_environment(capsys):
    (code,) = (block for block in BLOCKS if "gymnasium.make" in block)
    exec(compile(code, "README.md", "exec"), {})
    assert "3)" in capsys.readouterr().out  # an RGB image


@pytest.mark.parametrize(
    "name", sorted(set(re.findall(r"^mereq ([\w-]+)", README.read_text(), flags=re.MULTILINE)))
)
def test_every_command_that_is_shown_exists(name):
    assert name in {*COMMANDS, *(entry.name for entry in find_entries("commands"))}


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_every_file_that_is_linked_is_there(document):
    links = re.findall(r"\]\((?!http)([^)#]+)\)", (ROOT / document).read_text())
    assert [link for link in links if not (ROOT / link).exists()] == []


def read_table(header: str) -> dict[str, dict[str, str]]:
    """Cells of a table of README by row and column; the header is that of its first column."""
    table = re.search(rf"^\| {re.escape(header)} \|.*\n(?:\|.*\n)+", README.read_text(), flags=re.MULTILINE)
    columns, _, *rows = ([cell.strip() for cell in line.split("|")[1:-1]] for line in table[0].splitlines())
    return {row[0]: dict(zip(columns[1:], row[1:], strict=True)) for row in rows}


def test_the_table_of_solvers_is_the_record():
    record = json.loads((ROOT / "figures/benchmarks/solvers.json").read_text())["seconds"]
    names = {
        "value iteration (numpy)": ("value iteration, stencil", "value iteration, sparse matrix"),
        "modified policy iteration": ("modified policy iteration",),
        "`imitation`, dense, finite horizon": ("imitation, dense matrix",),
        "QuantEcon, without entropy": ("QuantEcon, without entropy",),
        "`solve_soft`, Newton (default)": ("Newton (default)",),
        '`solve_soft(..., backend="numba")`': ("Newton, numba",),
    }
    timed = {name for runs in record.values() for name in runs}
    names = {row: keys for row, keys in names.items() if timed.intersection(keys)}
    table = read_table("seconds (times the best peer)")
    assert list(table) == list(names)
    for side, runs in record.items():
        medians = {name: statistics.median(seconds) for name, seconds in runs.items()}
        best = min(median for name, median in medians.items() if not name.startswith("Newton"))
        for row, keys in names.items():
            median = min((medians[key] for key in keys if key in medians), default=None)
            cell = "" if median is None else f"{median:.2g}"
            if row.startswith("`solve_soft"):
                cell += f" ({best / median:.2g}x)"
            assert table[row][f"{side}x{side}"] == (f"**{cell}**" if median == best else cell), (row, side)
