"""How a cluster is reached: from a pod, or by a kubeconfig file; what is wrong with it in words that quote no credentials."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml
from kubernetes.client import Configuration
from kubernetes.config import ConfigException, load_incluster_config, load_kube_config

from tfscale.errors import BadInputError, Problem

__all__ = ["find", "inside", "outside"]


def find(kubeconfig: str | None) -> str:
    """Return the file that kubectl would read, or raise ``BadInputError`` where there is none.

    ``$KUBECONFIG`` may list several files; those that exist are merged, as kubectl does.
    """
    paths = kubeconfig or os.environ.get("KUBECONFIG") or "~/.kube/config"
    if not any(Path(path).expanduser().is_file() for path in paths.split(os.pathsep) if path):
        raise _problem(paths, field="path", value=paths, want="a file that exists")
    return paths


def inside() -> Configuration:
    """Return the configuration of a pod, whose token is read again every minute."""
    configuration = Configuration()
    try:
        load_incluster_config(configuration)  # type: ignore[no-untyped-call]
    except (ConfigException, OSError) as error:
        want = "the token and the CA certificate that Kubernetes mounts"
        problem = Problem(where="the service account of this pod", field="files", value=str(error), want=want)
        raise BadInputError(problem) from error
    return configuration


def outside(paths: str, context: str | None) -> Configuration:
    """Return the configuration that a kubeconfig describes."""
    configuration = Configuration()
    try:
        load_kube_config(paths, context, configuration, persist_config=False)  # type: ignore[no-untyped-call]
    except (ConfigException, yaml.YAMLError, OSError, LookupError, AttributeError, TypeError, ValueError) as error:
        raise _explained(paths, context, error) from None
    return configuration


def _explained(paths: str, context: str | None, error: Exception) -> BadInputError:
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
