"""Carry out a plan, action by action. Each one stands alone: what fails is reported and comes back on the next tick.

The order of writes is what makes a crash harmless. A launch writes its node requests, then the batch with the exact call,
and only then calls the cloud; a machine is forgotten only after it is gone.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from tfscale.errors import LaunchRefusedError, ModeError, NotFoundError, TfscaleError
from tfscale.kube import convert
from tfscale.kube.port import GPU_POOLS, LAUNCH_BATCHES, NODE_REQUESTS, NODES, PODS, Kind, Kube
from tfscale.lifecycle import State
from tfscale.model import Cluster, LaunchBatch, Machine, NodeRequest, Pool, SetAside
from tfscale.modes.base import LaunchResult, Refusal, ScalingMode, results_of
from tfscale.plan import (
    Action,
    Adopt,
    Advance,
    Assign,
    Drop,
    Forget,
    Launch,
    MarkIdle,
    Nominate,
    Plan,
    Replay,
    Terminate,
)

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
    def machines(self) -> tuple[Machine, ...]:
        """Return the machines that this action found or made."""
        return tuple(result.machine for result in self.results if result.machine)

    @property
    def refusals(self) -> tuple[Refusal, ...]:
        """Return the offers that had no capacity, each once."""
        return tuple({refusal.offer: refusal for result in self.results for refusal in result.refusals}.values())


def apply(plan: Plan, cluster: Cluster, kube: Kube, modes: Mapping[str, ScalingMode]) -> Iterator[Outcome]:
    """Carry out the plan that was made from `cluster` and yield one outcome per action.

    Raises nothing of ``TfscaleError``; a failed action is an outcome with its error.
    """
    hands = _Hands(cluster, kube, modes)
    for action in plan.actions:
        if not isinstance(action, Terminate):
            yield _attempt(action, hands.carry_out)
    # Last and together: one call gives back all machines of a pool.
    returned = [action for action in plan.actions if isinstance(action, Terminate)]
    for pool in dict.fromkeys(action.pool for action in returned):
        yield from hands.give_back(pool, [action for action in returned if action.pool == pool])


def _attempt(action: A, do: Callable[[A], Outcome]) -> Outcome:
    try:
        return do(action)
    except TfscaleError as error:
        log.warning("%s: %s", action, error)
        return Outcome(action=action, done=False, error=error)


@dataclass(frozen=True, slots=True)
class _Hands:
    cluster: Cluster
    kube: Kube
    modes: Mapping[str, ScalingMode]

    def carry_out(self, action: Action) -> Outcome:  # noqa: PLR0911 - one return for each kind of action
        """Do one action."""
        match action:
            case Advance():
                return self._advance(action)
            case Adopt():
                return self._settle(action, action.batch, results_of(action.batch, action.machines))
            case Replay():
                return self._call(action, action.batch)
            case Assign():
                return self._bind(action)
            case Nominate():
                self.kube.patch(NODE_REQUESTS, action.request.name, {"spec": {"nominated": list(action.uids)}})
            case MarkIdle():
                self.kube.patch(NODES, action.node, convert.idle_mark(action.since_s))
            case Launch():
                return self._launch(action)
            case Forget():
                return self._forget(action)
            case Drop():
                self._delete(LAUNCH_BATCHES, action.batch)
        return Outcome(action=action, done=True)

    # --- records ---

    def _advance(self, action: Advance) -> Outcome:
        request = replace(action.request, state=action.state, node=action.node, changed_s=self.cluster.now_s)
        self._write_status(request)
        return Outcome(action=action, done=True)

    def _write_status(self, request: NodeRequest) -> None:
        self.kube.patch_status(NODE_REQUESTS, request.name, convert.request_status(request))

    def _bind(self, action: Assign) -> Outcome:
        namespace, _, name = action.pod.partition("/")
        annotations = convert.allocation(action.slices)
        self.kube.bind(name, namespace=namespace, node=action.node, uid=action.uid, annotations=annotations)
        return Outcome(action=action, done=True)

    # --- buying ---

    def _launch(self, action: Launch) -> Outcome:
        """Write the requests, then the batch with the exact call, then make the call."""
        mode = self._mode(action.pool)
        parameters = mode.prepare(action.batch, action.requests, action.offers, now_s=self.cluster.now_s)
        known = {request.name for request in self.cluster.requests}
        for request in action.requests:
            body = convert.write_request(request)
            if request.name in known:
                self.kube.patch(NODE_REQUESTS, request.name, {"spec": body["spec"]})
            else:
                self.kube.create(NODE_REQUESTS, body)
        batch = LaunchBatch(
            name=action.batch,
            pool=action.pool,
            requests=tuple(sorted(request.name for request in action.requests)),
            parameters=parameters,
            created_s=self.cluster.now_s,
        )
        self.kube.create(LAUNCH_BATCHES, convert.write_batch(batch))
        return self._call(action, batch)

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
        known = {request.name: request for request in self.cluster.requests}
        for result in results:
            if result.machine:
                before = known.get(result.request) or NodeRequest(name=result.request, pool=action.pool)
                launched = replace(
                    before,
                    state=State.LAUNCHED,
                    machine_id=result.machine.id,
                    offer=result.machine.offer,
                    changed_s=self.cluster.now_s,
                )
                self._write_status(launched)
        self._set_aside(action.pool, outcome.refusals)
        if outcome.machines:
            self.kube.patch_status(LAUNCH_BATCHES, batch.name, {"status": {"settled": True}})
        else:
            self._delete(LAUNCH_BATCHES, batch.name)
        return outcome

    def _set_aside(self, pool_name: str, refusals: Sequence[Refusal]) -> None:
        """Leave offers out for a while, on the pool's status, so that a restart does not try them again at once."""
        if not refusals:
            return
        pool = next(pool for pool in self.cluster.pools if pool.name == pool_name)
        now_s = self.cluster.now_s
        entries = {entry.offer: entry for entry in self._set_aside_now(pool) if entry.until_s > now_s}
        for refusal in refusals:
            entries[refusal.offer] = SetAside(
                offer=refusal.offer, until_s=now_s + pool.set_aside_s, reason=f"{refusal.code}: {refusal.message}"
            )
        self.kube.patch_status(GPU_POOLS, pool.name, convert.set_aside_status(tuple(entries.values())))

    def _set_aside_now(self, pool: Pool) -> Sequence[SetAside]:
        """Read the list again: an earlier action of this plan may have written it."""
        return convert.read_set_aside(self.kube.get(GPU_POOLS, pool.name))

    # --- giving back ---

    def give_back(self, pool: str, actions: Sequence[Terminate]) -> Iterator[Outcome]:
        """Cordon, look once more, write the intention; then terminate all with one call."""
        prepared = [_attempt(action, self._cordon) for action in actions]
        yield from (outcome for outcome in prepared if not outcome.done)
        ids = [action.request.machine_id for action, outcome in zip(actions, prepared, strict=True) if outcome.done]
        error: TfscaleError | None = None
        try:
            if ids:
                self._mode(pool).terminate(ids)
        except TfscaleError as failure:
            # The intention is written: the next tick asks again.
            log.warning("return %s: %s", ", ".join(ids), failure)
            error = failure
        for outcome in prepared:
            if outcome.done:
                yield outcome if error is None else replace(outcome, done=False, error=error)

    def _cordon(self, action: Terminate) -> Outcome:
        was_cordoned = self._set_unschedulable(action.node, on=True) if action.node else False
        if action.must_be_empty and (arrived := self._pods_on(action.node)):
            if not was_cordoned:
                self._set_unschedulable(action.node, on=False)
            return Outcome(action=action, done=False, note=f"called off: {arrived[0]} has arrived")
        if action.request.state is not State.TERMINATING:
            self._write_status(replace(action.request, state=State.TERMINATING, changed_s=self.cluster.now_s))
        if action.set_aside:
            self._set_aside(action.pool, (Refusal(offer=action.request.offer, code="NeverReady", message=action.why),))
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
            raise ModeError(f"the mode of pool {pool} is not available") from None
