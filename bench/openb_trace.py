"""The openb trace as a packing problem: nodes in the order in which ties are broken, pods, and the order of arrival.

The protocol is that of Weng et al., "Beware of Fragmentation" (USENIX ATC 2023): pods arrive one by one until they ask 130%
of all GPUs, nobody leaves, and a pod that fits nowhere is dropped but counts as arrived.
"""

from __future__ import annotations

import csv
import gzip
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tfscale.errors import BadInputError, Problem

__all__ = [
    "CARD_MILLI",
    "FIRST_SEED",
    "Pod",
    "Server",
    "Trace",
    "allocation_pct",
    "read_pods",
    "read_servers",
    "read_trace",
    "variant_of",
]

CARD_MILLI = 1000
FIRST_SEED = 42
"""The seed of the first line of a file of arrivals."""
_NODE_COLUMNS = ("sn", "cpu_milli", "memory_mib", "gpu", "model")
_POD_COLUMNS = ("cpu_milli", "memory_mib", "num_gpu", "gpu_milli")


@dataclass(frozen=True, slots=True)
class Server:
    """A node; all of its GPUs are of one model."""

    name: str
    cpu_milli: int
    memory_mib: int
    gpus: int
    model: str


@dataclass(frozen=True, slots=True)
class Pod:
    """What a pod asks: thousandths of each of so many GPUs, of one of these models (none: of any)."""

    cpu_milli: int
    memory_mib: int
    gpus: int
    gpu_milli: int
    models: tuple[str, ...]

    @property
    def asked_milli(self) -> int:
        """All GPUs together."""
        return self.gpus * self.gpu_milli


@dataclass(frozen=True, slots=True)
class Trace:
    """One run: ``arrivals`` are indices into ``pods``, and of equal servers the first one is taken."""

    variant: str
    servers: tuple[Server, ...]
    pods: tuple[Pod, ...]
    arrivals: tuple[int, ...]

    @property
    def capacity_milli(self) -> int:
        """Of all GPUs."""
        return sum(server.gpus for server in self.servers) * CARD_MILLI


def variant_of(pods: Path) -> str:
    """Return the name of a list of pods.

    >>> variant_of(Path("openb_pod_list_cpu250.csv"))
    'cpu250'
    """
    return pods.stem.removeprefix("openb_pod_list_")


def read_trace(nodes: Path, pods: Path, arrivals: Path, seed: int) -> Trace:
    """Read one run. Raises ``BadInputError`` for a file that is not there or not of this form, and for a seed without a line."""
    servers, wanted = read_servers(nodes), read_pods(pods)
    order, ranks = _line(arrivals, seed)
    servers.sort(key=lambda server: server.name)
    if sorted(ranks) != list(range(len(servers))):
        raise _bad(arrivals, f"seed {seed}", f"{len(ranks)} ranks", f"the ranks 0 to {len(servers) - 1}, each once")
    if not all(0 <= index < len(wanted) for index in order):
        raise _bad(arrivals, f"seed {seed}", f"{min(order)} to {max(order)}", f"rows 0 to {len(wanted) - 1} of {pods.name}")
    ranked = [server for _, server in sorted(zip(ranks, servers, strict=True), key=lambda pair: pair[0])]
    return Trace(variant_of(pods), tuple(ranked), tuple(wanted), tuple(order))


def read_servers(nodes: Path) -> list[Server]:
    """Read the servers of a file, in its order. Raises ``BadInputError``."""
    return [_server(nodes, number, row) for number, row in _rows(nodes, _NODE_COLUMNS)]


def read_pods(pods: Path) -> list[Pod]:
    """Read the pods of a file, in its order. Raises ``BadInputError``."""
    return [_pod(pods, number, row) for number, row in _rows(pods, _POD_COLUMNS)]


def allocation_pct(trace: Trace, placed: Sequence[bool], at_pct: int) -> float | None:
    """Return the allocated part of all GPUs at this load: the mean over the arrivals whose rounded load it is.

    None where the arrivals never come to that load. ``placed`` has one flag for each arrival.
    """
    arrived = held = 0
    found = []
    for index, fits in zip(trace.arrivals, placed, strict=False):
        asked = trace.pods[index].asked_milli
        arrived += asked
        held += asked if fits else 0
        if round(100 * arrived / trace.capacity_milli) == at_pct:
            found.append(100 * held / trace.capacity_milli)
    return sum(found) / len(found) if found else None


def _server(path: Path, number: int, row: dict[str, str]) -> Server:
    cpu_milli, memory_mib, gpus = (_whole(path, number, row, name) for name in ("cpu_milli", "memory_mib", "gpu"))
    return Server(row["sn"], cpu_milli, memory_mib, gpus, row["model"])


def _pod(path: Path, number: int, row: dict[str, str]) -> Pod:
    cpu_milli, memory_mib, gpus, gpu_milli = (_whole(path, number, row, name) for name in _POD_COLUMNS)
    models = tuple(sorted(model for model in (row.get("gpu_spec") or "").split("|") if model))
    return Pod(cpu_milli, memory_mib, gpus, gpu_milli if gpus else 0, models if gpus else ())


def _rows(path: Path, columns: Sequence[str]) -> list[tuple[int, dict[str, str]]]:
    rows = list(csv.DictReader(_text(path).splitlines()))
    missing = [name for name in columns if not rows or name not in rows[0]]
    if missing:
        raise _bad(path, "columns", ",".join(rows[0]) if rows else "", f"also {', '.join(missing)}")
    return list(enumerate(rows, start=2))


def _whole(path: Path, number: int, row: dict[str, str], name: str) -> int:
    text = row[name] or "0"
    if not text.isdigit():
        raise _bad(path, f"line {number}: {name}", row[name], "a whole number")
    return int(text)


def _line(path: Path, seed: int) -> tuple[list[int], list[int]]:
    lines = _text(path).splitlines()
    if not FIRST_SEED <= seed < FIRST_SEED + len(lines):
        raise _bad(path, "seed", str(seed), f"{FIRST_SEED} to {FIRST_SEED + len(lines) - 1}")
    try:
        order, ranks = ([int(part) for part in half.split(",")] for half in lines[seed - FIRST_SEED].split(";"))
    except ValueError:
        raise _bad(path, f"seed {seed}", lines[seed - FIRST_SEED][:40], "row,row,...;rank,rank,...") from None
    return order, ranks


def _text(path: Path) -> str:
    try:
        content = path.read_bytes()
        return (gzip.decompress(content) if path.suffix == ".gz" else content).decode()
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise _bad(path, "content", type(error).__name__, "a readable file") from None


def _bad(path: Path, field: str, value: str, want: str) -> BadInputError:
    return BadInputError(Problem(where=path.name, field=field, value=value, want=want))
