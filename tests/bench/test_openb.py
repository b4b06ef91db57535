"""The bench on the openb trace: policies place what fits, the check finds what is wrong, and published figures come out again."""

from __future__ import annotations

import csv
import json
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from random import Random

import pytest

from bench import openb, openb_check
from bench.openb_baselines import Servers, policy_of
from bench.openb_trace import Pod, Server, Trace, allocation_pct, read_trace
from bench.packing_runs import DATA, trace_of

no_data = pytest.mark.skipif(not DATA.is_dir(), reason="the public data is not beside the repository")
POLICIES = ("tfscale", "fgd", "bestfit", "gpupacking", "firstfit", "random")


def a_trace(seed: int) -> Trace:
    """Return a small random cluster, a list of pods, and more arrivals than fit."""
    random = Random(seed)  # noqa: S311 - a cluster, no secret
    servers = [
        Server(
            f"node-{number:02}", random.choice([8_000, 16_000]), 65_536, random.choice([0, 1, 2, 4]), random.choice(["T4", "G2"])
        )
        for number in range(6)
    ]
    pods = [
        Pod(
            random.choice([0, 500, 2_000]),
            random.choice([0, 4_096]),
            gpus := random.choice([0, 1, 1, 1, 2]),
            (1000 if gpus > 1 else random.choice([190, 330, 500, 810, 1000])) if gpus else 0,
            random.choice([(), (), ("T4",), ("G2", "T4")]) if gpus else (),
        )
        for _ in range(12)
    ]
    return Trace("random", tuple(servers), tuple(pods), tuple(random.randrange(len(pods)) for _ in range(60)))


def written(folder: Path, trace: Trace) -> list[str]:
    """Write a trace as files and return the arguments that name them."""
    with (folder / "nodes.csv").open("w", newline="") as out:
        lines = csv.writer(out)
        lines.writerow(["sn", "cpu_milli", "memory_mib", "gpu", "model"])
        lines.writerows([one.name, one.cpu_milli, one.memory_mib, one.gpus, one.model] for one in trace.servers)
    with (folder / "pods.csv").open("w", newline="") as out:
        lines = csv.writer(out)
        lines.writerow(["name", "cpu_milli", "memory_mib", "num_gpu", "gpu_milli", "gpu_spec"])
        lines.writerows(["p", one.cpu_milli, one.memory_mib, one.gpus, one.gpu_milli, "|".join(one.models)] for one in trace.pods)
    ranks = ",".join(map(str, range(len(trace.servers))))
    (folder / "arrivals.txt").write_text(",".join(map(str, trace.arrivals)) + ";" + ranks + "\n")
    names = {"--nodes": "nodes.csv", "--pods": "pods.csv", "--arrivals": "arrivals.txt"}
    return [*(part for flag, name in names.items() for part in (flag, str(folder / name))), "--seed", "42"]


@pytest.mark.parametrize("policy", [*POLICIES, "tfscale:no-worth"])
@pytest.mark.parametrize("seed", range(5))
def test_placements_of_every_policy_pass_the_check(
    policy: str, seed: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is over-committed, and nobody is refused who fits."""
    arguments = written(tmp_path, a_trace(seed))
    placements = str(tmp_path / "placements.csv")

    assert 0 == openb.main([*arguments, "--policy", policy, "--placements", placements, "-o", "json"])
    assert policy == json.loads(capsys.readouterr().out)["policy"]
    assert 0 == openb_check.main([*arguments, placements]), capsys.readouterr().out


def test_a_trace_is_read_as_it_was_written(tmp_path: Path) -> None:
    """The ranks say which server comes first among equals."""
    trace = a_trace(1)
    arguments = written(tmp_path, trace)
    lines = (tmp_path / "arrivals.txt").read_text().split(";")
    (tmp_path / "arrivals.txt").write_text(lines[0] + ";" + ",".join(map(str, range(5, -1, -1))))

    nodes, pods, arrivals = (Path(arguments[index]) for index in (1, 3, 5))
    read = read_trace(nodes, pods, arrivals, 42)

    assert (trace.pods, trace.arrivals) == (read.pods, read.arrivals)
    assert tuple(reversed(trace.servers)) == read.servers


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda rows: rows[0].update(node="node-99"), "is no node"),
        (lambda rows: next(row for row in rows if row["gpus"]).update(gpus="7"), "has GPUs [7]"),
        (lambda rows: next(row for row in rows if row["gpus"]).update(gpus="x"), "want numbers joined by |"),
        (lambda rows: rows[0].update(node="", gpus=""), "was refused and fits on"),
        (lambda rows: rows[1].update(row="999"), "want row"),
        (lambda rows: rows.pop(), "59 placements; want 60"),
        (lambda rows: [row.update(node=rows[0]["node"], gpus=rows[0]["gpus"]) for row in rows], "arrival"),
    ],
)
def test_the_check_finds_what_is_wrong(change: object, word: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Wrong nodes, wrong GPUs, refusals without need, another order, lines that lack, a node that is full."""
    arguments, placements = written(tmp_path, a_trace(3)), tmp_path / "placements.csv"
    openb.main([*arguments, "--placements", str(placements)])
    with placements.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert callable(change)
    change(rows)
    with placements.open("w", newline="") as out:
        writer = csv.DictWriter(out, ["arrival", "row", "node", "gpus"])
        writer.writeheader()
        writer.writerows(rows)
    capsys.readouterr()

    assert 1 == openb_check.main([*arguments, str(placements)])
    assert word in capsys.readouterr().out


def useless(server: Server, cpu_milli: int, free: Sequence[int], typical: Counter[Pod]) -> float:
    """Return the fragmentation of one server, read word for word from the definition."""
    total = 0.0
    for pod, count in typical.items():
        fits = [milli for milli in free if milli >= pod.gpu_milli]
        hosts = pod.gpus and len(fits) >= pod.gpus and pod.cpu_milli <= cpu_milli
        hosts = hosts and (not pod.models or server.model in pod.models)
        total += count * (sum(free) - sum(fits) if hosts else sum(free))
    return total / typical.total()


@pytest.mark.parametrize("seed", range(8))
def test_fgd_is_what_its_definition_says(seed: int) -> None:
    """The first server of those with the best whole score, on the first GPU that gives it: computed one by one."""
    trace = a_trace(seed)
    place, servers = policy_of("fgd", trace, seed), Servers(trace)
    keys = Counter(Pod(pod.cpu_milli, 0, pod.gpus, pod.gpu_milli, pod.models) for pod in trace.pods)
    typical: Counter[Pod] = Counter()
    for pod, count in keys.most_common():
        if typical.total() < 0.95 * keys.total():
            typical[pod] = count

    for index in trace.arrivals:
        pod, best, expected = trace.pods[index], -1, None
        for row, server in enumerate(trace.servers):
            free = [int(milli) for milli in servers.free[row] if milli >= 0]
            fitting = [gpu for gpu, milli in enumerate(free) if milli >= pod.gpu_milli]
            room = servers.cpu[row] >= pod.cpu_milli and servers.memory[row] >= pod.memory_mib
            if not room or len(fitting) < pod.gpus or (pod.models and server.model not in pod.models):
                continue
            for chosen in [(gpu,) for gpu in fitting] if pod.gpus == 1 else [tuple(fitting[: pod.gpus])]:
                after = [milli - pod.gpu_milli * (gpu in chosen) for gpu, milli in enumerate(free)]
                was = useless(server, int(servers.cpu[row]), free, typical)
                now = useless(server, int(servers.cpu[row]) - pod.cpu_milli, after, typical)
                score = int(100 / (1 + math.exp(-(was - now) / 1000)))
                if score > best:
                    best, expected = score, (row, chosen)
        assert expected == place(index)
        if expected:
            servers.take(pod, expected)


def test_allocation_is_the_mean_over_the_arrivals_at_that_load() -> None:
    """Two arrivals of half a GPU each, one GPU: at 50% a half is allocated, at 100% all, at 130% nobody has come."""
    trace = Trace("one", (Server("a", 1, 1, 1, "T4"),), (Pod(0, 0, 1, 500, ()),), (0, 0))

    assert [50.0, 100.0, None] == [allocation_pct(trace, [True, True], pct) for pct in (50, 100, 130)]


@no_data
@pytest.mark.parametrize(("policy", "published_pct"), [("fgd", 95.14), ("bestfit", 92.94), ("gpupacking", 91.37)])
def test_baselines_give_the_published_figures(policy: str, published_pct: float) -> None:
    """Of seed 42 on the default list."""
    outcome = openb.run(trace_of("default", 42), policy, 42)

    assert outcome.result.allocation_pct_at_100 == pytest.approx(published_pct, abs=0.01)


def test_bad_input_is_named_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A policy, a seed, a column, a number, a file, and a folder that are not there or wrong."""
    arguments = written(tmp_path, a_trace(0))
    (tmp_path / "short.csv").write_text("sn,cpu_milli\na,1\n")
    (tmp_path / "words.csv").write_text("sn,cpu_milli,memory_mib,gpu,model\na,much,1,1,T4\n")
    changed = [
        ([*arguments, "--policy", "magic"], "--policy is 'magic'"),
        ([*arguments[:-1], "52"], "seed is '52'; want 42 to 42"),
        (["--nodes", str(tmp_path / "short.csv"), *arguments[2:]], "want also memory_mib, gpu, model"),
        (["--nodes", str(tmp_path / "words.csv"), *arguments[2:]], "line 2: cpu_milli is 'much'; want a whole number"),
        (["--nodes", str(tmp_path / "none.csv"), *arguments[2:]], "none.csv: content is 'FileNotFoundError'"),
        ([*arguments, "--placements", str(tmp_path / "none" / "out.csv")], "--placements is"),
    ]

    for wrong, words in changed:
        assert 2 == openb.main(wrong)
        said = capsys.readouterr().err
        assert words in said
        assert 1 == said.count("\n")
