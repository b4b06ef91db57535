"""Small random nodes, demands and offers: `st.from_type(Node)` and the like give them in this folder's tests.

Amounts are few and small, so that things collide, fit exactly and fail to fit often.
"""

from __future__ import annotations

from hypothesis import strategies as st

from tfscale.model import BoundPod, Demand, Gpu, GpuSlice, Node, Offer, Request
from tfscale.selectors import Operator, Requirement, Taint, Toleration

_ZONE = "topology.kubernetes.io/zone"
_CARDS = (("T4", 16_384, 65_000), ("L4", 22_888, 121_000))
_GPU_TAINT = Taint(key="gpu", value="true")
_cpu_milli = st.sampled_from([0, 500, 1_000, 3_000])
_memory_mib = st.sampled_from([0, 512, 4_096])
_taints = st.sampled_from([(), (), (_GPU_TAINT,)])


@st.composite
def _requests(draw: st.DrawFn) -> Request:
    gpu_count = draw(st.sampled_from([0, 1, 1, 1, 2, 3]))
    cpu_milli, memory_mib = draw(_cpu_milli), draw(_memory_mib)
    if gpu_count == 0:
        return Request(cpu_milli=cpu_milli, memory_mib=memory_mib)
    whole, by_share = draw(st.sampled_from([False, False, True])), draw(st.booleans())
    return Request(
        cpu_milli=cpu_milli,
        memory_mib=memory_mib,
        gpu_count=gpu_count,
        vram_mib=0 if whole else draw(st.sampled_from([0, 1, 4_096, 8_192, 16_384, 20_000, 90_000])),
        compute_milli=draw(st.sampled_from([0, 1, 250, 500, 1_000])) if by_share and not whole else None,
        compute_mtflops=draw(st.sampled_from([0, 1, 30_000, 65_000, 100_000])) if not by_share and not whole else None,
        whole=whole,
        gpu_models=draw(st.sampled_from([(), (), ("L4",), ("L4", "T4"), ("H100",)])),
    )


@st.composite
def _demands(draw: st.DrawFn) -> Demand:
    uid = draw(st.integers(0, 999))
    zones = draw(st.sampled_from([(), (), ("a",), ("a", "b")]))
    return Demand(
        id=f"default/pod-{uid}",
        uid=str(uid),
        pool="inference",
        request=draw(_requests()),
        priority=draw(st.sampled_from([0, 0, 10])),
        created_s=draw(st.integers(0, 3)),
        terms=((Requirement(key=_ZONE, operator=Operator.IN, values=zones),),) if zones else (),
        tolerations=draw(st.sampled_from([(), (Toleration(operator="Exists"),)])),
        blocked=draw(st.sampled_from(["", "", "", "", "asks for a volume"])),
    )


@st.composite
def _bound_pods(draw: st.DrawFn, gpus: tuple[Gpu, ...]) -> BoundPod:
    request = draw(_requests())
    cards = gpus[: request.gpu_count]
    wrong = GpuSlice(gpu_id="7", vram_mib=1, compute_milli=1)
    return BoundPod(
        id="default/bound",
        uid=str(draw(st.integers(1_000, 1_999))),
        request=request,
        # Records may contradict the node: more than a card has, or a card that is not there.
        slices=(*(request.slice_of(card) or GpuSlice(gpu_id=card.id, vram_mib=99_999, compute_milli=9_999) for card in cards),)
        if draw(st.integers(0, 19))
        else (wrong,),
        daemon=draw(st.booleans()),
    )


@st.composite
def _nodes(draw: st.DrawFn) -> Node:
    models = draw(st.lists(st.sampled_from(_CARDS), max_size=4))
    gpus = tuple(Gpu(id=str(i), model=name, vram_mib=vram, mtflops=rate) for i, (name, vram, rate) in enumerate(models))
    return Node(
        name=draw(st.sampled_from("abcdefgh")),
        pool=draw(st.sampled_from(["inference", "inference", "inference", "training"])),
        labels={_ZONE: draw(st.sampled_from("ab"))},
        taints=draw(_taints),
        gpus=gpus,
        cpu_milli=draw(st.sampled_from([0, 1_000, 4_000, 8_000])),
        memory_mib=draw(st.sampled_from([0, 4_096, 16_384])),
        pods_max=draw(st.sampled_from([0, 1, 3, 110])),
        pods=tuple(draw(st.lists(_bound_pods(gpus), max_size=2))),
        ready=draw(st.integers(0, 9)) != 0,
        fenced=draw(st.sampled_from(["", "", "", "", "cordoned"])),
    )


@st.composite
def _offers(draw: st.DrawFn) -> Offer:
    name, vram_mib, mtflops = draw(st.sampled_from(_CARDS))
    size = draw(st.sampled_from([1, 2, 4]))
    gpu_count = draw(st.sampled_from([0, size]))
    return Offer(
        instance_type=f"{name if gpu_count else 'cpu'}.{size}x",
        zone=draw(st.sampled_from("ab")),
        capacity_type=draw(st.sampled_from(["on-demand", "spot"])),
        gpu_model=name if gpu_count else "",
        gpu_count=gpu_count,
        vram_mib=vram_mib if gpu_count else 0,
        mtflops=mtflops if gpu_count else 0,
        cpu_milli=size * 2_000,
        memory_mib=size * 4_096,
        pods_max=draw(st.sampled_from([2, 110])),
        price_micro_usd=draw(st.sampled_from([None, 0, 400_000, 500_000, 1_500_000, 3_000_000])),
        taints=draw(_taints),
    )


st.register_type_strategy(Request, _requests())
st.register_type_strategy(Demand, _demands())
st.register_type_strategy(Node, _nodes())
st.register_type_strategy(Offer, _offers())
