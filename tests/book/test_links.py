"""What the book's pages name exists, and what they derive is tied to the code: links both ways."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = {path.name: path.read_text(encoding="utf-8") for path in sorted((ROOT / "book").glob("*.md"))}
CHAPTERS = {name: text for name, text in PAGES.items() if name[0].isdigit()}
LABEL = re.compile(r"^\$\$ \((eq-[\w-]+)\)$|^:label: (eq-[\w-]+)$", flags=re.MULTILINE)


def labels(page: str) -> list[str]:
    return [in_dollars or in_directive for in_dollars, in_directive in LABEL.findall(page)]


def closing_box(chapter: str) -> str:
    """What a chapter says of its tests."""
    return chapter.partition(":::{admonition} Tested in")[2]


def docstrings(package: str) -> str:
    """All docstrings of a package's modules, classes and functions, joined."""
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in (ROOT / package).rglob("*.py")]
    owners = (ast.Module, ast.ClassDef, ast.FunctionDef)
    texts = [ast.get_docstring(node) for tree in trees for node in ast.walk(tree) if isinstance(node, owners)]
    return "\n".join(text for text in texts if text)


NAMED = set(re.findall(r"\beq-[\w-]+", "\n".join(map(docstrings, ("mereq_min", "gridworlds", "deep")))))
"""Equations that docstrings name."""


def test_equations_are_found_in_either_notation():
    page = "$$\na\n$$ (eq-one)\n\n```{math}\n:label: eq-two\nb\n```\n\nsee {eq}`eq-three`"
    assert labels(page) == ["eq-one", "eq-two"]


def test_no_two_equations_share_a_label():
    every = [label for page in PAGES.values() for label in labels(page)]
    assert len(every) == len(set(every)) > 0


def test_docstrings_name_equations_that_the_book_has():
    assert {label for page in PAGES.values() for label in labels(page)} >= NAMED


@pytest.mark.parametrize("name", CHAPTERS)
def test_each_equation_is_named_by_a_docstring_or_beside_its_test(name):
    beside_a_test = set(re.findall(r"\{eq\}`(eq-[\w-]+)`", closing_box(CHAPTERS[name])))
    assert set(labels(CHAPTERS[name])) - NAMED - beside_a_test == set()


@pytest.mark.parametrize("name", CHAPTERS)
def test_each_test_that_a_chapter_names_exists(name):
    quoted = re.findall(r"`(tests/[\w/]+\.py)::(\w+)", CHAPTERS[name])
    assert quoted, "a chapter closes with the tests that pin its claims"
    for file, test in quoted:
        assert f"\ndef {test}(" in (ROOT / file).read_text(encoding="utf-8"), f"{file} has no {test}"


@pytest.mark.parametrize("name", PAGES)
def test_each_name_of_the_library_is_a_link(name):
    """Links are resolved by the build; a dotted name in plain code would go unchecked."""
    text = re.sub(r"```.*?```|\{[\w:]+\}`[^`]*`", "", PAGES[name], flags=re.DOTALL)
    assert re.findall(r"`(?:mereq_min|gridworlds|deep)\.[\w.]+(?:\(\))?`", text) == []


@pytest.mark.parametrize("name", PAGES)
def test_each_figure_has_a_number_and_a_text_for_those_who_do_not_see_it(name):
    for options in re.findall(r"^---\nmystnb:\n(.*?)^---$", PAGES[name], flags=re.MULTILINE | re.DOTALL):
        assert re.search(r'^    alt: ".{15,}"$', options, flags=re.MULTILINE)
        assert re.search(r"^    name: fig-[\w-]+$", options, flags=re.MULTILINE)
        assert re.search(r"^    caption: \|\n      \S", options, flags=re.MULTILINE)


@pytest.mark.parametrize("name", [name for name in CHAPTERS if name >= "03"])
def test_each_chapter_shows_the_lines_of_the_road_that_it_replaces(name):
    shown = re.findall(r"```\{literalinclude\} road.py\n(.*?)```", CHAPTERS[name], flags=re.DOTALL)
    assert shown and all(":lineno-match:" in options for options in shown)
    road = (ROOT / "book/road.py").read_text(encoding="utf-8")
    for options in shown:
        for function in re.findall(":pyobject: (.+)", options):
            assert f"\ndef {function}(" in road
