"""Dumps of a cluster: what ``kubectl get ... -o json`` or ``-o yaml`` printed, read as the objects of one moment.

A file is taken as a whole or not at all: one that is cut off must never become a plan on half of the facts.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Any, NoReturn

from tfscale.errors import BadInputError, Problem
from tfscale.kube.fields import Field, on_one_line, tried
from tfscale.kube.port import (
    GPU_POOLS,
    LAUNCH_BATCHES,
    NODE_CLAIMS,
    NODE_CLASSES,
    NODE_POOLS,
    NODE_REQUESTS,
    NODES,
    PODS,
    Json,
    Kind,
)
from tfscale.manifests import read_manifests
from tfscale.quantity import time_s

__all__ = ["Dump", "read_dump"]

Key = tuple[Kind, str, str]
"""An object: its kind, its namespace or nothing, its name."""

_KINDS = {
    (kind.api_version, kind.kind): kind
    for kind in (PODS, NODES, NODE_CLAIMS, NODE_POOLS, *NODE_CLASSES, GPU_POOLS, NODE_REQUESTS, LAUNCH_BATCHES)
}
_STDIN = "-"
_SUFFIXES = frozenset({".json", ".yaml", ".yml"})
"""The files of a directory that kubectl reads, too."""

MOST_BYTES = 2**30
"""Of one file: the pods of some hundred thousand. It takes about five times as much memory."""

_LONGEST_TOKEN = 6
"""Characters: what is left of a word or an escape where a JSON text is cut."""
_LONGEST_VERSION = 20
_SPACE = re.compile(r"\s*")
_JSON = re.compile(r"\s*[{\[]")
_HALF = re.compile(r"\\u[dD][89a-fA-F]")
"""Half of a character of UTF-16. JSON can say it without its other half, but nothing else can: not even be printed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dump:
    """The objects of a cluster that a plan reads."""

    objects: Mapping[Key, Json] = field(default_factory=dict)
    not_read: Mapping[str, int] = field(default_factory=dict)
    """How many objects there were of each other kind."""
    problems: tuple[Problem, ...] = ()
    """What is in a list but is no object."""

    def has(self, *kinds: Kind) -> bool:
        """Return whether there is any object of these kinds."""
        return any(kind in kinds for kind, _, _ in self.objects)

    def latest_s(self) -> int | None:
        """Return the time of the dump, as nearly as it tells, in seconds since the epoch; None where it tells no time.

        That is the latest time that an object, one of its conditions or one of its managed fields was written. kubelets
        write the heartbeats of their nodes at least every five minutes.
        """
        texts = {text for obj in self.objects.values() for text in _times(obj) if isinstance(text, str)}
        return max((at_s for at_s in map(_time_s, texts) if at_s is not None), default=None)

    def changed_by(self, files: Dump) -> Dump:
        """Return the dump as if `files` had been applied to it: what they say wins, what they leave out stays."""
        applied = {key: _applied(self.objects.get(key, {}), obj) for key, obj in files.objects.items()}
        return Dump(
            objects={**self.objects, **applied},
            not_read=Counter(self.not_read) + Counter(files.not_read),
            problems=self.problems + files.problems,
        )


def read_dump(paths: Iterable[str]) -> Dump:
    """Return what the files say together. ``-`` is standard input; of a directory all JSON and YAML files are read.

    Of an object that is there twice the one with the larger resource version counts, else the one that was read last.
    Raises ``BadInputError`` for a file that cannot be read, that is cut off or that holds something else.
    """
    objects: dict[Key, Json] = {}
    not_read: Counter[str] = Counter()
    problems: list[Problem] = []
    for path in paths:
        for file in _files(path):
            for place in _places(file):
                key = tried(problems, partial(_key, place), None)
                if isinstance(key, str):
                    not_read[key] += 1
                elif key is not None:
                    objects[key] = _newer(objects.get(key), _called(key, place.value))
    return Dump(objects=objects, not_read=not_read, problems=tuple(problems))


# --- files ------------------------------------------------------------------------------------------------------------


def _files(path: str) -> Sequence[str]:
    try:
        # An empty path, as of a variable that is not set, would be the current directory.
        if path in (_STDIN, "") or not Path(path).is_dir():
            return (path,)
        found = sorted(str(file) for file in Path(path).iterdir() if file.suffix in _SUFFIXES and file.is_file())
    except OSError as error:
        raise _unreadable(path, f"a file or directory that can be read ({error.strerror})") from error
    if not found:
        raise _unreadable(path, "a directory with .json or .yaml files")
    return found


def _text(path: str) -> str:
    try:
        data = _read(sys.stdin.buffer) if path == _STDIN else _read_file(path)
        # Some shells on Windows begin a text with a mark of its byte order.
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _unreadable(path, f"UTF-8 text, which byte {error.start} is not") from None
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise _unreadable(path, f"a file that can be read ({why})") from error
    if _SPACE.fullmatch(text):
        raise _unreadable(path, "a file that is not empty")
    return text


def _read_file(path: str) -> bytes:
    with open(path, "rb") as stream:  # noqa: PTH123 - a path that is empty is none
        return _read(stream)


def _read(stream: IO[bytes]) -> bytes:
    data = stream.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise ValueError(f"it is larger than {MOST_BYTES} bytes")
    return data


def _unreadable(path: str, want: str) -> BadInputError:
    return BadInputError(Problem(where="tfscale", field="file", value=path, want=want))


def _places(path: str) -> Iterator[Field]:
    """Yield every object of a file with its place."""
    name = "standard input" if path == _STDIN else path
    text = _text(path)
    for line, value in _json_documents(text, name) if _JSON.match(text) else _yaml_documents(text, name):
        yield from _unlisted(Field(f"{name}, document at line {line}", "", value))


def _yaml_documents(text: str, name: str) -> Iterator[tuple[int, Any]]:
    documents = read_manifests(text, name=name)
    if not documents:
        raise _unreadable(name, "a file that is not empty")
    return ((document.line, document.value) for document in documents)


def _json_documents(text: str, name: str) -> Iterator[tuple[int, Any]]:
    """Yield the JSON values that follow each other."""
    decoder = json.JSONDecoder(object_hook=_lean, parse_constant=_no_number)
    line, end = 1, 0
    while (start := _end_of_space(text, end)) < len(text):
        line += text.count("\n", end, start)
        try:
            value, end = decoder.raw_decode(text, start)
            if _HALF.search(text, start, end):
                json.dumps(value, ensure_ascii=False).encode()
        except (ValueError, RecursionError) as error:
            raise BadInputError(_json_problem(error, text, name)) from None
        yield line, value
        line += text.count("\n", start, end)


def _end_of_space(text: str, start: int) -> int:
    found = _SPACE.match(text, start)
    return found.end() if found else start


def _json_problem(error: ValueError | RecursionError, text: str, name: str) -> Problem:
    if not isinstance(error, json.JSONDecodeError):
        why = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        return Problem(where=name, field="text", value=text[:40], want=f"JSON as kubectl prints it ({why})")
    there = text.rstrip()
    where = f"{name} line {error.lineno}"
    if error.msg.startswith("Unterminated string") or error.pos >= len(there) - _LONGEST_TOKEN:
        return Problem(where=where, field="the end", value=there[-40:].strip(), want="the rest of the JSON: the file is cut off")
    value = text[error.pos : error.pos + 40].partition("\n")[0]
    return Problem(where=where, field="text", value=value, want=f"JSON ({error.msg})")


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def _lean(obj: Json) -> Json:
    """Leave of the managed fields, half of many dumps, only their times."""
    managed = obj.get("managedFields")
    if isinstance(managed, list):
        obj["managedFields"] = [{"time": entry.get("time")} for entry in managed if isinstance(entry, dict)]
    return obj


# --- objects ----------------------------------------------------------------------------------------------------------


def _unlisted(document: Field) -> Iterator[Field]:
    """Yield the object here, or every object in the list here. Raises ``BadInputError`` where there is neither."""
    if not isinstance(document.value, dict):
        raise document.refused("a Kubernetes object or a List of them")
    kind = document.at("kind")
    if "items" not in document.value:
        kind.needed()
        yield document
    elif not kind.text().endswith("List"):
        raise kind.refused("List, which kubectl writes behind the last item: the file is cut off")
    else:
        own = {"apiVersion": document.value.get("apiVersion"), "kind": kind.text().removesuffix("List")}
        for item in document.at("items").items():
            # In the API's own lists (PodList) only the list says what its items are.
            typed = own["kind"] and isinstance(item.value, dict) and "kind" not in item.value
            yield Field(item.where, item.path, {**own, **item.value}) if typed else item


def _key(place: Field) -> Key | str:
    """Return what the object is called, or the name of its kind where a plan does not read such objects."""
    api_version, name = place.at("apiVersion").needed(), place.at("kind").needed()
    own = place.at("metadata", "name").needed()
    kind = _KINDS.get((api_version, name))
    if kind is None:
        return on_one_line(f"{name} ({api_version})")
    return kind, (place.at("metadata", "namespace").text() or "default") if kind.namespaced else "", own


def _called(key: Key, obj: Json) -> Json:
    """Return the object with the namespace that kubectl would have put it into."""
    return {**obj, "metadata": _lean({**obj["metadata"], **({"namespace": key[1]} if key[1] else {})})}


def _newer(one: Json | None, other: Json) -> Json:
    if one is None:
        return other
    before, after = (_version(obj) for obj in (one, other))
    return one if before is not None and after is not None and before > after else other


def _version(obj: Json) -> int | None:
    version = obj["metadata"].get("resourceVersion")
    numeric = isinstance(version, str) and version.isascii() and version.isdigit() and len(version) <= _LONGEST_VERSION
    return int(version) if numeric else None


def _applied(before: Json, obj: Json) -> Json:
    return {**before, **obj, "metadata": {**before.get("metadata", {}), **obj["metadata"]}}


def _times(obj: Json) -> Iterator[object]:
    meta, status = obj["metadata"], obj.get("status")
    yield meta.get("creationTimestamp")
    yield from (entry.get("time") for entry in _mappings(meta.get("managedFields")))
    for condition in _mappings(status.get("conditions") if isinstance(status, dict) else None):
        yield from (condition.get(key) for key in ("lastTransitionTime", "lastHeartbeatTime", "lastProbeTime"))


def _mappings(value: object) -> Iterator[Json]:
    return (item for item in value if isinstance(item, dict)) if isinstance(value, list) else iter(())


def _time_s(text: str) -> int | None:
    try:
        return time_s(text)
    except ValueError:
        return None
