"""Other libraries' errors as one line that names the value and what is wrong with it."""

import difflib
import re
from collections.abc import Sequence

from pydantic import ValidationError

_UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument")
_MISSING = ("missing", "missing_argument")


def in_one_line(error: object, most: int = 200) -> str:
    """An error's message without line breaks, cut after `most` characters."""
    return " ".join(str(error).split())[:most]


def shown(value: object, most: int = 100) -> str:
    """A value as Python writes it, in one line, cut after `most` characters."""
    try:
        return in_one_line(repr(value), most)
    except Exception:  # an object of the user's; the message is about another mistake
        return f"an object of {type(value)}"


def explained(error: ValidationError, known: Sequence[str] = (), assign: str = "=") -> str:
    """The problems that pydantic found, in one line, separated by semicolons; of many, the first five.

    A wrong value reads ``name=value: what is wrong``, an unknown name comes with the nearest known one, and a missing name
    with what to add.

    Args:
        error: What pydantic raised.
        known: Names of the fields in their order, those of nested fields dotted, such as ``crosscoder.center``. Without
            them, unknown names get no suggestion and positional arguments are named by number.
        assign: What stands between a name and its value where the user writes it: "=" in Python, ": " in YAML.
    """
    problems: dict[str, list[str]] = {}  # by name and value; a value may be refused once for every type that it could have had
    for one in error.errors(include_url=False):
        name = _name(one["loc"], known)
        if one["type"] in _UNKNOWN:
            listed = any(problem.startswith("unknown key") for problem in problems)
            problems[f"unknown key {shown(name, 60)}{_suggestion(name, known, listed)}"] = []
        elif one["type"] in _MISSING:
            problems[f"key {name!r} is missing; add '{name}{assign}...'"] = []
        else:
            value = f"{name}={shown(one['input'])}: " if name else ""
            wrong = one["msg"].removeprefix("Value error, ").replace("Input should", "should", 1)
            problems.setdefault(value, [])
            problems[value] += [wrong] if wrong not in problems[value] else []
    # "scale='a' must be ..." is a sentence as it is.
    lines = [re.sub(": (must be|is) ", r" \1 ", value + " or ".join(wrong), count=1) for value, wrong in problems.items()]
    return "; ".join(lines[:5] + [f"and {len(lines) - 5} more"] * (len(lines) > 5))


def _name(location: Sequence[int | str], known: Sequence[str]) -> str:
    """The field's dotted name, without the types of a union that pydantic appends to it."""
    parts = list(location)
    if parts and isinstance(parts[0], int) and parts[0] < len(known):
        parts[0] = known[parts[0]]  # a positional argument
    names = [".".join(map(str, parts[: i + 1])) for i in range(len(parts))]
    last = max((i for i, name in enumerate(names) if name in known), default=len(names) - 1)
    if names and _siblings(names[last], known, inside=True):
        return names[-1]
    while last + 1 < len(parts) and isinstance(parts[last + 1], int):  # an item of a list
        last += 1
    return names[last] if names else ""


def _siblings(name: str, known: Sequence[str], inside: bool = False) -> list[str]:
    """Known names beside `name`, or those one level inside it."""
    parent = f"{name}." if inside else name[: name.rfind(".") + 1]
    return [one for one in known if one.startswith(parent) and "." not in one[len(parent) :]]


def _suggestion(name: str, known: Sequence[str], listed: bool) -> str:
    """The nearest known name, and unless they were listed before, all of them."""
    candidates = [one.rpartition(".")[2] for one in _siblings(name, known)]
    nearest = difflib.get_close_matches(name.rpartition(".")[2], candidates, n=1, cutoff=0)
    if not nearest:
        return ""
    return f"; did you mean {nearest[0]!r}?" + ("" if listed else f" Known are {', '.join(candidates)}")
