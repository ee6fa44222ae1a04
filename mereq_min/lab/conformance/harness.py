"""Runs checks on an object and reports in plain words what each of them finds."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

Subject = TypeVar("Subject")
"""Type of the object that is checked."""


@dataclass(frozen=True)
class Check(Generic[Subject]):
    """One promise, and how to find out whether it is kept."""

    title: str
    find: Callable[[Subject], Iterator[str]]
    """Yields a sentence for each way in which the promise is broken."""
    is_basic: bool = False
    """Whether the checks after it make no sense if it fails."""


@dataclass(frozen=True)
class Result:
    """Outcome of one check."""

    title: str
    status: Literal["holds", "fails", "not checked", "no oracle"]
    """"not checked" follows a basic check that failed; "no oracle" means that the check does not apply."""
    findings: tuple[str, ...] = ()
    """A sentence for each way in which the promise is broken; empty unless the check fails."""


def run_checks(checks: Sequence[Check[Subject]], subject: Subject) -> Iterator[Result]:
    """Yield the result of each check as soon as it is made."""
    continues = True
    for check in checks:
        if not continues:
            yield Result(check.title, "not checked")
            continue
        findings = run_check(check, subject)
        continues = not (check.is_basic and findings)
        yield Result(check.title, "fails" if findings else "holds", tuple(findings))


def run_check(check: Check[Subject], subject: Subject) -> list[str]:
    """Return the findings of one check; an exception that the subject raises is one of them."""
    findings = []
    try:
        for finding in check.find(subject):
            findings.append(finding)
    except Exception as error:
        findings.append(f"{check.title}: raised {describe_error(error)}; make that work first")
    return findings


def describe_error(error: Exception) -> str:
    """Return an exception's type and message, and the place where it was raised."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({last.filename}:{last.lineno}, in {last.name})"


def count(n: int, noun: str) -> str:
    """Return a number with its noun, in the plural unless the number is 1."""
    return f"{n} {noun}{'' if n == 1 else 's'}"


def find_missing(what: str, thing: Any, protocol: type) -> Iterator[str]:
    """Yield a finding for each member of a protocol that an object lacks.

    Args:
        what: what the object should be, as a finding calls it.
        thing: the object.
        protocol: one of `mereq_min.interfaces`.
    """
    names = [*protocol.__annotations__, *(name for name in vars(protocol) if not name.startswith("_"))]
    for name in names:
        if name not in dir(thing) and not hasattr(thing, name):  # dir evaluates no property
            see = f"see mereq_min.interfaces.{protocol.__name__}"
            yield f"{what} must offer `{name}`, but this {type(thing).__name__} does not; {see}"
        elif callable(getattr(protocol, name, None)) and not callable(getattr(thing, name)):
            yield f"`{name}` of {what} must be a method, but is a {type(getattr(thing, name)).__name__}"
