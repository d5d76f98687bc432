"""What a setting accepts, in words, and how its value is shown: read from the fields of a settings class."""

import types
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings


@dataclass(frozen=True)
class Form:
    """How a setting's value is written, in words, where its type does not say it."""

    words: str


Settings = type[BaseSettings]


def prefix_of(settings: Settings) -> str:
    """What the environment variables of these settings begin with."""
    return settings.model_config["env_prefix"]


def env_name(settings: Settings, field: str) -> str:
    """The environment variable of a field."""
    return prefix_of(settings) + field.upper()


def kind(field: FieldInfo) -> str:
    """What a field accepts, in words: `a whole number, at least 1`."""
    type_, notes = unwrapped(field)
    for note in notes:
        if isinstance(note, Form):
            return note.words
    if get_origin(type_) is Literal:
        return "one of " + ", ".join(get_args(type_))
    names = {bool: "true or false", int: "a whole number", float: "a number", Path: "a path", str: "text"}
    return ", ".join([names[type_], *filter(None, [_range(notes)])])


def shown(name: str, value: object) -> str:
    """A variable's value as it may appear in a message or a log: cut when long, hidden when secret."""
    if {"SECRET", "TOKEN", "PASSWORD", "KEY"} & set(name.upper().split("_")):
        return "hidden"
    match value:
        case None:
            return "not set"
        case bool():
            return str(value).lower()
        case _:
            text = str(value)
            return text if len(text) <= 80 else text[:77] + "..."


def unwrapped(field: FieldInfo) -> tuple[Any, list[Any]]:
    """The type inside `Annotated[...]` and `... | None`, and all that was annotated on the way to it."""
    type_, notes = field.annotation, list(field.metadata)
    while True:
        if get_origin(type_) is Annotated:
            type_, *more = get_args(type_)
            notes += [
                part for note in more for part in (note.metadata if isinstance(note, FieldInfo) else [note])
            ]
        elif get_origin(type_) in (Union, types.UnionType):
            type_, *_ = [part for part in get_args(type_) if part is not type(None)]
        else:
            return type_, notes


def _range(notes: list[Any]) -> str:
    words = []
    for note in notes:
        match note:
            case Ge(ge=low):
                words.append(f"at least {low}")
            case Gt(gt=low):
                words.append(f"above {low}")
            case Le(le=high):
                words.append(f"at most {high}")
            case Lt(lt=high):
                words.append(f"below {high}")
    return ", ".join(words)
