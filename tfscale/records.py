"""What became of what was ordered: the records of one pool held against its machines and nodes.

The answer is a list of actions (write a state, replay a call, forget a record) and the requests as they will stand. What
cannot be seen is never concluded: a mode that is silent, or that no longer lists a machine whose node is Ready, ends nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace

from tfscale.conditions import says
from tfscale.disruption import asked, deadline_s, joined
from tfscale.errors import Problem
from tfscale.failures import left_out, told
from tfscale.lifecycle import Event, State, after
from tfscale.model import UNREGISTERED, Cluster, Disruption, Guest, LaunchBatch, Machine, Node, NodeRequest, Offer, Trouble
from tfscale.orphans import doubtful, recovered, strays
from tfscale.plan import Action, Admit, Adopt, Advance, Drop, Forget, Replay, Terminate, some
from tfscale.pool import Policy, Pool

__all__ = ["Book", "Policy", "keep_book"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Book:
    """The records of one pool after what was observed is entered."""

    actions: tuple[Action, ...]
    problems: Mapping[str, Problem]
    """By request name: why nothing is concluded about it and nothing done to it."""
    doubts: tuple[Problem, ...]
    """What somebody has to look at before machines without a record are touched."""
    requests: tuple[NodeRequest, ...]
    """Requests that a machine or a call of unknown outcome stands behind, in their new states, by name."""
    nodes: Mapping[str, Node]
    """By request name, those of machines that get their record back included."""
    expected: Mapping[str, tuple[Offer, ...]]
    """For the same requests: the offer that was taken, or until one is chosen, all that its call may give, best first."""
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
        scarce={notice.machine_id for notice in cluster.notices if notice.scarce},
        disrupted=asked(cluster, pool),
        troubles=cluster.troubles,
        guests=cluster.guests,
    )
    requests = sorted((r for r in cluster.requests if r.pool == pool.name), key=lambda request: request.name)
    carried = {request.batch for request in requests}
    carrying = [batch for batch in batches if batch.name in carried]
    open_calls = {batch.name for batch in carrying if not batch.settled}
    found = strays(cluster, pool, open_calls, policy.orphan_s)
    doubt = doubtful(cluster, pool, found)
    steps = [view.step(request) for request in requests]
    kept = tuple(step.request for step in steps if step.request.state is not State.GONE)
    lost = () if doubt else [recovered(pool, machine, cluster.now_s) for machine in found]
    paid_for = (*kept, *(action.request for action in lost))
    return Book(
        actions=(
            *(action for step in steps for action in step.actions),
            *view.unsettled(carrying),
            *lost,
            *view.admissions(kept),
            *_finished(batches, {request.batch for request in kept}, carried),
        ),
        problems={step.request.name: step.problem for step in steps if step.problem},
        doubts=(doubt,) if doubt else (),
        requests=kept,
        nodes={r.name: view.nodes[r.machine_id] for r in paid_for if r.machine_id in view.nodes},
        expected={r.name: view.expected(r) for r in paid_for},
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
    scarce: AbstractSet[str]
    """Machines that the cloud wants back."""
    disrupted: Mapping[str, Disruption]
    """By machine: why it has to go."""
    troubles: Mapping[str, Trouble]
    """By machine: why it is gone."""
    guests: Mapping[str, Sequence[Guest]]

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
        if state is State.DRAINING:
            return self._draining(request, node)
        return self._advanced(recorded, replace(request, state=state), node, event, why)

    def _advanced(self, recorded: NodeRequest, request: NodeRequest, node: Node | None, event: Event | None, why: str) -> _Step:
        """Write how far it has come, where that is news."""
        if recorded.state is request.state:
            return _Step(request, self._entered(recorded, request), self._deadline_s(request))
        launched_s = self.now_s if event is Event.NODE_GONE else request.launched_s
        changed = replace(request, node=node.name if node else "", launched_s=launched_s)
        advance = Advance(pool=self.pool.name, before=recorded.state, request=changed, why=why)
        return _Step(changed, (advance,), self._deadline_s(changed))

    def _chosen(self, request: NodeRequest) -> NodeRequest:
        """Return the request with the offer that its machine turned out to be."""
        machine = self._machine(request)
        return replace(request, offer=machine.offer) if machine and machine.offer else request

    def _entered(self, recorded: NodeRequest, request: NodeRequest) -> tuple[Action, ...]:
        """Write what it turned out to be, or what keeps its machine from running, where that is news."""
        reason = self._reason(request) if request.state is State.LAUNCHED else ""
        if recorded == request and (self.machines is None or says(request.conditions, reason)):
            return ()
        why = str(self._trouble(request)) if reason else f"it is {request.offer}" if request.offer else "it is tried again"
        return (Advance(pool=self.pool.name, before=recorded.state, request=request, reason=reason, why=why),)

    def _disappointing(self, request: NodeRequest, event: Event | None) -> tuple[str, ...]:
        """Return what is not to be bought again at once: of a machine that never came to anything, what it was or could be."""
        if event is Event.IDLE:
            return (request.offer,) if request.offer and request.machine_id in self.scarce else ()
        return left_out(request, event, self.ordered.get(request.batch, ()), self._trouble(request), self._machine(request))

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
        if node is None or not node.ready or self._was_to_end(request):
            return None
        ours = "region, account, cluster name, or the claim's label and annotation"
        want = f"what tells that {request.machine_id} is ours ({ours}): its node {node.name} is Ready"
        return Problem(where=where, field="mode's listing", value=f"without {request.machine_id}", want=want)

    def _event(self, request: NodeRequest, node: Node | None) -> tuple[Event | None, str]:
        """Return the most important thing that happened to the request's machine since its state was written."""
        machine = self._machine(request)
        if self._missing(request):
            return self._gone(request)
        if machine is not None and machine.stopping:
            return Event.STOPPED, f"machine {machine.id} is being stopped by somebody else{self._told(request)}"
        if request.state is State.DRAINING or request.machine_id in self.disrupted:
            return self._leaving(request, node)
        if request.state is State.READY:
            return (None, "") if node else (Event.NODE_GONE, f"node {request.node} was deleted")
        return self._joining(request, node)

    def _gone(self, request: NodeRequest) -> tuple[Event | None, str]:
        if request.state is not State.LAUNCHED:
            return Event.MACHINE_GONE, f"machine {request.machine_id} is gone"
        if self.now_s < max(request.launched_s, self.seen_since_s) + self.policy.machine_lag_s:
            return None, ""
        return Event.MACHINE_GONE, f"machine {request.machine_id} went before its node joined{self._told(request)}"

    def _was_to_end(self, request: NodeRequest) -> bool:
        """Return whether the cloud said that the machine would be gone by now; then it need not say it again."""
        ends_s = request.drain.ends_s if request.drain else None
        return request.state is State.DRAINING and ends_s is not None and self.now_s >= ends_s

    def _drain(self, request: NodeRequest) -> Disruption:
        """Return since when and why it has to go. A record that does not say why is not held for longer than others."""
        reason = self.disrupted.get(request.machine_id)
        known = joined(request.drain, [reason] if reason else [])
        return known or Disruption(since_s=self.now_s, event="Unknown", why="its record does not say why")

    def _gives_up_s(self, drain: Disruption) -> int | None:
        """Return when its pods are waited for no more. A clock that was put forward must not take their time away."""
        due_s = deadline_s(drain, self.pool)
        return due_s if due_s is None or drain.ends_s is not None else max(due_s, self.seen_since_s + self.policy.settle_s)

    def _leaving(self, request: NodeRequest, node: Node | None) -> tuple[Event | None, str]:
        """Return how it goes: at once where no pod is on its node, else when nothing is left to wait for."""
        if request.state is not State.DRAINING:
            reason = self.disrupted[request.machine_id]
            empty = node is None or all(pod.daemon for pod in node.pods)
            return Event.IDLE if empty else Event.DISRUPTED, f"{reason.event}: {reason.why}"
        if node is None:
            return Event.NODE_GONE, f"node {request.node} was deleted"
        staying = {guest.uid for guest in self.guests.get(node.name, ()) if guest.stays}
        busy = [pod.id for pod in node.pods if not pod.daemon and pod.uid not in staying]
        if not busy:
            return Event.DRAINED, "no pod is left on it"
        due_s = self._gives_up_s(self._drain(request))
        over = due_s is not None and self.now_s >= due_s
        return (Event.DRAINED, f"its time is over, and {some(busy)} did not leave") if over else (None, "")

    def _joining(self, request: NodeRequest, node: Node | None) -> tuple[Event, str]:
        """Return how far the node of a launched machine has come. Only a machine that is listed can be late."""
        if node is not None and not _barred(node) and not self._lacks(request, node):
            return Event.READY, f"node {node.name} is Ready"
        if self.machines is not None and self.offers is not None and self.now_s >= self._late_s(request):
            return self._late(request, node)
        return (Event.REGISTERED, f"node {node.name} joined") if node else (Event.NODE_GONE, f"node {request.node} was deleted")

    def _late(self, request: NodeRequest, node: Node | None) -> tuple[Event, str]:
        pool = self.pool
        if node is not None:
            lacking = self._lacks(request, node) or "still has its taint"
            return Event.INITIALIZATION_TIMED_OUT, f"its node {lacking} {pool.initialise_within_s} s after it joined"
        if self._started(request):
            return Event.REGISTRATION_TIMED_OUT, f"its node did not join within {pool.register_within_s} s"
        return Event.LAUNCH_TIMED_OUT, f"the cloud did not run it within {self._launch_within_s(request)} s{self._told(request)}"

    def _machine(self, request: NodeRequest) -> Machine | None:
        return (self.machines or {}).get(request.machine_id)

    def _started(self, request: NodeRequest) -> bool:
        return (machine := self._machine(request)) is None or machine.started

    def _trouble(self, request: NodeRequest) -> Trouble | None:
        machine = self._machine(request)
        return self.troubles.get(request.machine_id) or (machine.trouble if machine else None)

    def _reason(self, request: NodeRequest) -> str:
        return trouble.reason if (trouble := self._trouble(request)) else ""

    def _told(self, request: NodeRequest) -> str:
        return told(self._trouble(request), self._machine(request))

    def _launch_within_s(self, request: NodeRequest) -> int:
        return min(self.pool.launch_within_s, self.policy.withdraw_s if self._trouble(request) else self.pool.launch_within_s)

    def _lacks(self, request: NodeRequest, node: Node) -> str:
        """Return what keeps the node from taking pods, or nothing: it is Ready, not fenced, and shows all cards bought."""
        if self.offers is None:
            return "is not compared: what was bought is not known"
        offer = self.offers.get(request.offer)
        cards = offer.gpu_count if offer else 0
        if len(node.gpus) < cards:
            return f"shows {len(node.gpus)} of {cards} GPUs"
        if node.fenced:
            return f"takes no pods: {node.fenced},"
        return "" if node.ready else "is not Ready"

    def _deadline_s(self, request: NodeRequest) -> int | None:
        if request.state is State.LAUNCHED and self._missing(request):
            return max(request.launched_s, self.seen_since_s) + self.policy.machine_lag_s
        if request.state in {State.LAUNCHED, State.REGISTERED}:
            return self._late_s(request)
        return None

    def _late_s(self, request: NodeRequest) -> int:
        node, pool = self.nodes.get(request.machine_id), self.pool
        if node is not None:
            due_s = max(node.created_s, request.launched_s) + pool.initialise_within_s
        else:
            within_s = pool.register_within_s if self._started(request) else self._launch_within_s(request)
            due_s = request.launched_s + within_s
        return max(due_s, self.seen_since_s + self.policy.settle_s)

    def _draining(self, request: NodeRequest, node: Node | None) -> _Step:
        """Return it as it is to be recorded; its pods are asked to leave when it is known where they can go."""
        drain = self._drain(request)
        changed = replace(request, state=State.DRAINING, node=node.name if node else "", drain=drain)
        again_s, due_s = self.now_s + self.policy.poll_s, self._gives_up_s(drain)
        return _Step(changed, due_s=again_s if due_s is None else min(again_s, due_s))

    def _terminating(self, request: NodeRequest, node: Node | None, event: Event | None, why: str) -> _Step:
        """Ask for termination until the machine is seen stopping; the listing decides, not our memory of having asked."""
        machine = self._machine(request)
        again = request.state is State.TERMINATING
        terminate = Terminate(
            pool=self.pool.name,
            request=request,
            node=node.name if node else "",
            event=None if again else event,
            disappointing=() if again else self._disappointing(request, event),
            reason="" if again else self._reason(request),
            why="asked for before, but it still runs" if again else why,
        )
        under_way = again and (machine is None or machine.stopping)
        changed = replace(request, state=State.TERMINATING)
        return _Step(changed, () if under_way else (terminate,), self.now_s + self.policy.poll_s)

    def _forget(self, request: NodeRequest, node: Node | None, why: str, out: tuple[str, ...] = ()) -> Forget:
        left = node.name if node else ""
        return Forget(pool=self.pool.name, request=request, node=left, disappointing=out, reason=self._reason(request), why=why)

    def unsettled(self, batches: Sequence[LaunchBatch]) -> Iterator[Action]:
        """Yield what finds out the outcome of calls that were recorded but not settled."""
        for batch in batches:
            if batch.settled or batch.mode != self.pool.mode:
                continue
            seen = sorted((m for m in (self.machines or {}).values() if m.batch == batch.name), key=lambda machine: machine.id)
            if len(seen) >= len(batch.requests):
                # All that was ordered exists: another call could only launch more once the token has expired.
                yield Adopt(pool=self.pool.name, batch=batch, machines=tuple(seen), why="its machines exist")
            elif self.machines is not None and self.now_s >= batch.created_s + self.policy.token_s:
                why = f"its token is {self.policy.token_s // 3_600} h old, so only what exists counts"
                yield Adopt(pool=self.pool.name, batch=batch, machines=tuple(seen), why=why)
            else:
                yield Replay(pool=self.pool.name, batch=batch, why="the outcome of its call is not known")

    def admissions(self, requests: Sequence[NodeRequest]) -> Iterator[Action]:
        """Yield the admission of nodes that are complete but for the taint they came with."""
        for request in requests:
            node = self.nodes.get(request.machine_id)
            joined = request.state in {State.LAUNCHED, State.REGISTERED, State.READY}
            if joined and node is not None and _barred(node) and not self._lacks(request, node):
                yield Admit(pool=self.pool.name, request=request, node=node.name, why="all of it is there")


def _barred(node: Node) -> bool:
    return any(taint.key == UNREGISTERED for taint in node.taints)


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
