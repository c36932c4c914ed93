"""What a JSON value may be, as values: each rule reads one and describes itself as JSON Schema.

So one table of a request checks it, names what is wrong by its path, and is its documentation.
`null` is the same as leaving a field out. A field nobody knows is collected, not dropped in
silence; what to do with those is the reader's business. Knows no field of any request.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from qwell.server.errors import ApiError

Json = dict[str, Any]
Strange = list[str]
"""Paths of fields that are unknown or have no effect here; rules append to it."""


class Rule(Protocol):
    """`read` gives the checked value or raises ApiError 400 naming `path`."""

    def fits(self, value: Any) -> bool:
        """Whether `value` is of this rule's kind: chooses among several rules."""
        ...

    def read(self, value: Any, path: str, strange: Strange) -> Any: ...

    def schema(self) -> Json: ...


def wrong(path: str, value: Any, expected: str) -> ApiError:
    """The refusal of a value that is not what `expected` says, in the name of its field."""
    shown = type(value).__name__ if isinstance(value, dict | list) else repr(value)[:60]
    shown = {"dict": "an object", "list": "a list", "None": "null"}.get(shown, shown)
    return ApiError(400, f"{path} is {shown}: give {expected}", param=path, code="invalid_value")


@dataclass(frozen=True)
class Number:
    """A number from low to high; `read` gives a float."""

    low: float
    high: float

    def fits(self, value: Any) -> bool:
        return isinstance(value, int | float) and not isinstance(value, bool)

    def read(self, value: Any, path: str, strange: Strange) -> float:
        if not self.fits(value) or not self.low <= value <= self.high:
            raise wrong(path, value, f"a number from {self.low:g} to {self.high:g}")
        return float(value)

    def schema(self) -> Json:
        return {"type": "number", "minimum": self.low, "maximum": self.high}


@dataclass(frozen=True)
class Whole:
    """A whole number from low to high; 3.0 is one."""

    low: int
    high: int

    def fits(self, value: Any) -> bool:
        is_whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
        return is_whole and not isinstance(value, bool)

    def read(self, value: Any, path: str, strange: Strange) -> int:
        if not self.fits(value) or not self.low <= value <= self.high:
            raise wrong(path, value, f"a whole number from {self.low} to {self.high}")
        return int(value)

    def schema(self) -> Json:
        return {"type": "integer", "minimum": self.low, "maximum": self.high}


@dataclass(frozen=True)
class Flag:
    """true or false."""

    def fits(self, value: Any) -> bool:
        return isinstance(value, bool)

    def read(self, value: Any, path: str, strange: Strange) -> bool:
        if not isinstance(value, bool):
            raise wrong(path, value, "true or false")
        return value

    def schema(self) -> Json:
        return {"type": "boolean"}


@dataclass(frozen=True)
class Text:
    """A text of so many characters, or one of `among`."""

    longest: int = 1 << 26
    shortest: int = 0
    among: tuple[str, ...] = ()

    def fits(self, value: Any) -> bool:
        return isinstance(value, str)

    def read(self, value: Any, path: str, strange: Strange) -> str:
        if not isinstance(value, str):
            raise wrong(path, value, "a text")
        if self.among and value not in self.among:
            raise wrong(path, value, f"one of {', '.join(self.among)}")
        if not self.shortest <= len(value) <= self.longest:
            what = f"{self.shortest:,} to {self.longest:,} characters"
            raise ApiError(400, f"{path} has {len(value):,} characters: give {what}", path)
        return value

    def schema(self) -> Json:
        if self.among:
            return {"type": "string", "enum": list(self.among)}
        return {"type": "string", "minLength": self.shortest, "maxLength": self.longest}


@dataclass(frozen=True)
class Many:
    """A list; `read` gives a tuple."""

    rule: Rule
    most: int
    least: int = 0

    def fits(self, value: Any) -> bool:
        return isinstance(value, list) and (not value or self.rule.fits(value[0]))

    def read(self, value: Any, path: str, strange: Strange) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise wrong(path, value, "a list")
        if not self.least <= len(value) <= self.most:
            what = f"give {self.least:,} to {self.most:,}"
            raise ApiError(400, f"{path} has {len(value):,} entries: {what}", path)
        return tuple(self.rule.read(item, f"{path}[{i}]", strange) for i, item in enumerate(value))

    def schema(self) -> Json:
        low, high = self.least, self.most
        return {"type": "array", "items": self.rule.schema(), "minItems": low, "maxItems": high}


@dataclass(frozen=True)
class Mapped:
    """An object with any names; `key` makes its keys of them or raises ValueError."""

    rule: Rule
    most: int
    key: Callable[[str], Any]
    pattern: str

    def fits(self, value: Any) -> bool:
        return isinstance(value, dict)

    def read(self, value: Any, path: str, strange: Strange) -> dict[Any, Any]:
        if not isinstance(value, dict):
            raise wrong(path, value, "an object")
        if len(value) > self.most:
            raise ApiError(
                400, f"{path} has {len(value):,} entries: give at most {self.most}", path
            )
        found = {}
        for name, item in value.items():
            try:
                key = self.key(name)
            except ValueError as error:
                raise wrong(path, name, f"names that match {self.pattern}") from error
            found[key] = self.rule.read(item, f"{path}.{name[:40]}", strange)
        return found

    def schema(self) -> Json:
        return {
            "type": "object",
            "maxProperties": self.most,
            "propertyNames": {"pattern": self.pattern},
            "additionalProperties": self.rule.schema(),
        }


@dataclass(frozen=True)
class Free:
    """Any JSON object, read elsewhere."""

    def fits(self, value: Any) -> bool:
        return isinstance(value, dict)

    def read(self, value: Any, path: str, strange: Strange) -> Json:
        if not isinstance(value, dict):
            raise wrong(path, value, "an object")
        return value

    def schema(self) -> Json:
        return {"type": "object"}


@dataclass(frozen=True)
class Either:
    """The first rule whose kind the value is of."""

    rules: tuple[Rule, ...]
    expected: str

    def fits(self, value: Any) -> bool:
        return any(rule.fits(value) for rule in self.rules)

    def read(self, value: Any, path: str, strange: Strange) -> Any:
        for rule in self.rules:
            if rule.fits(value):
                return rule.read(value, path, strange)
        raise wrong(path, value, self.expected)

    def schema(self) -> Json:
        return {"anyOf": [rule.schema() for rule in self.rules]}


@dataclass(frozen=True)
class Record:
    """An object with known names: a dataclass whose fields were made by `option`."""

    of: type

    def fits(self, value: Any) -> bool:
        return isinstance(value, dict)

    def read(self, value: Any, path: str, strange: Strange) -> Any:
        if not isinstance(value, dict):
            raise wrong(path or "the body", value, "an object")
        prefix, known = f"{path}." if path else "", dataclasses.fields(self.of)
        names = {field.name for field in known}
        strange += [
            f"{prefix}{name[:60]}"
            for name, item in value.items()
            if name not in names and item is not None
        ]
        found = {}
        for field in known:
            item, how = value.get(field.name), field.metadata
            if item is not None:
                found[field.name] = how["rule"].read(item, f"{prefix}{field.name}", strange)
                if how["has_no_effect"]:
                    strange.append(f"{prefix}{field.name}")
            elif field.default is dataclasses.MISSING:
                raise ApiError(
                    400, f"{prefix}{field.name} is missing", f"{prefix}{field.name}", "missing"
                )
        return self.of(**found)

    def schema(self) -> Json:
        known = dataclasses.fields(self.of)
        properties = {
            field.name: _described(field.metadata["rule"], field.metadata["text"])
            for field in known
        }
        needed = [field.name for field in known if field.default is dataclasses.MISSING]
        about = (self.of.__doc__ or "").partition("\n")[0]
        return {
            "type": "object",
            "description": about,
            "properties": properties,
            **({"required": needed} if needed else {}),
        }


def _described(rule: Rule, text: str) -> Json:
    return {**rule.schema(), "description": text} if text else rule.schema()


def option(rule: Rule, text: str = "", *, default: Any = None, has_no_effect: bool = False) -> Any:
    """A dataclass field that may be left out. has_no_effect: taken so that clients that send it
    work, and told as ignored."""
    how = {"rule": rule, "text": text, "has_no_effect": has_no_effect}
    return dataclasses.field(default=default, metadata=how)


def needed(rule: Rule, text: str = "") -> Any:
    """A dataclass field that must be there."""
    return dataclasses.field(metadata={"rule": rule, "text": text, "has_no_effect": False})
