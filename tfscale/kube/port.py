"""The Kubernetes port: the few verbs tfscale needs, over plain JSON objects.

Two implementations pass the same contract (:class:`tfscale.testing.KubeContract`): :class:`tfscale.kube.client.KubeClient`
on the official client, and :class:`tfscale.testing.FakeKube` in memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

__all__ = [
    "CONFIG_MAPS",
    "CRDS",
    "DAEMON_SETS",
    "DISRUPTION_BUDGETS",
    "EVENTS",
    "FIELD_MANAGER",
    "GPU_POOLS",
    "LAUNCH_BATCHES",
    "LEASES",
    "NODES",
    "NODE_CLAIMS",
    "NODE_CLASSES",
    "NODE_POOLS",
    "NODE_REQUESTS",
    "PODS",
    "Json",
    "Kind",
    "Kube",
    "Listing",
    "WatchEvent",
]

Json = dict[str, Any]
"""One Kubernetes object as JSON. Implementations return copies; a caller may change what it was given.

``metadata.managedFields`` is left out, as kubectl does: it is often the larger half of an object, and nobody here reads it.
"""

FIELD_MANAGER = "tfscale"
"""The name under which every write owns the fields that it set, unless an ``apply`` says another one."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A resource of the API: where it is served and what its objects are called."""

    group: str
    """Empty for the core group."""
    version: str
    plural: str
    kind: str
    namespaced: bool

    @property
    def api_version(self) -> str:
        """What its objects carry in ``apiVersion``."""
        return f"{self.group}/{self.version}" if self.group else self.version


PODS = Kind("", "v1", "pods", "Pod", namespaced=True)
NODES = Kind("", "v1", "nodes", "Node", namespaced=False)
EVENTS = Kind("", "v1", "events", "Event", namespaced=True)
CONFIG_MAPS = Kind("", "v1", "configmaps", "ConfigMap", namespaced=True)
DAEMON_SETS = Kind("apps", "v1", "daemonsets", "DaemonSet", namespaced=True)
DISRUPTION_BUDGETS = Kind("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget", namespaced=True)
LEASES = Kind("coordination.k8s.io", "v1", "leases", "Lease", namespaced=True)
CRDS = Kind("apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", namespaced=False)
NODE_CLAIMS = Kind("karpenter.sh", "v1", "nodeclaims", "NodeClaim", namespaced=False)
NODE_POOLS = Kind("karpenter.sh", "v1", "nodepools", "NodePool", namespaced=False)
NODE_CLASSES = (
    Kind("karpenter.k8s.aws", "v1", "ec2nodeclasses", "EC2NodeClass", namespaced=False),
    Kind("karpenter.azure.com", "v1beta1", "aksnodeclasses", "AKSNodeClass", namespaced=False),
    Kind("karpenter.kwok.sh", "v1alpha1", "kwoknodeclasses", "KWOKNodeClass", namespaced=False),
    Kind("oci.oraclecloud.com", "v1beta1", "ocinodeclasses", "OCINodeClass", namespaced=False),
    Kind("karpenter.k8s.oracle", "v1alpha1", "ocinodeclasses", "OciNodeClass", namespaced=False),
)
"""The node classes of Karpenter's providers that are known here. A NodeClaim names its class by group, kind and name."""
GPU_POOLS = Kind("tfscale.io", "v1alpha1", "gpupools", "GPUPool", namespaced=False)
NODE_REQUESTS = Kind("tfscale.io", "v1alpha1", "noderequests", "NodeRequest", namespaced=False)
LAUNCH_BATCHES = Kind("tfscale.io", "v1alpha1", "launchbatches", "LaunchBatch", namespaced=False)


@dataclass(frozen=True, slots=True)
class Listing:
    """A consistent list and the resource version to watch from. The version is opaque: compare it only for equality."""

    items: list[Json]
    resource_version: str


@dataclass(frozen=True, slots=True)
class WatchEvent:
    """One change. A BOOKMARK carries only a resource version."""

    type: Literal["ADDED", "MODIFIED", "DELETED", "BOOKMARK"]
    object: Json


class Kube(Protocol):
    """The verbs. All raise :class:`~tfscale.errors.ClusterError` of the fitting type.

    ``namespace`` is None for cluster-scoped kinds, and for a list or watch over all namespaces.
    """

    def list(self, kind: Kind, *, namespace: str | None = None, label_selector: str = "", field_selector: str = "") -> Listing:
        """Return all objects that match, from one moment. Reads every page."""
        ...

    def watch(
        self,
        kind: Kind,
        *,
        resource_version: str,
        namespace: str | None = None,
        label_selector: str = "",
        field_selector: str = "",
        timeout_s: int = 300,
    ) -> Iterator[WatchEvent]:
        """Yield what changed after ``resource_version`` and end after ``timeout_s``. Raises ``GoneError`` when it is too old.

        An object that stops matching the selectors is reported as DELETED, one that begins to match as ADDED.
        """
        ...

    def get(self, kind: Kind, name: str, *, namespace: str | None = None) -> Json:
        """Return one object, or raise ``NotFoundError``."""
        ...

    def create(self, kind: Kind, obj: Json, *, namespace: str | None = None) -> Json:
        """Create and return the object; ``metadata.generateName`` is honoured; status is not taken where it is a subresource.

        Raises ``AlreadyExistsError`` or ``RefusedObjectError``.
        """
        ...

    def patch(self, kind: Kind, name: str, patch: Mapping[str, Any], *, namespace: str | None = None) -> Json:
        """Apply a JSON merge patch (RFC 7386) to everything but the status and return the object.

        With ``metadata.resourceVersion`` or ``metadata.uid`` in the patch, a different one raises ``ConflictError``.
        """
        ...

    def patch_status(self, kind: Kind, name: str, patch: Mapping[str, Any], *, namespace: str | None = None) -> Json:
        """Apply a JSON merge patch to the status subresource alone; of the rest only metadata preconditions are read."""
        ...

    def apply(
        self,
        kind: Kind,
        obj: Json,
        *,
        namespace: str | None = None,
        force: bool = False,
        subresource: Literal["", "status"] = "",
        manager: str = FIELD_MANAGER,
    ) -> Json:
        """Make the object carry these fields, create it where it does not exist, and return it (server-side apply).

        What `manager` applied before and leaves out now is removed, unless somebody else owns it too. Lists that have keys
        (conditions, containers, owner references) and sets (finalizers) are merged item by item; others are one value.

        A field that somebody else owns with another value raises ``ConflictError``, which names both, and nothing is
        written; with `force` the field is taken over. The other verbs own what they write apart from what is applied, also
        under the same name: an apply of a field that a ``create`` or ``patch`` set to another value is such a conflict.
        ``metadata.resourceVersion`` and ``metadata.uid`` are preconditions. With ``subresource="status"`` the status alone
        is applied, to an object that exists.
        """
        ...

    def delete(
        self,
        kind: Kind,
        name: str,
        *,
        namespace: str | None = None,
        uid: str | None = None,
        resource_version: str | None = None,
        grace_period_s: int | None = None,
    ) -> None:
        """Delete, or set ``deletionTimestamp`` where finalizers remain.

        Raises ``NotFoundError``, or ``ConflictError`` when a precondition (``uid``, ``resource_version``) does not hold.
        """
        ...

    def evict(self, name: str, *, namespace: str, uid: str | None = None, grace_period_s: int | None = None) -> None:
        """Evict a pod through its eviction subresource.

        Raises ``TooManyRequestsError`` where a PodDisruptionBudget forbids it now, and ``ConflictError`` when the pod has
        another uid.
        """
        ...

    def bind(self, name: str, *, namespace: str, node: str, uid: str, annotations: Mapping[str, str]) -> None:
        """Write node and annotations into a pending pod in one atomic request.

        Raises ``ConflictError`` when the pod has another uid or is bound already. Tried on 1.35: the API server merges the
        annotations of a Binding object into the pod and honours its uid as a precondition.
        """
        ...
