"""A node taken out of service, and its pods asked to leave: what ``kubectl drain`` does, one step at a time."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from tfscale.errors import ClusterError, ConflictError, NotFoundError, NotLeadingError, TooManyRequestsError
from tfscale.kube.port import NODES, Kube
from tfscale.model import DISRUPTED, Guest

__all__ = ["evict", "take_out_of_service"]

log = logging.getLogger(__name__)


def take_out_of_service(kube: Kube, node: str, *, value: str = "") -> None:
    """Cordon a node and put our taint on it, once. One that is gone needs neither.

    The taint tells everybody why, and outlives our records; `value` is what it says. Guarded: others may add taints of theirs
    at the same moment.
    """
    try:
        obj = kube.get(NODES, node)
    except NotFoundError:
        return
    taints = obj["spec"].get("taints") or []
    marked = any(taint.get("key") == DISRUPTED for taint in taints)
    if marked and obj["spec"].get("unschedulable"):
        return
    taints = taints if marked else [*taints, {"key": DISRUPTED, "effect": "NoSchedule"} | ({"value": value} if value else {})]
    guard = {"resourceVersion": obj["metadata"]["resourceVersion"]}
    kube.patch(NODES, node, {"metadata": guard, "spec": {"unschedulable": True, "taints": taints}})


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
