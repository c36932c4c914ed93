"""Flags made from the fields of a config: each option is written once, as a field with its line."""

from __future__ import annotations

import argparse
from dataclasses import fields
from typing import Any, get_args, get_origin, get_type_hints

from qwell.cli.options import Option, text
from qwell.train.config import TrainConfig, choices, helps
from qwell.train.tour_config import TourConfig


def flags(
    config: type[TrainConfig | TourConfig], *, with_defaults: bool = False
) -> tuple[Option, ...]:
    """An option for every field; none has a default, so what was given can be told apart.
    with_defaults: their help ends with the field's own, for a config that no recipe fills."""
    hints, lines, allowed = get_type_hints(config), helps(config), choices(config)
    if with_defaults:
        lines = {f.name: f"{lines[f.name]} ({f.default})" for f in fields(config)}
    return tuple(
        _option(field.name, hints[field.name], lines[field.name], allowed.get(field.name))
        for field in fields(config)
    )


def _option(name: str, hint: Any, line: str, allowed: tuple[str, ...] | None) -> Option:
    flag = f"--{name.replace('_', '-')}"
    how: dict[str, Any] = {"dest": name, "help": line.replace("%", "%%")}
    if hint is bool:
        return Option(flag, action=argparse.BooleanOptionalAction, **how)
    if allowed:
        return Option(flag, choices=[value for value in allowed if value], **how)
    if get_origin(hint) is tuple:
        kind = get_args(hint)[0]
        return Option(flag, action="append", type=_KINDS[kind], metavar=_METAVARS[kind], **how)
    return Option(flag, type=_KINDS[hint], metavar=_METAVARS[hint], **how)


def _whole(value: str) -> int:
    try:
        return int(value.replace("_", ""))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{value!r} is no whole number") from error


def _number(value: str) -> float:
    try:
        return float(value)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{value!r} is no number") from error


_KINDS: dict[Any, Any] = {int: _whole, float: _number, str: text}
_METAVARS = {int: "N", float: "X", str: "TEXT"}
