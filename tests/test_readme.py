"""What README shows works as it stands there."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from mereq_min.lab.commands.main import COMMANDS
from mereq_min.lab.plugins import find_entries

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)


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


def test_chapter_11_shows_the_same_lander():
    (code,) = (block for block in BLOCKS if "LunarLander" in block)
    assert f"```python\n{code}```" in (ROOT / "book/11-gymnasium.md").read_text()


SHOWN = re.findall(
    r"^mereq ([\w-]+)", README.read_text() + (ROOT / "RESULTS.md").read_text(), flags=re.MULTILINE
)


@pytest.mark.parametrize("name", sorted(set(SHOWN)))
def test_every_command_that_is_shown_exists(name):
    assert name in {*COMMANDS, *(entry.name for entry in find_entries("commands"))}


@pytest.mark.parametrize("document", ["README.md", "RESULTS.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_every_file_that_is_linked_is_there(document):
    links = re.findall(r"\]\((?!http)([^)#]+)\)", (ROOT / document).read_text())
    assert [link for link in links if not (ROOT / link).exists()] == []
