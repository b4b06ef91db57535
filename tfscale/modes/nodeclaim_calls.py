"""How NodeClaims are made, seen and deleted: those of one mode and one pool, and no others."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from tfscale.errors import (
    AlreadyExistsError,
    BadInputError,
    CloudUnreachableError,
    ClusterError,
    ClusterUnreachableError,
    ConflictError,
    ForbiddenError,
    LaunchRefusedError,
    ModeError,
    NotFoundError,
    NotLeadingError,
    Problem,
    RefusedObjectError,
)
from tfscale.kube.fields import Field, named
from tfscale.kube.nodes import POOL_LABEL
from tfscale.kube.port import CRDS, EVENTS, NODE_CLAIMS, NODE_CLASSES, NODE_POOLS, Json, Kind, Kube
from tfscale.model import INSTANCE_TYPE, LaunchBatch, Machine, Trouble
from tfscale.modes.base import LaunchResult
from tfscale.modes.nodeclaim_labels import CAPACITY_TYPE, ZONE
from tfscale.modes.nodeclaim_options import NodeClassRef
from tfscale.modes.nodeclaim_order import BATCH, MODE, MOST_TOLD, condition, trouble

__all__ = ["Claims", "class_of", "class_refusal", "missing_kinds", "translated"]

log = logging.getLogger(__name__)

_GIVEN_UP = f"involvedObject.kind={NODE_CLAIMS.kind},reason=InsufficientCapacityError"


class Claims:
    """The claims that one mode made for one pool."""

    def __init__(self, kube: Kube, *, pool: str, mode: str) -> None:
        self._kube = kube
        self._pool = pool
        self._mode = mode

    def all(self) -> list[Json]:
        """Return the claims, those on their way out included."""
        listed = self._kube.list(NODE_CLAIMS, label_selector=f"{POOL_LABEL}={self._pool}").items
        return [claim for claim in listed if self._is_ours(claim)]

    def launch(self, batch: LaunchBatch) -> tuple[LaunchResult, ...]:
        """Create the recorded claims; one that exists already, made by this batch, is what was asked for.

        Raises ``LaunchRefusedError`` where the API server refused them all, ``ModeError`` where the outcome is unknown.
        """
        refusals: list[str] = []
        with translated(f"launch {batch.name}"):
            asked: dict[str, Json] = batch.parameters["claims"]
            made = {name: self._made(batch.name, asked[name], refusals) for name in sorted(asked)}
            machines = {name: self.machine(claim) for name, claim in made.items() if claim}
        reasons = "; ".join(refusals)
        log.info("launch %s: %d of %d claims; %s", batch.name, len(machines), len(batch.requests), reasons or "none refused")
        if not machines:
            raise LaunchRefusedError(f"launch {batch.name}: {reasons}")
        return tuple(LaunchResult(request=name, machine=machines.get(name)) for name in batch.requests)

    def admitted(self, batch: str, names: Sequence[str], *, most: int) -> Sequence[str]:
        """Return for how many of the names claims may be made now, so that no more than `most` wait for their machines.

        Raises ``LaunchRefusedError`` where it is none.
        """
        with translated(f"prepare {batch}"):
            waiting = sum(not (machine.started or machine.stopping) for machine in map(self.machine, self.all()))
        if waiting >= most:
            raise LaunchRefusedError(f"batch {batch}: {waiting} claims of pool {self._pool} wait for their machines already")
        return names[: most - waiting]

    def explain(self, names: Sequence[str]) -> Mapping[str, Trouble]:
        """Return why Karpenter gave claims up, as far as its events say so: they outlive the claims by an hour.

        Source: Karpenter 1.14 tells of a lack of capacity alone, in the namespace where events of cluster-wide objects are.
        """
        with translated("explain"):
            events = self._kube.list(EVENTS, namespace="default", field_selector=_GIVEN_UP).items
            # A name may have been used before: the last word counts.
            events = sorted(events, key=lambda event: event["metadata"]["creationTimestamp"])
            said = dict(_given_up(named("event", event)) for event in events)
        return {name: said[name] for name in names if name in said}

    def delete(self, names: Sequence[str]) -> None:
        """Delete those of the claims that are ours. Karpenter drains the node and ends the machine before they are gone."""
        with translated("terminate"):
            ours = {claim["metadata"]["name"]: claim["metadata"] for claim in self.all()}
            for name in sorted(set(names)):
                if name not in ours:
                    log.info("nodeclaim %s is gone or not of pool %s: left alone", name, self._pool)
                elif "deletionTimestamp" not in ours[name]:
                    self._delete(name, ours[name]["uid"])

    def machine(self, claim: Json) -> Machine:
        """Return the claim as a machine. Raises ``BadInputError``."""
        root = named("nodeclaim", claim)
        meta, labels = root.at("metadata"), root.at("metadata", "labels")
        # No claim is made with these labels, so they are what Karpenter says it launched.
        facts = [labels.at(key).text() for key in (INSTANCE_TYPE, ZONE, CAPACITY_TYPE)]
        provider_id = root.at("status", "providerID").text()
        return Machine(
            id=meta.at("name").needed(),
            batch=meta.at("annotations", BATCH).text(),
            pool=self._pool,
            offer="/".join(facts) if all(facts) else "",
            provider_id=provider_id,
            started=bool(provider_id),
            noticed=bool(provider_id) or root.at("status", "conditions").given,
            trouble=None if provider_id else trouble(root),
            stopping=meta.at("deletionTimestamp").given,
            launched_s=meta.at("creationTimestamp").seconds(),
        )

    def _is_ours(self, claim: Json) -> bool:
        meta = claim["metadata"]
        of_pool = (meta.get("labels") or {}).get(POOL_LABEL) == self._pool
        return of_pool and (meta.get("annotations") or {}).get(MODE) == self._mode

    def _made(self, batch: str, claim: Json, refusals: list[str]) -> Json | None:
        try:
            return self._kube.create(NODE_CLAIMS, claim)
        except (AlreadyExistsError, RefusedObjectError, ForbiddenError) as error:
            # A replay may be refused although the first call, whose reply was lost, was not.
            existing = self._existing(claim["metadata"]["name"])
            if existing and self._is_ours(existing) and existing["metadata"]["annotations"].get(BATCH) == batch:
                return existing
            refusals.append(str(error))
            return None

    def _existing(self, name: str) -> Json | None:
        try:
            return self._kube.get(NODE_CLAIMS, name)
        except NotFoundError:
            return None

    def _delete(self, name: str, uid: str) -> None:
        try:
            self._kube.delete(NODE_CLAIMS, name, uid=uid)
        except NotFoundError:
            log.debug("nodeclaim %s is gone already", name)
        except ConflictError:
            log.info("nodeclaim %s is another one now: left alone", name)


def _given_up(event: Field) -> tuple[str, Trouble]:
    """Return which claim an event is about, and what it says."""
    name = event.at("involvedObject", "name").text()
    message = event.at("message").text().removeprefix(f"NodeClaim {name} event: ")
    return name, Trouble(reason=event.at("reason").text(), message=message[:MOST_TOLD])


@contextmanager
def translated(action: str) -> Iterator[None]:
    """Turn what Kubernetes says into a mode's errors: whatever it is, the outcome is not known.

    ``NotLeadingError`` passes: it is nothing that Kubernetes said.
    """
    try:
        yield
    except NotLeadingError:
        raise
    except ClusterUnreachableError as error:
        raise CloudUnreachableError(f"{action}: {error}") from error
    except (ClusterError, BadInputError) as error:
        raise ModeError(f"{action}: {error}") from error


def _kind_of(ref: NodeClassRef) -> Kind | None:
    return next((kind for kind in NODE_CLASSES if (kind.group, kind.kind) == (ref.group, ref.kind)), None)


def class_of(kube: Kube, ref: NodeClassRef) -> Json | None:
    """Return the node class; None where there is none, or where its kind is not known."""
    kind = _kind_of(ref)
    try:
        return kube.get(kind, ref.name) if kind else None
    except NotFoundError:
        return None


def class_refusal(kube: Kube, ref: NodeClassRef) -> str:
    """Return why Karpenter would launch nothing with this node class, in words, or nothing; of an unknown kind nothing is said.

    It deletes claims whose class is missing or not Ready at once. Where the class does not say, or speaks of an older spec, it
    tries again for minutes, and buys for nobody else meanwhile.
    """
    kind = _kind_of(ref)
    if kind is None:
        return ""
    try:
        found = named(kind.kind.lower(), kube.get(kind, ref.name))
    except NotFoundError:
        instead = _instead(kube, kind)
        return f"this cluster serves {instead}" if instead else f"there is no {ref.kind} {ref.name}"
    if found.at("metadata", "deletionTimestamp").given:
        return f"{ref.kind} {ref.name} is being deleted"
    ready = condition(found, "Ready")
    # A class that says nothing at all has a provider that says nothing.
    if ready.at("status").text() not in {"", "True"}:
        why = ready.at("message").text() or ready.at("reason").text() or "it does not say why"
        return f"{ref.kind} {ref.name} is not Ready: {why}"
    seen = ready.at("observedGeneration")
    if seen.given and seen.whole() < found.at("metadata", "generation").whole():
        return f"{ref.kind} {ref.name} is not Ready: its last change was not looked at yet"
    return ""


def missing_kinds(kube: Kube, pool: str, mode: str) -> list[Problem]:
    """Return a problem where the API server does not serve Karpenter's objects."""
    for kind in (NODE_CLAIMS, NODE_POOLS):
        if instead := _instead(kube, kind):
            want = f"a mode that needs no Karpenter, or a cluster with Karpenter 1.0 or newer: this one serves {instead}"
            return [Problem(where=f"gpupool {pool}", field="spec.mode", value=mode, want=want)]
    return []


def _instead(kube: Kube, kind: Kind) -> str:
    """Return what the API server serves instead of a kind: none of it, or other versions; empty where it serves the kind."""
    try:
        kube.list(kind)
    except NotFoundError:
        name, others = f"{kind.plural}.{kind.group}", _served(kube, kind)
        return f"{name} in {', '.join(others)} only, not in {kind.version}" if others else f"no {name}"
    except ForbiddenError:
        # Who may read one object may not be allowed to list them; what is needed and may not be read is told when it is.
        return ""
    return ""


def _served(kube: Kube, kind: Kind) -> list[str]:
    """Return the versions in which a kind is served; none where that cannot be known."""
    try:
        definition = named("customresourcedefinition", kube.get(CRDS, f"{kind.plural}.{kind.group}"))
    except (NotFoundError, ForbiddenError):
        return []
    versions = definition.at("spec", "versions").items()
    return [version.at("name").text() for version in versions if version.at("served").flag()]
