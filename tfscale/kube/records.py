"""``NodeRequest`` and ``LaunchBatch`` objects: the records of what was bought, written before anything is.

An API server drops the status of an object that is created, so all that a new record must say is in its spec: creating it
is one atomic write. A request names the batch that is to carry it, and a batch its requests. Only where both name each other
does the call stand behind the request: a batch that arrives when its requests were given up already means nothing.

The parameters of a batch are stored as JSON text. As an object they would pass through the API server's own numbers and
pruning, and a call that is replayed has to be the same word for word.
"""

from __future__ import annotations

import difflib
import json
from dataclasses import replace

from tfscale.conditions import STEPS, settled
from tfscale.kube.conditions import read_conditions, write_conditions
from tfscale.kube.fields import Field, named
from tfscale.kube.port import LAUNCH_BATCHES, NODE_REQUESTS, Json, Kind
from tfscale.lifecycle import State
from tfscale.model import Disruption, LaunchBatch, NodeRequest
from tfscale.quantity import time_text

__all__ = [
    "batch_settled",
    "read_batch",
    "read_node_request",
    "request_status",
    "write_batch",
    "write_request",
]


def write_request(request: NodeRequest) -> Json:
    """Return the object of a node request."""
    spec = {
        "pool": request.pool,
        "mode": request.mode,
        **({"batch": request.batch} if request.batch else {}),
        "nominated": list(request.nominated),
    }
    return _object(NODE_REQUESTS, request.name) | {"spec": spec} | request_status(request)


def request_status(request: NodeRequest) -> Json:
    """Return all that we say in a request's status: its state, the machine and node behind it, and what that means."""
    given = {
        "machineId": request.machine_id,
        "offer": request.offer,
        "nodeName": request.node,
        "launchedAt": time_text(request.launched_s) if request.launched_s else "",
    }
    status = {
        "state": str(request.state),
        **{name: value for name, value in given.items() if value},
        **({"drain": _drain_object(request.drain)} if request.drain else {}),
        # Those of others stay theirs.
        "conditions": write_conditions(one for one in request.conditions if one.type in STEPS),
    }
    return _object(NODE_REQUESTS, request.name) | {"status": status}


def read_node_request(obj: Json) -> NodeRequest:
    """Return the request, with the batch that it names. Raises ``BadInputError``.

    A request without a status was created a moment ago: it is Requested.
    """
    request = named("noderequest", obj)
    spec, status = request.at("spec"), request.at("status")
    return NodeRequest(
        name=request.at("metadata", "name").needed(),
        pool=spec.at("pool").needed(),
        mode=spec.at("mode").needed(),
        state=_state(status.at("state")),
        batch=spec.at("batch").text(),
        nominated=tuple(sorted(spec.at("nominated").texts())),
        machine_id=status.at("machineId").text(),
        offer=status.at("offer").text(),
        node=status.at("nodeName").text(),
        launched_s=status.at("launchedAt").seconds() if status.at("launchedAt").given else 0,
        drain=_drain(status.at("drain")),
        conditions=read_conditions(status),
    )


def _drain_object(drain: Disruption) -> Json:
    ends = {} if drain.ends_s is None else {"ends": time_text(drain.ends_s)}
    return {"since": time_text(drain.since_s), **ends, "event": drain.event, "why": drain.why}


def _drain(field: Field) -> Disruption | None:
    if not field.given:
        return None
    return Disruption(
        since_s=field.at("since").seconds(),
        ends_s=field.at("ends").seconds() if field.at("ends").given else None,
        event=field.at("event").needed(),
        why=field.at("why").text(),
    )


def write_batch(batch: LaunchBatch) -> Json:
    """Return the object of a launch batch. Raises ``ValueError`` where its parameters are no JSON."""
    spec = {
        "pool": batch.pool,
        "mode": batch.mode,
        "requests": list(batch.requests),
        "offers": list(batch.offers),
        "parameters": json.dumps(batch.parameters, allow_nan=False),
        "epoch": batch.epoch,
        "createdAt": time_text(batch.created_s),
    }
    return _object(LAUNCH_BATCHES, batch.name) | {"spec": spec, "status": {"settled": batch.settled}}


def batch_settled(name: str, now_s: int) -> Json:
    """Return all that we say in a batch's status once its outcome is known: it is never sent again."""
    status = {"settled": True, "conditions": write_conditions([replace(settled(), since_s=now_s)])}
    return _object(LAUNCH_BATCHES, name) | {"status": status}


def read_batch(obj: Json) -> LaunchBatch:
    """Return the batch. Raises ``BadInputError``."""
    batch = named("launchbatch", obj)
    spec = batch.at("spec")
    return LaunchBatch(
        name=batch.at("metadata", "name").needed(),
        pool=spec.at("pool").needed(),
        mode=spec.at("mode").needed(),
        requests=tuple(sorted(spec.at("requests").texts())),
        parameters=_parameters(spec.at("parameters")),
        offers=spec.at("offers").texts(),
        settled=batch.at("status", "settled").flag(),
        epoch=spec.at("epoch").whole(),
        created_s=_created_s(batch),
    )


def _object(kind: Kind, name: str) -> Json:
    return {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": {"name": name}}


def _created_s(record: Field) -> int:
    """Return the time by our own clock, to which other times of ours are compared; else the API server's."""
    ours = record.at("spec", "createdAt")
    return (ours if ours.given else record.at("metadata", "creationTimestamp")).seconds()


def _state(field: Field) -> State:
    text = field.text() or State.REQUESTED
    if text not in set(State):
        near = difflib.get_close_matches(text, list(State), n=1)
        raise field.refused(f"{near[0]}?" if near else "one of " + ", ".join(State))
    return State(text)


def _parameters(field: Field) -> Json:
    want = "a JSON object as text"
    try:
        found = json.loads(field.needed())
    except (ValueError, RecursionError):
        raise field.refused(want) from None
    if not isinstance(found, dict):
        raise field.refused(want)
    return found
