"""Pods asked to leave: what ``kubectl drain`` does, one step at a time."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from tfscale.errors import ClusterError, ConflictError, NotFoundError, NotLeadingError, TooManyRequestsError
from tfscale.kube.port import Kube
from tfscale.model import Guest

__all__ = ["evict"]

log = logging.getLogger(__name__)


def evict(kube: Kube, pods: Iterable[Guest]) -> list[str]:
    """Ask pods to leave, each within its own grace period, and return the ids of those whose budget forbids it now.

    A pod that is gone, or that another one of its name has followed, is left alone. Raises the first other error after all
    were asked: several budgets for one pod must not keep the others.
    """
    kept: list[str] = []
    errors: list[ClusterError] = []
    for pod in pods:
        namespace, _, name = pod.id.partition("/")
        try:
            kube.evict(name, namespace=namespace, uid=pod.uid)
        except TooManyRequestsError as error:
            log.debug("%s: %s", pod.id, error)
            kept.append(pod.id)
        except (ConflictError, NotFoundError):
            log.debug("%s is gone already", pod.id)
        except NotLeadingError:
            raise
        except ClusterError as error:
            errors.append(error)
    if errors:
        raise errors[0]
    return kept
