"""Which kubeconfig file is meant, and what is wrong with it, in words that quote no credentials."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml

from tfscale.errors import BadInputError, Problem

__all__ = ["explain", "find"]


def find(kubeconfig: str | None) -> str:
    """Return the file that kubectl would read, or raise ``BadInputError`` where there is none.

    ``$KUBECONFIG`` may list several files; those that exist are merged, as kubectl does.
    """
    paths = kubeconfig or os.environ.get("KUBECONFIG") or "~/.kube/config"
    if not any(Path(path).expanduser().is_file() for path in paths.split(os.pathsep) if path):
        raise _problem(paths, field="path", value=paths, want="a file that exists")
    return paths


def explain(paths: str, context: str | None, error: Exception) -> BadInputError:
    """Return what is wrong with a file that could not be used. The message of ``error`` may quote a token: it is left out."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        return _problem(paths, field="content", value=f"line {error.problem_mark.line + 1}", want="YAML")
    want = "clusters, users and contexts as kubectl writes them"
    try:
        content = yaml.safe_load(Path(paths).expanduser().read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, ValueError):
        return _problem(paths, field="content", value=type(error).__name__, want=want)
    if not isinstance(content, dict):
        return _problem(paths, field="content", value="" if content is None else type(content).__name__, want=want)
    known = _contexts(content)
    if context is not None and known and context not in known:
        return _problem(paths, field="context", value=context, want=f"one of {', '.join(known)}")
    for key in ("clusters", "contexts", *(["current-context"] if context is None else [])):
        if not content.get(key):
            return _problem(paths, field=key, value="", want="a value, which is required")
    return _problem(paths, field="content", value=type(error).__name__, want=want)


def _contexts(content: dict[str, Any]) -> list[str]:
    try:
        return [str(one["name"]) for one in content["contexts"]]
    except (LookupError, TypeError):
        return []


def _problem(paths: str, *, field: str, value: str, want: str) -> BadInputError:
    return BadInputError(Problem(where=f"kubeconfig {paths}", field=field, value=value, want=want))
