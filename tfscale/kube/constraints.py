"""Where a pod may be placed: its node terms and tolerations, and the constraints that tfscale cannot honour.

tfscale places a pod only where it understands everything that the pod asks for. A constraint that it does not understand
is a reason to leave the pod alone, never something to overlook.
"""

from __future__ import annotations

from collections.abc import Iterator

from tfscale.kube.fields import Field
from tfscale.kube.requests import GPU_RESOURCE, MIRRORS, Notes
from tfscale.kube.resources import Amounts
from tfscale.selectors import Operator, Requirement, Toleration

__all__ = ["NOT_HONOURED", "Terms", "blocks", "node_terms", "tolerations"]

Terms = tuple[tuple[Requirement, ...], ...]

_PLACED = {"cpu", "memory", GPU_RESOURCE, *MIRRORS}
# A node of the model has no disk, no huge pages and no cards of others, so an amount of them cannot be booked, and the
# kubelet would fail a pod that is bound without room for it.
_TIED_VOLUMES = ("persistentVolumeClaim", "ephemeral", "awsElasticBlockStore", "azureDisk", "gcePersistentDisk", "iscsi", "rbd")
_REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
NOT_HONOURED = (
    "gpu-indices",
    "partition",
    "partition-id",
    "dedicated-gpu",
    "workload-profile",
    "container-gpu-count",
    "require-gpu-topology",
)
_OPERATORS = {str(operator): operator for operator in Operator}


def node_terms(pod: Field) -> Terms:
    """Return the node labels that are accepted: any term, all of its requirements; no terms accept every node.

    ``nodeSelector`` goes into every term. Raises ``BadInputError`` for a requirement that Kubernetes would refuse.
    """
    spec = pod.at("spec")
    selector = tuple(
        Requirement(key=key, operator=Operator.IN, values=(value,)) for key, value in spec.at("nodeSelector").text_map().items()
    )
    affinity = _required_nodes(spec)
    if not affinity.given:
        return (selector,) if selector else ()
    # A term without requirements matches no node in Kubernetes; here it would match every node.
    terms = [tuple(map(_requirement, term.at("matchExpressions").items())) for term in affinity.at("nodeSelectorTerms").items()]
    return tuple(selector + term for term in terms if term)


def tolerations(pod: Field) -> tuple[Toleration, ...]:
    """Return the taints that the pod accepts."""
    return tuple(
        Toleration(
            key=item.at("key").text(),
            operator=item.at("operator").text() or "Equal",
            value=item.at("value").text(),
            effect=item.at("effect").text(),
        )
        for item in pod.at("spec", "tolerations").items()
    )


def blocks(pod: Field, totals: Amounts, notes: Notes) -> str:
    """Return why tfscale must not place this pod, naming each field, or nothing. Raises ``BadInputError``."""
    spec = pod.at("spec")
    fields = (
        *_affinity(spec),
        *_spread(spec),
        *_ports(spec),
        *_volumes(spec),
        *_claims(spec),
        *_tolerance(spec),
        *_unknown_resources(totals),
        *_unknown_notes(notes),
    )
    return f"tfscale does not place pods with {', '.join(fields)}" if fields else ""


def _required_nodes(spec: Field) -> Field:
    return spec.at("affinity", "nodeAffinity", _REQUIRED)


def _requirement(item: Field) -> Requirement:
    operator = _OPERATORS.get(item.at("operator").text())
    if operator is None:
        raise item.at("operator").refused("one of " + ", ".join(_OPERATORS))
    # An empty value is a value: a label may be empty.
    values = tuple(value.text() for value in item.at("values").items())
    match operator:
        case Operator.IN | Operator.NOT_IN:
            right, want = bool(values), "at least one value"
        case Operator.GT | Operator.LT:
            right, want = len(values) == 1 and _is_integer(values[0]), "one whole number as text"
        case Operator.EXISTS | Operator.DOES_NOT_EXIST:
            right, want = not values, f"no values with {operator}"
    if not right:
        raise item.at("values").refused(want)
    return Requirement(key=item.at("key").needed(), operator=operator, values=values)


def _is_integer(text: str) -> bool:
    return text.isascii() and text.removeprefix("-").isdigit() and len(text) <= 20  # noqa: PLR2004 - longer than 64 bits


def _affinity(spec: Field) -> Iterator[str]:
    for kind in ("podAffinity", "podAntiAffinity"):
        required = spec.at("affinity", kind, _REQUIRED)
        if required.items():
            yield required.path
    nodes = _required_nodes(spec)
    terms = nodes.at("nodeSelectorTerms").items()
    for term in terms:
        if term.at("matchFields").items():
            yield term.at("matchFields").path
    if nodes.given and not any(term.at("matchExpressions").items() for term in terms):
        yield f"{nodes.path} that no node can match"


def _spread(spec: Field) -> Iterator[str]:
    for constraint in spec.at("topologySpreadConstraints").items():
        if constraint.at("whenUnsatisfiable").text() != "ScheduleAnyway":
            yield f"{constraint.path} (DoNotSchedule)"


def _ports(spec: Field) -> Iterator[str]:
    """Yield ports of the node. On the host's network the API server makes every container port one of them."""
    host_network = spec.at("hostNetwork").flag()
    for containers in (spec.at("containers"), spec.at("initContainers")):
        for container in containers.items():
            for port in container.at("ports").items():
                if host_network or port.at("hostPort").whole():
                    yield port.at("hostPort").path


def _volumes(spec: Field) -> Iterator[str]:
    for volume in spec.at("volumes").items():
        yield from (volume.at(kind).path for kind in _TIED_VOLUMES if volume.at(kind).given)


def _claims(spec: Field) -> Iterator[str]:
    """Yield what other schedulers decide: devices by DRA, and pods that start only together."""
    if spec.at("resourceClaims").items():
        yield "spec.resourceClaims"
    yield from (spec.at(key).path for key in ("workloadRef", "schedulingGroup") if spec.at(key).given)


def _tolerance(spec: Field) -> Iterator[str]:
    for item in spec.at("tolerations").items():
        if item.at("operator").text() not in {"", "Equal", "Exists"}:
            yield item.at("operator").path


def _unknown_resources(totals: Amounts) -> Iterator[str]:
    yield from (f"a request for {name}" for name in sorted(totals) if name not in _PLACED)


def _unknown_notes(notes: Notes) -> Iterator[str]:
    for key, note in sorted(notes.items()):
        value = note.text().casefold()
        if key in NOT_HONOURED or key.startswith("gang-"):
            if value not in {"", "false"}:
                yield note.path
        elif (key == "vendor" and value != "nvidia") or (key == "isolation" and value != "soft"):
            yield f"{note.path} {note.value!r}"
