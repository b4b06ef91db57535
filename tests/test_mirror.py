"""Mirrored resources: what pods ask in sums is never more than they take, and nodes say what they have."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.facts import HALF, cluster, kinds, machine, node, only, plan_for, request
from tfscale.gpus import GpuTable
from tfscale.mirror import mirror_of, mirror_of_node
from tfscale.model import BoundPod, Gpu, Mirror, Request
from tfscale.plan import Advertise

GPUS = GpuTable()
MODELS = sorted(model.name for model in GPUS.models)
REQUESTS = st.builds(
    Request,
    gpu_count=st.integers(0, 8),
    vram_mib=st.integers(1, 16_384),
    compute_milli=st.integers(1, 1_000),
    gpu_models=st.lists(st.sampled_from(MODELS), unique=True, max_size=3).map(lambda names: tuple(sorted(names))),
) | st.builds(Request, gpu_count=st.integers(0, 8), vram_mib=st.integers(1, 16_384), compute_mtflops=st.integers(1, 18_000))


@given(REQUESTS, st.sampled_from(MODELS))
def test_a_pod_never_mirrors_more_than_it_takes(asked: Request, model: str) -> None:
    """Of whatever card it accepts; so a scheduler that adds up never keeps it from cards that have room."""
    card = Gpu(id="0", model=model, vram_mib=GPUS.find(model).vram_mib, mtflops=GPUS.find(model).mtflops)
    part, mirror = asked.slice_of(card), mirror_of(asked, GPUS)
    if part is not None:
        assert mirror.vram_mib <= asked.gpu_count * part.vram_mib
        assert mirror.mtflops * 1_000 <= asked.gpu_count * part.compute_milli * card.mtflops


@given(st.integers(1, 8), st.integers(1, 1_000), st.sampled_from(MODELS))
def test_where_the_model_is_fixed_the_mirror_is_what_the_pod_takes(count: int, milli: int, model: str) -> None:
    """Up to the part of a thousandth of a TFLOPs for each card."""
    asked = Request(gpu_count=count, vram_mib=1_024, compute_milli=milli, gpu_models=(model,))
    exact = count * milli * GPUS.find(model).mtflops / 1_000

    assert (count * 1_024, True) == (mirror_of(asked, GPUS).vram_mib, 0 <= exact - mirror_of(asked, GPUS).mtflops < count)


@pytest.mark.parametrize("asked", [Request(cpu_milli=100), Request(gpu_count=2, whole=True)], ids=["CPU alone", "whole GPUs"])
def test_pods_without_slices_mirror_nothing(asked: Request) -> None:
    """Whole GPUs are counted by the device plugin's own resource."""
    assert Mirror() == mirror_of(asked, GPUS)


def test_a_node_says_what_all_of_its_cards_have() -> None:
    """Once; when a kubelet has set it to zero, again."""
    silent = cluster(nodes=(node("a", mirror=None),), requests=(request("a"),), machines=(machine("a"),))
    zeroed = replace(silent, nodes=(node("a", mirror=Mirror()),))
    told = replace(silent, nodes=(node("a", mirror=Mirror(vram_mib=16_384, mtflops=65_000)),))

    assert Mirror(vram_mib=16_384, mtflops=65_000) == only(plan_for(silent), Advertise).mirror
    assert "it says 0 MiB and 0 mTFLOPs" == only(plan_for(zeroed), Advertise).why
    assert Advertise not in kinds(plan_for(told))


def test_a_node_says_no_less_than_its_pods_ask() -> None:
    """A card was taken out: with less, its kubelet would fail pods when it restarts. A fence lowers nothing either."""
    pod = BoundPod(id="default/p", uid="u", request=HALF, mirror=Mirror(vram_mib=20_000, mtflops=1))
    fenced = node("a", pods=(pod,), fenced="it is cordoned")

    assert Mirror(vram_mib=20_000, mtflops=65_000) == mirror_of_node(fenced)


def test_a_node_without_cards_says_nothing() -> None:
    """Or whose cards are not known yet."""
    assert Advertise not in kinds(plan_for(cluster(nodes=(node("a", gpus=(), mirror=None),))))
