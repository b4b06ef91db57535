"""What became of what was ordered: the records of one pool held against its machines and nodes.

The answer is a list of actions (write a state, replay a call, forget a record) and the requests as they will stand. What
cannot be seen is never concluded: a mode that is silent, or that no longer lists a machine whose node is Ready, ends nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from tfscale.errors import Problem
from tfscale.lifecycle import Event, State, after
from tfscale.model import Cluster, LaunchBatch, Machine, Node, NodeRequest, Offer, Pool
from tfscale.plan import Action, Adopt, Advance, Drop, Forget, Recover, Replay, Terminate

__all__ = ["Book", "Policy", "digest", "keep_book"]


def digest(*parts: str) -> str:
    """Return a short name that follows from these parts alone."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:10]


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Rules that hold for every pool. Times are seconds."""

    machine_lag_s: int = 60
    """How long a machine may be missing from a listing after its launch; EC2's DescribeInstances is eventually consistent."""
    settle_s: int = 60
    """How long a cluster must have been observed without a gap before a node that did not join counts as late: while the API
    server is away no node can join."""
    silent_s: int = 300
    """How long a node that stopped reporting counts as a place to wait for. Kubernetes lets pods stay on it for as long."""
    poll_s: int = 10
    """How soon to look again after a machine that is shutting down."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Book:
    """The records of one pool after what was observed is entered."""

    actions: tuple[Action, ...]
    problems: Mapping[str, Problem]
    """By request name: why nothing is concluded about it and nothing done to it."""
    requests: tuple[NodeRequest, ...]
    """Requests that a machine or a call of unknown outcome stands behind, in their new states, by name."""
    nodes: Mapping[str, Node]
    """By request name."""
    expected: Mapping[str, tuple[Offer, ...]]
    """By request name: the offer that was taken, or while nobody has chosen one, all that its call may give, best first."""
    recheck_s: int | None
    """When a deadline of these records is next due."""


def keep_book(cluster: Cluster, pool: Pool, offers: Mapping[str, Offer] | None, policy: Policy) -> Book:
    """Compare the pool's requests and batches with its machines and nodes.

    `offers` are all that the mode has, by id; None when it gave no answer.
    """
    machines = cluster.machines.get(pool.name)
    batches = sorted((b for b in cluster.batches if b.pool == pool.name), key=lambda batch: batch.name)
    view = _View(
        now_s=cluster.now_s,
        seen_since_s=cluster.seen_since_s,
        pool=pool,
        policy=policy,
        offers=offers,
        ordered={batch.name: batch.offers for batch in batches},
        machines=None if machines is None else {machine.id: machine for machine in machines},
        nodes={node.machine_id: node for node in cluster.nodes if node.machine_id},
    )
    requests = sorted((r for r in cluster.requests if r.pool == pool.name), key=lambda request: request.name)
    carried = {request.batch for request in requests}
    carrying = [batch for batch in batches if batch.name in carried]
    steps = [view.step(request) for request in requests]
    kept = tuple(step.request for step in steps if step.request.state is not State.GONE)
    return Book(
        actions=(
            *(action for step in steps for action in step.actions),
            *view.unsettled(carrying),
            *view.strays(requests, carrying),
            *_finished(batches, {request.batch for request in kept}, carried),
        ),
        problems={step.request.name: step.problem for step in steps if step.problem},
        requests=kept,
        nodes={r.name: view.nodes[r.machine_id] for r in kept if r.machine_id in view.nodes},
        expected={r.name: view.expected(r) for r in kept},
        recheck_s=min((step.due_s for step in steps if step.due_s is not None), default=None),
    )


@dataclass(frozen=True, slots=True)
class _Step:
    request: NodeRequest
    actions: tuple[Action, ...] = ()
    due_s: int | None = None
    problem: Problem | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _View:
    now_s: int
    seen_since_s: int
    pool: Pool
    policy: Policy
    offers: Mapping[str, Offer] | None
    ordered: Mapping[str, tuple[str, ...]]
    """Ids of offers by batch."""
    machines: Mapping[str, Machine] | None
    nodes: Mapping[str, Node]

    def expected(self, request: NodeRequest) -> tuple[Offer, ...]:
        """Return what the request's machine may be, as far as it is still on offer."""
        ids = (request.offer,) if request.offer else self.ordered.get(request.batch, ())
        return tuple(self.offers[offer] for offer in ids if offer in self.offers) if self.offers else ()

    def step(self, request: NodeRequest) -> _Step:
        """Return the request in its new state with what has to be done about it."""
        node, recorded = self.nodes.get(request.machine_id), request
        if problem := self._unclear(request, node):
            return _Step(request, problem=problem)
        request = self._chosen(request)
        if request.state is State.REQUESTED:
            return self._requested(request)
        event, why = self._event(request, node)
        state = request.state if event is None else after(request.state, event)
        if state is State.GONE:
            return _Step(replace(request, state=state), (self._forget(request, node, why, self._disappointing(request, event)),))
        if state is State.TERMINATING:
            return self._terminating(request, node, event, why)
        if state is request.state:
            return _Step(request, self._entered(recorded, request), self._deadline_s(request))
        launched_s = self.now_s if event is Event.NODE_GONE else request.launched_s
        changed = replace(request, state=state, node=node.name if node else "", launched_s=launched_s)
        advance = Advance(pool=self.pool.name, before=request.state, request=changed, why=why)
        return _Step(changed, (advance,), self._deadline_s(changed))

    def _chosen(self, request: NodeRequest) -> NodeRequest:
        """Return the request with the offer that its machine turned out to be."""
        machine = None if self.machines is None else self.machines.get(request.machine_id)
        return replace(request, offer=machine.offer) if machine and machine.offer else request

    def _entered(self, recorded: NodeRequest, request: NodeRequest) -> tuple[Action, ...]:
        if recorded == request:
            return ()
        return (Advance(pool=self.pool.name, before=recorded.state, request=request, why=f"it is {request.offer}"),)

    def _disappointing(self, request: NodeRequest, event: Event | None) -> tuple[str, ...]:
        """Return what is not to be bought again at once: of a machine that never came to anything, what it was or could be."""
        if event is Event.TIMED_OUT and request.offer:
            return (request.offer.partition("/")[0],)
        never_joined = event in {Event.MACHINE_GONE, Event.STOPPED} and request.state is State.LAUNCHED
        if event is not Event.TIMED_OUT and not never_joined:
            return ()
        return (request.offer,) if request.offer else self.ordered.get(request.batch, ())

    def _requested(self, request: NodeRequest) -> _Step:
        if request.batch in self.ordered:
            return _Step(request, due_s=self.now_s + self.policy.poll_s)
        # A crash came before the call, or the call gave nothing: what it was for is planned anew under a new name.
        forget = self._forget(request, None, "nothing was bought for it")
        return _Step(replace(request, state=State.GONE), (forget,))

    def _missing(self, request: NodeRequest) -> bool:
        return self.machines is not None and request.machine_id not in self.machines

    def _unclear(self, request: NodeRequest, node: Node | None) -> Problem | None:
        """Return why nothing may be concluded about this request: whoever knows its machine is not asked any more."""
        where = f"gpupool {self.pool.name}"
        if request.mode != self.pool.mode:
            want = f"{request.mode} until {request.machine_id or request.name} is given back"
            return Problem(where=where, field="spec.mode", value=self.pool.mode, want=want)
        if request.state in {State.REQUESTED, State.TERMINATING} or not self._missing(request):
            return None
        if node is None or not node.ready:
            return None
        ours = "region, account, cluster name, or the claim's label and annotation"
        want = f"what tells that {request.machine_id} is ours ({ours}): its node {node.name} is Ready"
        return Problem(where=where, field="mode's listing", value=f"without {request.machine_id}", want=want)

    def _event(self, request: NodeRequest, node: Node | None) -> tuple[Event | None, str]:
        """Return the most important thing that happened to the request's machine since its state was written."""
        machine = None if self.machines is None else self.machines.get(request.machine_id)
        if self._missing(request):
            if request.state is not State.LAUNCHED:
                return Event.MACHINE_GONE, f"machine {request.machine_id} is gone"
            fresh = self.now_s < request.launched_s + self.policy.machine_lag_s
            return (None, "") if fresh else (Event.MACHINE_GONE, f"machine {request.machine_id} went before its node joined")
        if machine is not None and machine.stopping:
            return Event.STOPPED, f"machine {machine.id} is being stopped by somebody else"
        if request.state is State.READY:
            return (None, "") if node else (Event.NODE_GONE, f"node {request.node} was deleted")
        return self._joining(request, node)

    def _joining(self, request: NodeRequest, node: Node | None) -> tuple[Event, str]:
        """Return how far the node of a launched machine has come. Only a machine that is listed can be late."""
        if node is not None and self._complete(request, node):
            return Event.READY, f"node {node.name} is Ready"
        if self.machines is not None and self.now_s >= self._late_s(request):
            waited = "did not become Ready" if node else "did not join"
            return Event.TIMED_OUT, f"its node {waited} within {self.pool.register_within_s} s"
        return (Event.REGISTERED, f"node {node.name} joined") if node else (Event.NODE_GONE, f"node {request.node} was deleted")

    def _complete(self, request: NodeRequest, node: Node) -> bool:
        """Return whether the node can take pods: Ready, not fenced, and with as many cards as were bought."""
        if self.offers is None:
            return False
        offer = self.offers.get(request.offer)
        return node.ready and not node.fenced and len(node.gpus) >= (offer.gpu_count if offer else 0)

    def _deadline_s(self, request: NodeRequest) -> int | None:
        if request.state is State.LAUNCHED and self._missing(request):
            return request.launched_s + self.policy.machine_lag_s
        if request.state in {State.LAUNCHED, State.REGISTERED}:
            return self._late_s(request)
        return None

    def _late_s(self, request: NodeRequest) -> int:
        return max(request.launched_s + self.pool.register_within_s, self.seen_since_s + self.policy.settle_s)

    def _terminating(self, request: NodeRequest, node: Node | None, event: Event | None, why: str) -> _Step:
        """Ask for termination until the machine is seen stopping; the listing decides, not our memory of having asked."""
        machine = None if self.machines is None else self.machines.get(request.machine_id)
        again = request.state is State.TERMINATING
        terminate = Terminate(
            pool=self.pool.name,
            request=request,
            node=node.name if node else "",
            event=None if again else event,
            disappointing=() if again else self._disappointing(request, event),
            why="asked for before, but it still runs" if again else why,
        )
        under_way = again and (machine is None or machine.stopping)
        changed = replace(request, state=State.TERMINATING)
        return _Step(changed, () if under_way else (terminate,), self.now_s + self.policy.poll_s)

    def _forget(self, request: NodeRequest, node: Node | None, why: str, disappointing: tuple[str, ...] = ()) -> Forget:
        left = node.name if node else ""
        return Forget(pool=self.pool.name, request=request, node=left, disappointing=disappointing, why=why)

    def unsettled(self, batches: Sequence[LaunchBatch]) -> Iterator[Action]:
        """Yield what finds out the outcome of calls that were recorded but not settled."""
        for batch in batches:
            if batch.settled or batch.mode != self.pool.mode:
                continue
            seen = sorted((m for m in (self.machines or {}).values() if m.batch == batch.name), key=lambda machine: machine.id)
            if len(seen) >= len(batch.requests):
                # All that was ordered exists: another call could only launch more once the token has expired.
                yield Adopt(pool=self.pool.name, batch=batch, machines=tuple(seen), why="its machines exist")
            else:
                yield Replay(pool=self.pool.name, batch=batch, why="the outcome of its call is not known")

    def strays(self, requests: Sequence[NodeRequest], batches: Sequence[LaunchBatch]) -> Iterator[Action]:
        """Yield the recovery of machines that no record names: someone deleted it, or another process lost it.

        Once recovered, such a machine is used or given back like any other.
        """
        named = {request.machine_id for request in requests}
        open_calls = {batch.name for batch in batches if not batch.settled}
        for machine in sorted((self.machines or {}).values(), key=lambda machine: machine.id):
            old = machine.launched_s is None or self.now_s - machine.launched_s >= self.policy.machine_lag_s
            if machine.id in named or machine.batch in open_calls or machine.stopping or not old:
                continue
            request = NodeRequest(
                name=f"{self.pool.name}-{digest(machine.id)}",
                pool=self.pool.name,
                mode=self.pool.mode,
                state=State.LAUNCHED,
                batch=machine.batch,
                machine_id=machine.id,
                offer=machine.offer,
                launched_s=self.now_s,
            )
            yield Recover(pool=self.pool.name, request=request, why="no record names it")


def _finished(batches: Sequence[LaunchBatch], alive: set[str], carried: set[str]) -> Iterator[Action]:
    """Yield the end of batches of which nothing is left.

    One that no request names came too late, as the write of a process that stood still, or its requests were deleted by
    hand: its call must not be made (again). Machines that it launched all the same are recovered as strays.
    """
    for batch in batches:
        if batch.settled and batch.name not in alive:
            yield Drop(pool=batch.pool, batch=batch.name, why="none of its nodes is left")
        elif not batch.settled and batch.name not in carried:
            yield Drop(pool=batch.pool, batch=batch.name, why="no request names it")
