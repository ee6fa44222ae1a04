"""Running checks on an object and reporting what each finds in plain words."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

Subject = TypeVar("Subject")


@dataclass(frozen=True)
class Check(Generic[Subject]):
    """One promise, and how its findings are found."""

    title: str
    find: Callable[[Subject], Iterator[str]]
    is_basic: bool = False
    """Whether what follows makes no sense without it."""


def run_checks(checks: Sequence[Check[Subject]], subject: Subject) -> Iterator[tuple[str, list[str] | None]]:
    """Title and findings of each check as it is made; None where a basic one before it failed."""
    goes_on = True
    for check in checks:
        found = run_check(check, subject) if goes_on else None
        goes_on = goes_on and not (check.is_basic and found)
        yield check.title, found


def run_check(check: Check[Subject], subject: Subject) -> list[str]:
    """Findings of one check; what the subject raises is one of them."""
    found = []
    try:
        for finding in check.find(subject):
            found.append(finding)
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{last.filename}:{last.lineno}, in {last.name}"
        found.append(f"{check.title}: raised {type(error).__name__}: {error} ({place}); make that work first")
    return found


def find_missing(what: str, thing: Any, protocol: type) -> Iterator[str]:
    """Names of a protocol that something does not offer."""
    names = [*protocol.__annotations__, *(name for name in vars(protocol) if not name.startswith("_"))]
    for name in names:
        if name not in dir(thing) and not hasattr(thing, name):  # dir evaluates no property
            see = f"see mereq_min.interfaces.{protocol.__name__}"
            yield f"{what} must offer `{name}`, this {type(thing).__name__} does not; {see}"
        elif callable(getattr(protocol, name, None)) and not callable(getattr(thing, name)):
            yield f"`{name}` of {what} must be a method, it is a {type(getattr(thing, name)).__name__}"
