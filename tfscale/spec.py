"""Specs that people write, read strictly: an unknown key or a wrong value is a problem with its place, never ignored."""

from __future__ import annotations

import difflib
import reprlib
import types
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError
from pydantic.alias_generators import to_camel

from tfscale.errors import BadInputError, Problem
from tfscale.quantity import duration_s, micro_usd

__all__ = ["Duration", "Spec", "Usd", "parse", "suggest"]

Duration = Annotated[int, BeforeValidator(duration_s)]
"""Seconds, written as ``5m``."""
Usd = Annotated[int, BeforeValidator(micro_usd)]
"""Micro-USD, written as dollars."""


class Spec(BaseModel):
    """Base of every spec: keys in camelCase, none unknown, no value converted that is of another type."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, alias_generator=to_camel, allow_inf_nan=False)


S = TypeVar("S", bound=Spec)


def parse(spec: type[S], value: object, *, where: str, field: str) -> S:
    """Return `value` as this spec. Raises ``BadInputError`` with every problem; `where` and `field` are their place."""
    try:
        return spec.model_validate({} if value is None else value)
    except ValidationError as error:
        raise BadInputError(*_problems(spec, error, where=where, field=field)) from None


def suggest(name: str, known: Sequence[str]) -> str:
    """Return the advice for a name that is not known: the nearest one, else all of them.

    >>> suggest("idleAftr", ["idleAfter", "mode"]), suggest("x", ["idleAfter", "mode"]), suggest("x", [])
    ('idleAfter?', 'one of idleAfter, mode', 'none')
    """
    near = difflib.get_close_matches(name, known, n=1)
    if near:
        return f"{near[0]}?"
    return f"one of {', '.join(sorted(known))}" if known else "none"


def _problems(spec: type[Spec], error: ValidationError, *, where: str, field: str) -> Iterator[Problem]:
    for one in error.errors(include_url=False):
        loc = one["loc"]
        if one["type"] == "extra_forbidden":
            key = str(loc[-1])
            yield Problem(
                where=where, field=f"a key of {_path(field, loc[:-1])}", value=key, want=suggest(key, _keys(spec, loc[:-1]))
            )
        elif one["type"] == "missing":
            yield Problem(where=where, field=_path(field, loc), value="", want="a value, which is required")
        else:
            yield Problem(where=where, field=_path(field, loc), value=_shown(one["input"]), want=_want(one["msg"]))


def _path(field: str, loc: Sequence[int | str]) -> str:
    # A key with a slash, such as an annotation's, stands in brackets, so that it is seen to be one key.
    path = field + "".join(f"[{part}]" if isinstance(part, int) or "/" in part else f".{part}" for part in loc)
    return path.removeprefix(".") or "the object"


def _want(message: str) -> str:
    """Turn a message of pydantic into what was wanted."""
    for start in ("Value error, ", "Input should be "):
        message = message.removeprefix(start)
    if message.startswith("a valid dictionary"):
        return "a mapping"
    return message[:1].lower() + message[1:]


def _keys(spec: type[Spec], loc: Sequence[int | str]) -> list[str]:
    """Return the keys that are known at this place: follow the annotations down."""
    model: Any = spec
    for part in loc:
        if isinstance(part, str):
            model = next(field.annotation for field in model.model_fields.values() if field.alias == part)
        model = _spec_in(model)
    return [str(field.alias) for field in model.model_fields.values()]


def _spec_in(annotation: Any) -> Any:  # noqa: ANN401 - a type expression has no type of its own
    """Return the spec inside ``list[...]`` and ``... | None``."""
    if get_origin(annotation) in {list, Union, types.UnionType}:
        return next((found for arg in get_args(annotation) if (found := _spec_in(arg)) is not None), None)
    return annotation if isinstance(annotation, type) and issubclass(annotation, Spec) else None


def _shown(value: object) -> str:
    return value if isinstance(value, str) else "" if value is None else reprlib.repr(value)
