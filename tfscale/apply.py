"""Carry out a plan, action by action. Each one stands alone: what fails is reported and comes back on the next tick.

The order of writes is what makes a crash harmless. A launch writes its node requests, then the batch with the exact call,
and only then calls the cloud; a machine is forgotten only after it is gone.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import chain
from typing import TypeVar

from tfscale.conditions import of_request, updated
from tfscale.disruption import is_voluntary
from tfscale.errors import CredentialsError, LaunchRefusedError, ModeError, NotFoundError, NotLeadingError, TfscaleError
from tfscale.kube import convert
from tfscale.kube.evictions import evict
from tfscale.kube.port import GPU_POOLS, LAUNCH_BATCHES, NODE_REQUESTS, NODES, PODS, Json, Kind, Kube
from tfscale.kube.taints import set_taint, take_out_of_service
from tfscale.lifecycle import Event, State, after
from tfscale.market import EVERYTHING, remembered, set_aside
from tfscale.model import RESERVED, UNREGISTERED, Cluster, LaunchBatch, Machine, NodeRequest
from tfscale.modes.base import LaunchResult, Refusal, ScalingMode, results_of
from tfscale.plan import (
    Action,
    Admit,
    Adopt,
    Advance,
    Advertise,
    Assign,
    Avoid,
    Drain,
    Drop,
    Forget,
    Hold,
    Launch,
    MarkIdle,
    Nominate,
    Plan,
    Recover,
    Release,
    Replay,
    Reserve,
    Terminate,
    Unguard,
    some,
)
from tfscale.pool import Pool

__all__ = ["Outcome", "apply"]

log = logging.getLogger(__name__)
A = TypeVar("A", bound=Action)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one action."""

    action: Action
    done: bool
    """Whether the world is different now. False also where the action was called off, which is no error."""
    note: str = ""
    error: TfscaleError | None = None
    results: tuple[LaunchResult, ...] = ()
    """What a launch gave, by node request."""

    @property
    def trouble(self) -> str:
        """What went wrong; nothing where the pool's own condition tells of it."""
        return "" if self.error is None or isinstance(self.error, _TOLD) else str(self.error)

    @property
    def machines(self) -> tuple[Machine, ...]:
        """Return the machines that this action found or made."""
        return tuple(result.machine for result in self.results if result.machine)

    @property
    def refusals(self) -> tuple[Refusal, ...]:
        """Return the offers that had no capacity, each once."""
        return tuple({refusal.offer: refusal for result in self.results for refusal in result.refusals}.values())


def apply(
    plan: Plan, cluster: Cluster, kube: Kube, modes: Mapping[str, ScalingMode], *, epoch: Callable[[], int] = lambda: 0
) -> Iterator[Outcome]:
    """Carry out the plan that was made from `cluster` and yield one outcome per action.

    `epoch` is written on what is launched, and raises ``NotLeadingError`` where another process acts by now, as writes
    through `kube` and `modes` may do: the plan is void then, and the outcome that says so is the last.

    Raises nothing of ``TfscaleError``; a failed action is an outcome with its error.
    """
    for outcome in _outcomes(plan, _Hands(cluster, kube, modes, epoch)):
        yield outcome
        if isinstance(outcome.error, NotLeadingError):
            return


def _outcomes(plan: Plan, hands: _Hands) -> Iterator[Outcome]:
    resting: set[str] = set()
    for action in plan.actions:
        if isinstance(action, Terminate):
            continue
        if isinstance(action, Launch) and action.pool in resting:
            yield Outcome(action=action, done=False, note="put off: the cloud wants a pause")
            continue
        outcome = _attempt(action, hands.carry_out)
        if any(refusal.offer == EVERYTHING for refusal in outcome.refusals):
            resting.add(action.pool)
        yield outcome
    # Last and together: one call gives back all machines of a pool.
    returned = [action for action in plan.actions if isinstance(action, Terminate)]
    for pool in dict.fromkeys(action.pool for action in returned):
        yield from hands.give_back(pool, [action for action in returned if action.pool == pool])


def _attempt(action: A, do: Callable[[A], Outcome]) -> Outcome:
    try:
        return do(action)
    except TfscaleError as error:
        return Outcome(action=action, done=False, error=error)


class _NoModeError(ModeError):
    """The mode of a pool could not be opened, or its cloud is left alone."""


_TOLD = (CredentialsError, _NoModeError)
"""What the loop tells of the pool, once for as long as it lasts."""


@dataclass(frozen=True, slots=True)
class _Hands:
    cluster: Cluster
    kube: Kube
    modes: Mapping[str, ScalingMode]
    epoch: Callable[[], int]

    def carry_out(self, action: Action) -> Outcome:  # noqa: C901, PLR0911, PLR0912 - one case for each kind of action
        """Do one action."""
        match action:
            case Advance():
                self._write_status(action.request, reason=action.reason, why=action.why)
            case Adopt():
                return self._settle(action, action.batch, results_of(action.batch, action.machines))
            case Replay():
                return self._call(action, action.batch)
            case Admit():
                set_taint(self.kube, action.node, UNREGISTERED, on=False)
            case Advertise():
                self.kube.patch_status(NODES, action.node, convert.advertisement(action.mirror))
            case Assign():
                return self._bind(action)
            case Recover():
                self.kube.create(NODE_REQUESTS, convert.write_request(action.request))
                self._write_status(action.request)
            case Nominate():
                self._nominate(action.request, action.uids)
            case Avoid():
                for uid in action.uids:
                    self._set_aside(action.pool, [(action.request.offer, uid, action.why)])
                self._nominate(action.request, [uid for uid in action.request.nominated if uid not in action.uids])
            case Hold():
                self._mode(action.pool).hold([action.request.machine_id])
            case Release():
                return self._release(action)
            case Unguard():
                self._guard(action.pool, on=False)
            case Reserve():
                set_taint(self.kube, action.node, RESERVED, on=action.on)
            case MarkIdle():
                self.kube.patch(NODES, action.node, convert.idle_mark(action.since_s))
            case Launch():
                return self._launch(action)
            case Drain():
                return self._drain(action)
            case Forget():
                return self._forget(action)
            case Drop():
                self._delete(LAUNCH_BATCHES, action.batch)
        return Outcome(action=action, done=True)

    # --- records ---

    def _write_status(
        self, request: NodeRequest, *, event: Event | None = None, reason: str = "", why: str = "", gone: bool = False
    ) -> None:
        """Write a state and what it says; of a record that goes only the latter, so that it goes again after a crash."""
        now = of_request(State.GONE if gone else request.state, event=event, reason=reason, why=why)
        said = replace(request, conditions=updated(request.conditions, now, now_s=self.cluster.now_s))
        self._apply_status(NODE_REQUESTS, convert.request_status(said))

    def _apply_status(self, kind: Kind, obj: Json) -> None:
        """Write all that we say in a status; what others say there stays. A record that was deleted is not made again."""
        self.kube.apply(kind, obj, subresource="status", force=True)

    def _nominate(self, request: NodeRequest, uids: Sequence[str]) -> None:
        self.kube.patch(NODE_REQUESTS, request.name, {"spec": {"nominated": list(uids)}})

    def _bind(self, action: Assign) -> Outcome:
        namespace, _, name = action.pod.partition("/")
        annotations = convert.allocation(action.slices)
        self.kube.bind(name, namespace=namespace, node=action.node, uid=action.uid, annotations=annotations)
        return Outcome(action=action, done=True)

    # --- buying ---

    def _launch(self, action: Launch) -> Outcome:
        """Write the requests, then the batch with the exact call, then make the call."""
        mode = self._mode(action.pool)
        order = mode.prepare(action.batch, action.requests, action.offers, now_s=self.cluster.now_s)
        if not self._pool(action.pool).guarded:
            self._guard(action.pool, on=True)
        for request in action.requests:
            self.kube.create(NODE_REQUESTS, convert.write_request(request))
        batch = LaunchBatch(
            name=action.batch,
            pool=action.pool,
            mode=self._pool(action.pool).mode,
            requests=tuple(sorted(request.name for request in action.requests)),
            parameters=order.parameters,
            offers=order.offers,
            epoch=self.epoch(),
            created_s=self.cluster.now_s,
        )
        self.kube.create(LAUNCH_BATCHES, convert.write_batch(batch))
        try:
            return self._call(action, batch)
        except LaunchRefusedError as error:
            # It would be refused again: the next offers have their turn, and these are tried again later.
            self._set_aside(action.pool, [(offer, "", str(error)) for offer in order.offers])
            raise

    def _call(self, action: Launch | Replay, batch: LaunchBatch) -> Outcome:
        try:
            results = self._mode(action.pool).launch(batch)
        except LaunchRefusedError:
            # Nothing was launched for sure: without its batch the requests are void and are planned anew.
            self._delete(LAUNCH_BATCHES, batch.name)
            raise
        return self._settle(action, batch, results)

    def _settle(self, action: Launch | Replay | Adopt, batch: LaunchBatch, results: Sequence[LaunchResult]) -> Outcome:
        """Write what the call gave. Interrupted anywhere, the batch is still unsettled and all of this is done again."""
        outcome = Outcome(action=action, done=True, results=tuple(results))
        for result in results:
            if result.machine:
                self._launched(batch, result.request, result.machine)
        given = {machine.offer for machine in outcome.machines}
        refused = [(refusal.offer, "", f"{refusal.code}: {refusal.message}") for refusal in outcome.refusals]
        self._set_aside(action.pool, refused, given=given)
        if outcome.machines:
            self._apply_status(LAUNCH_BATCHES, convert.batch_settled(batch.name, self.cluster.now_s))
        else:
            self._delete(LAUNCH_BATCHES, batch.name)
        return outcome

    def _launched(self, batch: LaunchBatch, name: str, machine: Machine) -> None:
        """Write the machine of a request, once: a request that has gone further already, or was deleted, is left alone."""
        known = {request.name: request for request in self.cluster.requests}
        before = known.get(name) or NodeRequest(name=name, pool=batch.pool, mode=batch.mode)
        if before.state is not State.REQUESTED:
            return
        state = after(before.state, Event.LAUNCHED)
        now_s = self.cluster.now_s
        try:
            self._write_status(replace(before, state=state, machine_id=machine.id, offer=machine.offer, launched_s=now_s))
        except NotFoundError:
            log.warning("request %s was deleted; its machine %s will be recovered", name, machine.id)

    def _set_aside(
        self, pool_name: str, offers: Iterable[tuple[str, str, str]], *, given: AbstractSet[str] = frozenset()
    ) -> None:
        """Leave offers (id, pod uid or empty, reason) out for a while, on the pool's status, so that a restart remembers it.

        What was `given` without being refused counts as if it had never disappointed.
        """
        now_s, listed = self.cluster.now_s, tuple(offers)
        if not listed and given.isdisjoint(entry.offer for entry in self._pool(pool_name).set_aside):
            return
        # Read again: an earlier action of this plan may have written it.
        written = convert.read_set_aside(self.kube.get(GPU_POOLS, pool_name))
        pool = replace(self._pool(pool_name), set_aside=written)
        guests = chain.from_iterable(self.cluster.guests.values())
        alive = {"", *(demand.uid for demand in self.cluster.demands), *(guest.uid for guest in guests)}
        entries = {(entry.offer, entry.pod): entry for entry in remembered(pool, now_s) if entry.pod in alive}
        entries = {key: entry for key, entry in entries.items() if key[1] or key[0] not in given}
        for offer, uid, reason in listed:
            entries[offer, uid] = set_aside(pool, now_s, offer, reason, pod=uid)
        self.kube.patch_status(GPU_POOLS, pool_name, convert.set_aside_status(tuple(entries.values())))

    def _guard(self, pool_name: str, *, on: bool) -> None:
        """Put our finalizer on a pool before anything is bought for it, or take it off."""
        meta = self.kube.get(GPU_POOLS, pool_name)["metadata"]
        others = [name for name in meta.get("finalizers", []) if name != convert.FINALIZER]
        finalizers = [*others, convert.FINALIZER] if on else others
        self.kube.patch(
            GPU_POOLS, pool_name, {"metadata": {"finalizers": finalizers, "resourceVersion": meta["resourceVersion"]}}
        )

    def _pool(self, name: str) -> Pool:
        return next(pool for pool in self.cluster.pools if pool.name == name)

    # --- giving back ---

    def give_back(self, pool: str, actions: Sequence[Terminate]) -> Iterator[Outcome]:
        """Cordon, look once more, write the intention; then terminate all with one call."""
        ids, prepared = [], []
        for action in actions:
            outcome = _attempt(action, self._cordon)
            if outcome.done:
                ids.append(action.request.machine_id)
                prepared.append(outcome)
            else:
                yield outcome
        error: TfscaleError | None = None
        try:
            if ids:
                self._mode(pool).terminate(ids)
        except TfscaleError as failure:
            # The intention is written: the next tick asks again.
            error = failure
        for outcome in prepared:
            yield outcome if error is None else replace(outcome, done=False, error=error)

    def _cordon(self, action: Terminate) -> Outcome:
        was_cordoned = self._set_unschedulable(action.node, on=True) if action.node else False
        if action.event is Event.IDLE and (arrived := self._pods_on(action.node)):
            if not was_cordoned:
                self._set_unschedulable(action.node, on=False)
            return Outcome(action=action, done=False, note=f"called off: {arrived[0]} has arrived")
        self._set_aside(action.pool, [(offer, "", action.why) for offer in action.disappointing])
        if action.event is not None:
            ended = replace(action.request, state=after(action.request.state, action.event))
            self._write_status(ended, event=action.event, reason=action.reason, why=action.why)
        return Outcome(action=action, done=True)

    def _drain(self, action: Drain) -> Outcome:
        """Take the node out of service, write that it has to go, and only then ask pods to leave."""
        news = action.request not in self.cluster.requests
        if news:
            # Before the status, which makes it old news: a crash in between sets it aside for longer, not never.
            self._set_aside(action.pool, [(offer, "", action.why) for offer in action.disappointing])
        # Again each time: somebody may have put it back into service.
        drain = action.request.drain
        take_out_of_service(self.kube, action.node, value=drain.event if drain and is_voluntary(drain) else "")
        if news:
            self._write_status(action.request, why=action.why)
        kept = evict(self.kube, action.pods)
        note = f"not allowed to go yet: {some(kept)}" if kept else ""
        return Outcome(action=action, done=news or len(kept) < len(action.pods), note=note)

    def _release(self, action: Release) -> Outcome:
        if not action.overdue and not self._pods_on(action.node):
            return Outcome(action=action, done=False, note="called off: its first pod is not there yet")
        self._mode(action.pool).release([action.request.machine_id])
        return Outcome(action=action, done=True)

    def _set_unschedulable(self, node: str, *, on: bool) -> bool:
        """Cordon or uncordon; return whether it was cordoned before. A node that is gone needs neither."""
        try:
            before = bool(self.kube.get(NODES, node)["spec"].get("unschedulable"))
            self.kube.patch(NODES, node, {"spec": {"unschedulable": True if on else None}})
        except NotFoundError:
            return False
        return before

    def _pods_on(self, node: str) -> list[str]:
        pods = self.kube.list(PODS, field_selector=f"spec.nodeName={node}").items
        return [pod_id for pod in pods if (pod_id := convert.keeps_busy(pod))]

    def _forget(self, action: Forget) -> Outcome:
        if action.node:
            self._delete(NODES, action.node)
        self._set_aside(action.pool, [(offer, "", action.why) for offer in action.disappointing])
        if action.reason:
            with suppress(NotFoundError):
                self._write_status(action.request, reason=action.reason, why=action.why, gone=True)
        self._delete(NODE_REQUESTS, action.request.name)
        return Outcome(action=action, done=True)

    def _delete(self, kind: Kind, name: str) -> None:
        try:
            self.kube.delete(kind, name)
        except NotFoundError:
            log.debug("%s %s is gone already", kind.kind, name)

    def _mode(self, pool: str) -> ScalingMode:
        try:
            return self.modes[pool]
        except KeyError:
            raise _NoModeError(f"the mode of pool {pool} is not available") from None
