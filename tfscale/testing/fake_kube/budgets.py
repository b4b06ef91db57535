"""What a PodDisruptionBudget counts and allows.

Source: the disruption controller and the eviction subresource of Kubernetes 1.35.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import ceil

from tfscale.errors import ClusterError, TooManyRequestsError
from tfscale.kube.port import Json
from tfscale.testing.fake_kube.rules import with_condition
from tfscale.testing.fake_kube.selecting import requirements_of

__all__ = ["check_eviction", "counted", "selects"]


def selects(budget: Json, pod: Json) -> bool:
    """Return whether the budget is for this pod. One without a selector is for none."""
    selector = budget["spec"].get("selector")
    if selector is None or budget["metadata"]["namespace"] != pod["metadata"]["namespace"]:
        return False
    labels = pod["metadata"].get("labels") or {}
    return all(requirement.matches(labels) for requirement in requirements_of(selector))


def counted(budget: Json, pods: Iterable[Json], now_s: float) -> Json:
    """Return the budget with the status that its pods give it."""
    selected = [pod for pod in pods if selects(budget, pod)]
    healthy = sum(_is_ready(pod) and "deletionTimestamp" not in pod["metadata"] for pod in selected)
    expected, desired = _expected(budget["spec"], selected)
    allowed = max(0, healthy - desired) if expected else 0
    numbers = {
        "observedGeneration": budget["metadata"].get("generation", 1),
        "currentHealthy": healthy,
        "desiredHealthy": desired,
        "expectedPods": expected,
        "disruptionsAllowed": allowed,
    }
    reason, verdict = ("SufficientPods", "True") if allowed else ("InsufficientPods", "False")
    status = {**(budget.get("status") or {}), **numbers}
    return with_condition({**budget, "status": status}, "DisruptionAllowed", now_s, status=verdict, reason=reason, message="")


def check_eviction(pod: Json, budgets: Sequence[Json], where: str) -> None:
    """Raise ``TooManyRequestsError`` where a budget forbids the eviction, ``ClusterError`` where several are for the pod.

    Pods that do not run yet or no more are not protected, nor are unready ones while enough others are healthy.
    """
    if pod["status"].get("phase") in ("Pending", "Succeeded", "Failed") or "deletionTimestamp" in pod["metadata"]:
        return
    if len(budgets) > 1:
        names = ", ".join(budget["metadata"]["name"] for budget in budgets)
        raise ClusterError(f"{where}: several budgets are for it ({names}), which an eviction does not support")
    for budget in budgets:
        status = budget["status"]
        if not _is_ready(pod) and _spares(budget["spec"], status):
            return
        if status["disruptionsAllowed"] < 1:
            raise TooManyRequestsError(f"{where}: budget {budget['metadata']['name']} allows no disruption now")


def _spares(spec: Json, status: Json) -> bool:
    """Return whether the budget lets unready pods go."""
    if spec.get("unhealthyPodEvictionPolicy") == "AlwaysAllow":
        return True
    return bool(status["currentHealthy"] >= status["desiredHealthy"] > 0)


def _expected(spec: Json, selected: Sequence[Json]) -> tuple[int, int]:
    """Return how many pods there should be, and how many of them healthy.

    Percentages and ``maxUnavailable`` are of what controllers want, so they count pods with a controller alone.
    """
    least, most_gone = spec.get("minAvailable"), spec.get("maxUnavailable")
    if isinstance(least, int):
        return len(selected), least
    expected = sum(any(ref.get("controller") for ref in pod["metadata"].get("ownerReferences") or ()) for pod in selected)
    if most_gone is not None:
        return expected, max(0, expected - _share(most_gone, expected))
    return expected, _share(least or 0, expected)


def _share(wanted: int | str, of: int) -> int:
    return wanted if isinstance(wanted, int) else ceil(int(wanted.rstrip("%")) * of / 100)


def _is_ready(pod: Json) -> bool:
    conditions = pod["status"].get("conditions") or ()
    return any(one.get("type") == "Ready" and one.get("status") == "True" for one in conditions)
