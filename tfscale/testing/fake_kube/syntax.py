"""How names, labels and annotations may look.

Source: Kubernetes documentation, "Object Names and IDs" (RFC 1123) and "Labels and Selectors".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from tfscale.errors import Problem, RefusedObjectError

__all__ = ["check_annotations", "check_key", "check_label_value", "check_labels", "check_name", "refusal"]

_LABEL = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_SUBDOMAIN = re.compile(rf"{_LABEL}(\.{_LABEL})*")
_WORD = re.compile("[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?")

_NAME_MOST = 253
_WORD_MOST = 63
_ANNOTATIONS_MOST_BYTES = 256 * 1024


def refusal(where: str, field: str, value: object, want: str) -> RefusedObjectError:
    """Return the error for one wrong field."""
    return RefusedObjectError(str(Problem(where=where, field=field, value=str(value), want=want)))


def check_name(where: str, name: object) -> None:
    """Raise ``RefusedObjectError`` unless this can be the name of an object."""
    if not (isinstance(name, str) and len(name) <= _NAME_MOST and _SUBDOMAIN.fullmatch(name)):
        raise refusal(where, "metadata.name", name, "lower case letters, digits, '-' and '.', at most 253 (RFC 1123)")


def check_key(where: str, field: str, key: str) -> None:
    """Raise ``RefusedObjectError`` unless this can be the key of a label or annotation: ``[prefix/]name``."""
    prefix, slash, word = key.rpartition("/")
    prefix_is_fine = not slash or (len(prefix) <= _NAME_MOST and _SUBDOMAIN.fullmatch(prefix))
    if not (prefix_is_fine and len(word) <= _WORD_MOST and _WORD.fullmatch(word)):
        raise refusal(where, field, key, "a key such as example.com/name, its name at most 63 characters")


def check_label_value(where: str, field: str, value: object) -> None:
    """Raise ``RefusedObjectError`` unless this can be the value of a label."""
    if not (isinstance(value, str) and len(value) <= _WORD_MOST and (not value or _WORD.fullmatch(value))):
        raise refusal(where, field, value, "at most 63 letters, digits, '-', '_' and '.', a letter or digit at both ends")


def check_labels(where: str, labels: Mapping[str, Any]) -> None:
    """Raise ``RefusedObjectError`` for a label that the API server does not take."""
    for key, value in labels.items():
        check_key(where, "metadata.labels", key)
        check_label_value(where, f"metadata.labels[{key}]", value)


def check_annotations(where: str, annotations: Mapping[str, Any]) -> None:
    """Raise ``RefusedObjectError`` for annotations that the API server does not take."""
    for key, value in annotations.items():
        check_key(where, "metadata.annotations", key.lower())
        if not isinstance(value, str):
            raise refusal(where, f"metadata.annotations[{key}]", value, "a string")
    size = sum(len(key.encode()) + len(value.encode()) for key, value in annotations.items())
    if size > _ANNOTATIONS_MOST_BYTES:
        raise refusal(where, "metadata.annotations", f"{size} bytes", f"at most {_ANNOTATIONS_MOST_BYTES} bytes together")
