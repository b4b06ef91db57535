"""What is done to nodes that stay: what is written on them, and from whom they are kept."""

from __future__ import annotations

from dataclasses import dataclass

from tfscale.model import Mirror, NodeRequest

__all__ = ["Admit", "Advertise", "Hold", "MarkIdle", "Release", "Reserve"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Admit:
    """Take the taint off a node of ours that it came with: it can take pods."""

    pool: str
    request: NodeRequest
    node: str
    why: str

    def __str__(self) -> str:
        """Return one line."""
        return f"admit   {self.node} ({self.why})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Advertise:
    """Write on a node what its cards have in all, for schedulers that add up."""

    pool: str
    node: str
    mirror: Mirror
    why: str

    def __str__(self) -> str:
        """Return one line."""
        return f"tell    {self.node}: {self.mirror.vram_mib} MiB, {self.mirror.mtflops} mTFLOPs ({self.why})"


@dataclass(frozen=True, slots=True, kw_only=True)
class MarkIdle:
    """Write on a node since when it is idle; None takes the mark off."""

    pool: str
    node: str
    since_s: int | None
    why: str

    def __str__(self) -> str:
        """Return one line."""
        return f"{'idle   ' if self.since_s is not None else 'in use '} {self.node} ({self.why})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reserve:
    """Keep pods of others off a node that waits for its first pod, or let them again."""

    pool: str
    node: str
    on: bool
    why: str

    def __str__(self) -> str:
        """Return one line."""
        return f"{'reserve' if self.on else 'open   '} {self.node} ({self.why})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """Keep a node from whoever removes nodes, until it is released."""

    pool: str
    request: NodeRequest
    node: str
    why: str

    def __str__(self) -> str:
        """Return one line."""
        return f"hold    {self.request.machine_id} {self.node} ({self.why})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """Leave a node to whoever removes idle nodes: until now it was kept for its first pod."""

    pool: str
    request: NodeRequest
    node: str
    """Empty where no node joined."""
    overdue: bool
    """True: no pod came in time. False: not before a pod is there."""
    why: str

    def __str__(self) -> str:
        """Return one line."""
        return f"free    {' '.join(filter(None, (self.request.machine_id, self.node)))} ({self.why})"
