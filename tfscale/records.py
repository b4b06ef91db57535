"""What became of what was ordered: the records of one pool held against its machines and nodes.

The answer is a list of actions (write a state, replay a call, forget a record) and the requests as they will stand.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from tfscale.lifecycle import Event, State, after
from tfscale.model import Cluster, LaunchBatch, Machine, Node, NodeRequest, Offer, Pool
from tfscale.plan import Action, Adopt, Advance, Drop, Forget, Replay, Terminate

__all__ = ["Book", "Policy", "keep_book"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Rules that hold for every pool. Times are seconds."""

    machine_lag_s: int = 60
    """How long a machine may be missing from a listing after its launch; EC2's DescribeInstances is eventually consistent."""
    poll_s: int = 10
    """How soon to look again after a machine that is shutting down."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Book:
    """The records of one pool after what was observed is entered."""

    actions: tuple[Action, ...]
    requests: tuple[NodeRequest, ...]
    """Requests that a machine or a call of unknown outcome stands behind, in their new states, by name."""
    void: tuple[NodeRequest, ...]
    """Requests without a call: nothing was bought, they can be planned anew."""
    nodes: Mapping[str, Node]
    """By request name."""
    recheck_s: int | None
    """When a deadline of these records is next due."""


def keep_book(cluster: Cluster, pool: Pool, offers: Mapping[str, Offer], policy: Policy) -> Book:
    """Compare the pool's requests and batches with its machines and nodes. `offers` are all that the mode has, by id."""
    machines = cluster.machines.get(pool.name)
    view = _View(
        now_s=cluster.now_s,
        pool=pool,
        policy=policy,
        offers=offers,
        machines=None if machines is None else {machine.id: machine for machine in machines},
        nodes={node.machine_id: node for node in cluster.nodes if node.machine_id},
    )
    requests = sorted((r for r in cluster.requests if r.pool == pool.name), key=lambda request: request.name)
    void = tuple(r for r in requests if r.state is State.REQUESTED and not r.batch)
    steps = [view.step(request) for request in requests if request not in void]
    batches = sorted((b for b in cluster.batches if b.pool == pool.name), key=lambda batch: batch.name)
    kept = tuple(step.request for step in steps if step.request.state is not State.GONE)
    return Book(
        actions=(
            *(action for step in steps for action in step.actions),
            *view.unsettled(batches),
            *_finished(batches, {request.batch for request in kept}),
        ),
        requests=kept,
        void=void,
        nodes={r.name: view.nodes[r.machine_id] for r in kept if r.machine_id in view.nodes},
        recheck_s=min((step.due_s for step in steps if step.due_s is not None), default=None),
    )


@dataclass(frozen=True, slots=True)
class _Step:
    request: NodeRequest
    actions: tuple[Action, ...] = ()
    due_s: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _View:
    now_s: int
    pool: Pool
    policy: Policy
    offers: Mapping[str, Offer]
    machines: Mapping[str, Machine] | None
    nodes: Mapping[str, Node]

    def step(self, request: NodeRequest) -> _Step:
        """Return the request in its new state with what has to be done about it."""
        if request.state is State.REQUESTED:
            return _Step(request, due_s=self.now_s + self.policy.poll_s)
        node = self.nodes.get(request.machine_id)
        event, why = self._event(request, node)
        state = request.state if event is None else after(request.state, event)
        if state is State.GONE:
            return _Step(replace(request, state=state), (self._forget(request, node, why),))
        if state is State.TERMINATING:
            return self._terminating(request, node, event, why)
        if state is request.state:
            return _Step(request, due_s=self._deadline_s(request))
        changed = replace(request, state=state, node=node.name if node else "", changed_s=self.now_s)
        advance = Advance(pool=self.pool.name, request=request, state=state, node=changed.node, why=why)
        return _Step(changed, (advance,), self._deadline_s(changed))

    def _event(self, request: NodeRequest, node: Node | None) -> tuple[Event | None, str]:
        """Return the most important thing that happened to the request's machine since its state was written."""
        machine = None if self.machines is None else self.machines.get(request.machine_id)
        if self.machines is not None and machine is None:
            fresh = request.state is State.LAUNCHED and self.now_s - request.changed_s < self.policy.machine_lag_s
            return (None, "") if fresh else (Event.MACHINE_GONE, f"machine {request.machine_id} is gone")
        if machine is not None and machine.stopping:
            return Event.STOPPED, f"machine {machine.id} is being stopped by somebody else"
        if request.state is State.READY:
            return None, ""
        if node is not None and self._complete(request, node):
            return Event.READY, f"node {node.name} is Ready"
        deadline_s = self._deadline_s(request)
        if deadline_s is not None and self.now_s >= deadline_s:
            waited = "did not become Ready" if node else "did not join"
            return Event.TIMED_OUT, f"its node {waited} within {self.pool.register_within_s} s"
        return (Event.REGISTERED, f"node {node.name} joined") if node else (None, "")

    def _complete(self, request: NodeRequest, node: Node) -> bool:
        """Return whether the node can take pods: Ready, not fenced, and with as many cards as were bought.

        Where the offer is not known now, one card is asked for: a node that still lacks its GPUs must not count as ready.
        """
        offer = self.offers.get(request.offer)
        return node.ready and not node.fenced and len(node.gpus) >= (offer.gpu_count if offer else 1)

    def _deadline_s(self, request: NodeRequest) -> int | None:
        if request.state in {State.LAUNCHED, State.REGISTERED}:
            return request.changed_s + self.pool.register_within_s
        return None

    def _terminating(self, request: NodeRequest, node: Node | None, event: Event | None, why: str) -> _Step:
        """Ask for termination until the machine is seen stopping; the listing decides, not our memory of having asked."""
        machine = None if self.machines is None else self.machines.get(request.machine_id)
        again = request.state is State.TERMINATING
        terminate = Terminate(
            pool=self.pool.name,
            request=request,
            node=node.name if node else "",
            must_be_empty=False,
            set_aside=event is Event.TIMED_OUT and not again,
            why="asked for before, but it still runs" if again else why,
        )
        under_way = again and (machine is None or machine.stopping)
        changed = replace(request, state=State.TERMINATING)
        return _Step(changed, () if under_way else (terminate,), self.now_s + self.policy.poll_s)

    def _forget(self, request: NodeRequest, node: Node | None, why: str) -> Forget:
        return Forget(pool=self.pool.name, request=request, node=node.name if node else "", why=why)

    def unsettled(self, batches: Sequence[LaunchBatch]) -> Iterator[Action]:
        """Yield what finds out the outcome of calls that were recorded but not settled."""
        for batch in batches:
            if batch.settled:
                continue
            seen = tuple(
                sorted((m for m in (self.machines or {}).values() if m.batch == batch.name), key=lambda machine: machine.id)
            )
            if len(seen) >= len(batch.requests):
                # All that was ordered exists: another call could only launch more once the token has expired.
                yield Adopt(pool=self.pool.name, batch=batch, machines=seen, why="its machines exist")
            else:
                yield Replay(pool=self.pool.name, batch=batch, why="the outcome of its call is not known")


def _finished(batches: Sequence[LaunchBatch], alive: set[str]) -> Iterator[Action]:
    for batch in batches:
        if batch.settled and batch.name not in alive:
            yield Drop(pool=batch.pool, batch=batch.name, why="none of its nodes is left")
