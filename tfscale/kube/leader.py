"""Leader election on a Lease: of several processes one acts, and its epoch tells its doings from those before and after.

``tfscale.lease`` has the rules. Here are the calls, the thread that makes them, and the few lines that tell what happens.
"""

from __future__ import annotations

import logging
import random
import secrets
import socket
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from types import TracebackType
from typing import Self

from tfscale.errors import ClusterError, ConflictError, NotFoundError, NotLeadingError, TfscaleError
from tfscale.kube.port import LEASES, Json, Kube
from tfscale.lease import RELEASED_S, Candidate, Record, Terms

__all__ = ["Elector", "elapsed_s"]

log = logging.getLogger(__name__)

_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
_POLL_S = 0.2
"""How long a process that does not lead may take to notice that it does."""
_NOBODY = "nobody"


def elapsed_s() -> float:
    """Return seconds of a clock that nobody sets and that also runs while the machine sleeps.

    ``time.monotonic`` of Linux stands still then, and would call a Lease fresh that another process took long ago.
    """
    return time.clock_gettime(_CLOCK)


class Elector:
    """Leads, or stands by, while its ``with`` block runs. `clock` never goes back; `wall` is for people alone.

    A loop asks ``begin`` before each round and ``epoch`` right before each write. ``kube`` should be a client of its own,
    whose calls give up before the next one is due: renewals must not queue behind the writes that they allow.

    Where there is no Lease, one is made that nobody holds: whoever led before it was deleted has its time to notice. The
    first leader of a new cluster therefore begins after ``lease_s``.
    """

    def __init__(
        self,
        kube: Kube,
        *,
        namespace: str,
        name: str,
        identity: str = "",
        terms: Terms | None = None,
        clock: Callable[[], float] = elapsed_s,
        wall: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._kube = kube
        self._namespace, self._name = namespace, name
        # A pod that starts again has the name of the one that crashed, but not its leadership.
        self.identity = f"{identity or socket.gethostname()}_{secrets.token_hex(4)}"
        self._candidate = Candidate(self.identity, terms or Terms())
        self._terms = self._candidate.terms
        self._clock, self._wall, self._sleep = clock, wall, sleep
        self._round: int | None = None
        """The epoch in which the loop's round began."""
        self._fresh = False
        """Whether the Lease is known to be as it was last seen."""
        self._before = ""
        """Who held the Lease before this process did."""
        self._trouble: ClusterError | None = None
        """Why the last look or renewal failed."""
        self._told: tuple[str, int | str] = ("", "")
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"lease {namespace}/{name}", daemon=True)

    def __enter__(self) -> Self:
        """Begin to compete."""
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Stop, and give the Lease up where nothing can still be on its way: else it runs out by itself."""
        self._stopping.set()
        self._thread.join()
        self.stop(release=kind is None or issubclass(kind, TfscaleError))

    # --- for the loop ---

    def begin(self) -> int | None:
        """Return the epoch in which a round may begin now; None while another process leads, or may lead soon."""
        term = self._candidate.term
        self._round = term.epoch if term and self._clock() < term.rounds_until_s else None
        return self._round

    def epoch(self) -> int:
        """Return the epoch of the round under way. Raises ``NotLeadingError`` where a write of that round must not leave.

        A round that another leader came between is over, also when this process leads again: it was decided on what
        was there before.
        """
        # First the term, then the time: a process that stands still between the two must not trust the older one.
        term, now_s = self._candidate.term, self._clock()
        if term is None or now_s >= term.writes_until_s:
            raise NotLeadingError(f"{self}: {self.identity} does not lead any more")
        if term.epoch != self._round:
            raise NotLeadingError(f"{self}: the round began in epoch {self._round}, and now it is {term.epoch}")
        return term.epoch

    def wait(self) -> None:
        """Wait a moment for the lead."""
        self._sleep(_POLL_S)

    def await_lead(self, *, stopped: Callable[[], bool] = lambda: False) -> bool:
        """Wait until this process leads, or return False once `stopped`.

        Raises ``NotLeadingError`` when another process still leads after a time in which a dead one would have lost the
        Lease, and ``ClusterError`` when the Lease can be neither read nor written.
        """
        end_s = self._clock() + self._terms.lease_s + 2 * self._terms.retry_s
        while self.begin() is None:
            if stopped():
                return False
            if self._clock() > end_s:
                raise self._trouble or NotLeadingError(f"{self} is held by {self._holder}: only one process acts at a time")
            self.wait()
        return True

    def __str__(self) -> str:
        """Return what messages call it."""
        return f"lease {self._namespace}/{self._name}"

    # --- the Lease ---

    def step(self) -> float:
        """Look at the Lease, take or renew it; return after how many seconds to do so again. The thread does nothing else."""
        conflict = False
        try:
            self._turn()
            self._trouble = None
        except ConflictError:
            # Somebody wrote since it was read; who, the next look tells.
            conflict = True
        except ClusterError as error:
            self._trouble = error
        self._tell()
        pause_s = self._terms.retry_s * random.uniform(0.8, 1)  # noqa: S311 - replicas that began together drift apart
        due_s = self._candidate.free_at_s - self._clock()
        return pause_s / 10 if conflict else min(pause_s, due_s) if due_s > 0 else pause_s

    def _turn(self) -> None:
        candidate = self._candidate
        if not self._fresh:
            candidate.saw(_record(self._read()), self._clock())
        self._fresh = False
        epoch = candidate.bid(self._clock())
        if epoch is not None:
            self._hold(epoch)
            self._fresh = True

    def _read(self) -> Json:
        try:
            return self._kube.get(LEASES, self._name, namespace=self._namespace)
        except NotFoundError:
            spec = self._spec("", self._candidate.highest, self._terms.lease_s)
            return self._kube.create(LEASES, {"metadata": {"name": self._name}, "spec": spec}, namespace=self._namespace)

    def _hold(self, epoch: int) -> None:
        """Write this process into the Lease, if that still is as it was seen."""
        candidate = self._candidate
        spec = self._spec(self.identity, epoch, self._terms.lease_s)
        if not candidate.holds:
            self._before = self._holder
            spec["acquireTime"] = spec["renewTime"]
        candidate.claims(epoch)
        started_s = self._clock()
        candidate.won(_record(self._write(spec)), started_s=started_s, now_s=self._clock())

    def stop(self, *, release: bool) -> None:
        """Lead no longer, and with `release` give the Lease up at once. The thread must have ended."""
        held = self._candidate.holds and self._fresh
        self._candidate.term = None
        if held and release:
            self._release()

    def _release(self) -> None:
        try:
            self._write(self._spec("", self._candidate.highest, RELEASED_S))
            log.info("%s: %s gave it up", self, self.identity)
        except ClusterError as error:
            log.info("%s: %s could not give it up: %s", self, self.identity, error)

    def _write(self, spec: Json) -> Json:
        version = self._candidate.seen.version if self._candidate.seen else ""
        patch = {"metadata": {"resourceVersion": version}, "spec": spec}
        return self._kube.patch(LEASES, self._name, patch, namespace=self._namespace)

    def _spec(self, holder: str, epoch: int, duration_s: int) -> Json:
        now = f"{datetime.fromtimestamp(self._wall(), UTC):%Y-%m-%dT%H:%M:%S.%fZ}"
        return {"holderIdentity": holder, "leaseTransitions": epoch, "leaseDurationSeconds": duration_s, "renewTime": now}

    # --- what happens meanwhile ---

    def _run(self) -> None:
        pause_s = 0.0
        while not self._stopping.wait(pause_s):
            try:
                pause_s = self.step()
            except Exception:  # whatever it is, leadership runs out by itself, and nobody else would try again
                log.exception("%s: trying again", self)
                pause_s = self._terms.retry_s

    @property
    def _holder(self) -> str:
        return (self._candidate.seen.holder if self._candidate.seen else "") or _NOBODY

    def _tell(self) -> None:
        """Log one line when something is different: who leads and since which epoch, who does not and why."""
        about, line = self._news()
        if about != self._told and not self._stopping.is_set():
            log.warning("%s: %s", self, line)
        self._told = about

    def _news(self) -> tuple[tuple[str, int | str], str]:
        """Return what this is about, and the line that tells it."""
        term, led = self._candidate.term, self._told[0] == "leads"
        if term and self._clock() < term.rounds_until_s:
            return ("leads", term.epoch), f"{self.identity} leads in epoch {term.epoch}, after {self._before}"
        if term:
            why = f": {self._trouble}" if self._trouble else ""
            return ("silent", ""), f"{self.identity} leads no longer, it could not renew for {self._terms.renew_s:g} s{why}"
        stopped = "leads no longer, and stands by" if led else "stands by"
        if self._trouble:
            return ("trouble", ""), f"{self.identity} {stopped}, trying again: {self._trouble}"
        if self._holder == _NOBODY:
            # The first start of a cluster: whoever waits should know for what.
            why = f"nobody holds it, which counts once it was seen for {self._terms.lease_s} s"
            return ("free", ""), f"{self.identity} {stopped}: {why}"
        return ("behind", self._holder), f"{self.identity} {stopped} behind {self._holder}"


def _record(lease: Json) -> Record:
    spec = lease.get("spec") or {}
    return Record(
        holder=spec.get("holderIdentity") or "",
        epoch=spec.get("leaseTransitions") or 0,
        duration_s=spec.get("leaseDurationSeconds") or 0,
        version=lease["metadata"]["resourceVersion"],
    )
