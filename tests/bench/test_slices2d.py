"""The bench of slices in two dimensions."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench import slices2d, slices2d_table
from bench.slices2d_bound import bound
from bench.slices2d_cases import case_of, dimensions_of
from bench.slices2d_check import Account, faults
from bench.slices2d_policies import BASELINES, POLICIES, policy_of
from bench.slices2d_runs import bounds_of, run
from bench.slices2d_work import Case, Kind, Placement, asked, totals, values_of
from tfscale.model import Gpu, Node, Request

SMALL = "random-10"


def node(cards: int = 1, *, vram_mib: int = 1_000, cpu_milli: int = 10_000, name: str = "a") -> Node:
    """Return a node of cards with 1,000 MiB and 1 TFLOPs."""
    gpus = tuple(Gpu(id=str(index), model="T4", vram_mib=vram_mib, mtflops=1_000) for index in range(cards))
    return Node(name=name, pool="slices2d", gpus=gpus, cpu_milli=cpu_milli, memory_mib=10_000)


def at(row: int, *cards: int) -> Placement:
    """Return a placement."""
    return Placement(node=row, cards=cards)


def share(vram_mib: int, mtflops: int, *, cards: int = 1, cpu_milli: int = 0) -> Request:
    """Return a request for slices."""
    return Request(cpu_milli=cpu_milli, gpu_count=cards, vram_mib=vram_mib, compute_mtflops=mtflops)


@pytest.mark.parametrize("cluster", ["aws", SMALL])
def test_a_seed_always_gives_the_same_case(cluster: str) -> None:
    """Another one gives other arrivals on the same nodes in another order."""
    one, other = case_of(cluster, 1), case_of(cluster, 2)

    assert one == case_of(cluster, 1)
    assert one.arrivals != other.arrivals
    assert sorted(node.name for node in one.nodes) == sorted(node.name for node in other.nodes)


@pytest.mark.parametrize("cluster", ["aws", "random-1", "random-5", "random-8"])
def test_arrivals_end_when_130_percent_are_asked(cluster: str) -> None:
    """In the dimension that is asked more; 100% are asked after `full` of them, not one earlier."""
    case = case_of(cluster, 1)
    parts = [asked(kind.request, case.nodes) or (0.0, 0.0) for kind in case.kinds]

    def most(arrivals: Sequence[int]) -> float:
        return max(sum(parts[kind][axis] for kind in arrivals) for axis in (0, 1))

    assert most(case.arrivals[:-1]) < 1.3 <= most(case.arrivals)
    assert most(case.arrivals[: case.full - 1]) < 1 <= most(case.arrivals[: case.full])


def test_random_clusters_come_in_one_dimension_and_in_two() -> None:
    """Among the first ten there is each of them."""
    found = {dimensions_of(case_of(f"random-{number}", 1)) for number in range(1, 11)}

    assert {"VRAM", "compute", "VRAM and compute"} == found


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("cluster", ["random-10", "random-5", "random-11"])
def test_no_policy_takes_what_is_not_there_or_refuses_what_fits(cluster: str, policy: str) -> None:
    """By an account that shares no code with the policies; and nobody places more than the bound."""
    case = case_of(cluster, 1)
    done = run(case, policy, bounds_of(case))

    assert [] == faults(case, done.places)
    assert 0 < done.at_100.of_bound_pct <= 100 + 1e-6
    assert 0 < done.at_130.of_bound_pct <= 100 + 1e-6


def test_the_check_finds_what_is_wrong() -> None:
    """A full card, a card twice, a refusal without need, and a pod that is missing."""
    kinds = (Kind(name="half", request=share(500, 600), count=1), Kind(name="pair", request=share(100, 100, cards=2), count=1))
    case = Case(cluster="own", seed=0, nodes=(node(2),), kinds=kinds, arrivals=(0, 0, 1, 0), full=4)

    assert [
        "3 placements; want 4, one for each arrival",
        "arrival 1 (half): card 0 of node 0 has no room",
        "arrival 2 (pair): cards [0, 0]; want 2 different ones",
        "arrival 2 (pair): card 0 of node 0 has no room",
        "arrival 2 (pair): card 0 of node 0 has no room",
    ] == faults(case, [at(0, 0), at(0, 0), at(0, 0, 0)])
    assert [
        "arrival 0 (half): refused, but fits on node 0",
        "arrival 1 (half): cards []; want 1 different ones",
    ] == faults(replace(case, arrivals=(0, 0)), [None, at(0)])


def whole(cards: int, cpu_milli: int = 0) -> Request:
    """Return a request for whole cards."""
    return Request(cpu_milli=cpu_milli, gpu_count=cards, whole=True)


parts = st.sampled_from([100, 250, 340, 400, 500, 510, 600, 750, 1_000])
requests = st.one_of(
    st.builds(share, parts, parts, cards=st.sampled_from([1, 1, 1, 2]), cpu_milli=st.sampled_from([0, 2_000, 4_000, 6_000])),
    st.builds(whole, st.integers(1, 2), st.sampled_from([0, 6_000])),
)


def most_value(accounts: list[Account], cards: list[int], wanted: Sequence[Request], worth: dict[Request, float]) -> float:
    """Return the best value by trying every node and all cards for every request, and leaving it out."""
    if not wanted:
        return 0.0
    request, rest = wanted[0], wanted[1:]
    best = most_value(accounts, cards, rest, worth)
    for account, number in zip(accounts, cards, strict=True):
        if account.hosts(request):
            fitting = account.fitting(request)
            for chosen in combinations(range(number), request.gpu_count):
                if set(chosen) <= set(fitting):
                    account.take(request, chosen)
                    best = max(best, worth[request] + most_value(accounts, cards, rest, worth))
                    account.take(request, chosen, -1)
    return best


@given(st.lists(requests, min_size=1, max_size=5), st.lists(st.integers(1, 2), min_size=1, max_size=2))
@settings(max_examples=60, deadline=None)
def test_nobody_can_place_more_than_the_bound(wanted: list[Request], cards: list[int]) -> None:
    """Compared with the best of all placements on tiny clusters."""
    nodes = [node(number, name=str(index)) for index, number in enumerate(cards)]
    kinds = [Kind(name="", request=request, count=1) for request in wanted]
    worth = dict(zip(wanted, values_of(kinds, nodes), strict=True))

    best = most_value([Account(one) for one in nodes], cards, wanted, worth)

    assert best <= bound(nodes, Counter(wanted), worth) + 1e-9


def test_slices_of_over_a_half_do_not_share_a_card_in_the_bound() -> None:
    """Two cards hold two slices of 0.6, though 1.2 would hold as many halves again."""
    request = share(600, 10)

    assert bound([node(2)], Counter([request] * 5), {request: 1.0}) == pytest.approx(2.0)


def test_a_pod_is_worth_its_larger_part_of_the_cluster() -> None:
    """1,000 of 4,000 MiB are more than 400 of 4,000 mTFLOPs; a whole card is a quarter of four."""
    nodes = [node(4)]

    assert (4_000, 4_000) == totals(nodes)
    assert [0.25, 0.25, 0.0] == values_of(
        [
            Kind(name="slice", request=share(1_000, 400), count=1),
            Kind(name="whole", request=whole(1), count=1),
            Kind(name="too many", request=share(1_000, 400, cards=5), count=1),
        ],
        nodes,
    )


def test_fgd_leaves_the_card_for_the_target_that_needs_it() -> None:
    """A slice of much VRAM goes where VRAM is left and compute is not: elsewhere it would take a place from the typical slice."""
    kinds = (
        Kind(name="typical", request=share(500, 500), count=9),
        Kind(name="used", request=share(100, 800), count=1),
        Kind(name="vram", request=share(600, 100), count=1),
    )
    case = Case(cluster="own", seed=0, nodes=(node(name="a"), node(name="b")), kinds=kinds, arrivals=(1, 2), full=2)
    policy = policy_of("fgd", case)

    assert [0, 0] == [one.node for kind in case.arrivals if (one := policy.place(kind))]


def test_the_script_writes_figures_and_placements(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One row for each arrival; who fits nowhere has no node."""
    out = tmp_path / "out.csv"
    assert 0 == slices2d.main(["--cluster", SMALL, "--policy", "best-fit", "--placements", str(out), "-o", "json"])
    figures = json.loads(capsys.readouterr().out)
    with out.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))

    assert ["arrival", "kind", "node", "gpus"] == list(rows[0])
    assert figures["at_130"]["arrived"] == len(rows) == len(case_of(SMALL, 1).arrivals)
    assert figures["at_130"]["placed"] == sum(bool(row["node"]) for row in rows)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--cluster", "moon"], "slices2d: --cluster is 'moon'; want aws, or random-N with N from 1 to 9999"),
        (["--cluster", "random-0"], "slices2d: --cluster is 'random-0'; want aws, or random-N with N from 1 to 9999"),
        (["--policy", "luck"], "slices2d: --policy is 'luck'; want one of tfscale, fgd, "),
        (["--seed", "-1"], "slices2d: --seed is '-1'; want 0 or more"),
        (["--cluster", SMALL, "--policy", "first-fit", "--placements", "."], ". cannot be written: Is a directory"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The exit code is that of wrong usage."""
    assert 2 == slices2d.main(arguments)
    said = capsys.readouterr().err

    assert said.startswith("slices2d: ")
    assert line in said
    assert 1 == said.count("\n")


def test_it_runs_by_path_and_a_reader_may_have_enough() -> None:
    """As `python bench/slices2d.py | head -0`: not even the interpreter complains."""
    reader, writer = os.pipe()
    os.close(reader)
    script = Path(__file__).parents[2] / "bench" / "slices2d.py"
    with os.fdopen(writer, "w") as closed:
        done = subprocess.run(  # noqa: S603 - our own interpreter
            [sys.executable, str(script), "--cluster", SMALL, "--policy", "first-fit"],
            stdout=closed,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )

    assert (0, "") == (done.returncode, done.stderr)


def test_the_table_has_every_cluster_and_policy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Here the smallest: no seed of many, one random cluster."""
    row, wrong = slices2d_table.measure(SMALL, 1)
    text = list(slices2d_table.table([row]))

    assert [] == wrong
    assert set(slices2d_table.POLICIES) == {"tfscale", *BASELINES} == set(row.at_100)
    assert 2 == sum(line.startswith(f"| {SMALL} | VRAM and compute | 1 | 26 | 26 |") for line in text)
    assert 2 == slices2d_table.main(["--seeds", "0", "--write", str(tmp_path / "no.md")])
    assert "slices2d_table: --seeds is 0; want 1 or more\n" == capsys.readouterr().err
