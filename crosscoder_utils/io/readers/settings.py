"""A configuration file's settings, taken one by one; what no reader takes is refused by name."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

LARGEST = 1e18  # of numbers in a file or an argument; neither infinite nor NaN
_TEXT, _FLAG = "a text", "true or false"
_COUNT, _NUMBER, _MAPPING = "a whole number, 0 or more", "a number", "keys and values"


class Settings:
    """Keys and values of one file. A key that is missing or null has its default.

    Attributes:
        path: The file, for error messages; a nested mapping has the file's path and its own key.
    """

    def __init__(self, path: Path | str, values: Any) -> None:
        self.path = path
        if not isinstance(values, Mapping):
            raise ValueError(f"{path} holds {_short(values)}, not keys and values; give the file that the library wrote")
        self._values, self._taken = dict(values), set()

    def __contains__(self, key: str) -> bool:
        return self._values.get(key) is not None

    def text(self, key: str, default: str | None = None) -> str | None:
        """A text."""
        return self._take(key, default, _TEXT, lambda value: isinstance(value, str))

    def flag(self, key: str, default: bool = False) -> bool:
        """True or false."""
        return self._take(key, default, _FLAG, lambda value: isinstance(value, bool))

    def count(self, key: str, default: int | None = None) -> int | None:
        """A whole number, 0 or more."""
        return self._take(key, default, _COUNT, lambda value: _is_number(value) and isinstance(value, int) and value >= 0)

    def number(self, key: str, default: float | None = None) -> float | None:
        """A finite number, as a float."""
        value = self._take(key, default, _NUMBER, _is_number)
        return None if value is None else float(value)

    def texts(self, key: str, example: str) -> list[str] | None:
        """A list of texts."""
        wanted = f"a list of texts such as {example!r}"
        return self._take(key, None, wanted, lambda value: isinstance(value, list) and all(isinstance(v, str) for v in value))

    def counts(self, key: str) -> list[int] | None:
        """A list of whole numbers, 0 or more."""
        return self._take(key, None, "a list of whole numbers, 0 or more", _is_counts)

    def mapping(self, key: str) -> "Settings":
        """Nested settings; empty if the key is missing."""
        value = self._take(key, {}, _MAPPING, lambda value: isinstance(value, Mapping))
        return Settings(f"{self.path}: {key}", value)

    def any(self, key: str) -> Any:
        """A value of any type, None if it is missing."""
        return self._take(key, None, "anything", lambda value: True)

    def find(self, key: str) -> "Settings | None":
        """The settings that hold `key`: these, or nested ones at most eight levels below."""
        level = [self._values]
        for _ in range(8):
            for values in level:
                if values.get(key) is not None:
                    return Settings(self.path, values)
            level = [inner for values in level for inner in values.values() if isinstance(inner, Mapping)]
        return None

    def expect(self, key: str, allowed: Collection[Any], why: str) -> None:
        """Raise a `ValueError` unless the key is missing or has one of the values that leave results as they are."""
        value = self.any(key)
        if value is not None and not any(value is one or (value == one and type(value) is type(one)) for one in allowed):
            raise ValueError(f"{self.path} says {key}: {_short(value)}; {why}")

    def expect_sizes(self, **sizes: tuple[str, int]) -> None:
        """Raise a `ValueError` if the file states other sizes than its weights have: key=(what it counts, number found)."""
        for key, (what, found) in sizes.items():
            stated = self.count(key)
            if stated is not None and stated != found:
                raise ValueError(f"{self.path} says {key}: {stated}, its weights have {found} {what}; take both from one run")

    def ignore(self, *keys: str) -> None:
        """Mark settings that do not change what the weights compute."""
        self._taken.update(keys)

    def refuse_rest(self) -> None:
        """Raise a `ValueError` if there is a setting that was neither taken nor ignored."""
        rest = [key for key in self._values if key not in self._taken]
        if rest:
            raise ValueError(
                f"{self.path} has the setting {_short(rest[0])}: {_short(self._values[rest[0]])}, which is not known here and "
                "could change results; if it only concerned training, delete it from a copy of the file"
            )

    def _take(self, key: str, default: Any, wanted: str, fits) -> Any:
        self._taken.add(key)
        value = self._values.get(key)
        if value is None:
            return default
        if not fits(value):
            raise ValueError(f"{self.path} says {key}: {_short(value)}; it must be {wanted}")
        return value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < LARGEST


def _is_counts(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(_is_number(v) and isinstance(v, int) and v >= 0 for v in value)


def _short(value: Any) -> str:
    """The value as Python writes it, cut after 60 characters."""
    if isinstance(value, Mapping | list | tuple | set) and len(value) > 8:
        return f"{type(value).__name__} with {len(value)} entries"
    written = " ".join(repr(value).split())
    return written if len(written) <= 60 else f"{written[:57]}..."
