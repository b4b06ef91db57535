"""Our definitions on a real API server: each rule refuses what breaks it, in words that name the field and what it must be."""

from __future__ import annotations

from functools import partial

import pytest

from tests.cluster.conftest import eventually, is_served
from tests.cluster.crds.objects import BATCH, CONDITION, REQUEST, fresh, pool, put
from tests.schemas import defaulted, schema_of
from tfscale.errors import NotFoundError, RefusedObjectError
from tfscale.gpus import GpuTable
from tfscale.kube.client import KubeClient
from tfscale.kube.crds import OUR_KINDS, definition
from tfscale.kube.pools import read_pool
from tfscale.kube.port import CRDS, GPU_POOLS, LAUNCH_BATCHES, NODE_REQUESTS, Json, Kind
from tfscale.pool import Pool

DURATION = "must be a duration in whole seconds, such as 90s, 5m or 1h30m"
LEAST_0 = "in body should be greater than or equal to 0"
BAD_AND_GOOD: list[tuple[Kind, Json, str, Json]] = [
    (GPU_POOLS, {}, "spec.mode: Required value", pool()),
    (GPU_POOLS, pool(mode=""), "spec.mode in body should be at least 1 chars long", pool(mode="x")),
    (GPU_POOLS, pool(idleAfter=""), f'spec.idleAfter: Invalid value: "": idleAfter {DURATION}', pool(idleAfter="0s")),
    (GPU_POOLS, pool(idleAfter="5"), f"idleAfter {DURATION}", pool(idleAfter="5m")),
    (GPU_POOLS, pool(idleAfter="-5m"), f"idleAfter {DURATION}", pool(idleAfter="1h30m")),
    (GPU_POOLS, pool(idleAfter="1.5s"), f"idleAfter {DURATION}", pool(idleAfter="1.5s500ms")),
    (GPU_POOLS, pool(idleAfter="87841h"), f"idleAfter {DURATION}", pool(idleAfter="87840h")),
    (GPU_POOLS, pool(idleAfter="999999999h"), f"idleAfter {DURATION}", pool(idleAfter="0.5h")),
    (GPU_POOLS, pool(idleAfter=5), "spec.idleAfter in body must be of type string", pool(idleAfter="5s")),
    (GPU_POOLS, pool(setAsideFor="soon"), f"setAsideFor {DURATION}", pool(setAsideFor="0s")),
    (GPU_POOLS, pool(registerWithin="0s"), "a duration in whole seconds, at least 1s, such as", pool(registerWithin="1s")),
    (GPU_POOLS, pool(limits={"nodes": -1}), f"spec.limits.nodes {LEAST_0}", pool(limits={"nodes": 0})),
    (GPU_POOLS, pool(limits={"nodes": "3"}), "spec.limits.nodes in body must be of type integer", pool(limits={"nodes": 3})),
    (GPU_POOLS, pool(limits={"gpus": -1}), f"spec.limits.gpus {LEAST_0}", pool(limits={"gpus": 0})),
    (GPU_POOLS, pool(limits={"usdPerHour": -1}), "usdPerHour must be an amount of US dollars", pool(limits={"usdPerHour": 0})),
    (GPU_POOLS, pool(limits={"usdPerHour": "NaN"}), 'of 0 or more, such as "25.5"', pool(limits={"usdPerHour": "25.5"})),
    (GPU_POOLS, pool(limits={"usdPerHour": "9e18"}), "usdPerHour must be an amount", pool(limits={"usdPerHour": "8e18"})),
    (GPU_POOLS, pool(offers={"zones": []}), "spec.offers.zones in body should have at least 1", pool(offers={"zones": ["z"]})),
    (GPU_POOLS, pool(offers={"gpuModels": [""]}), "spec.offers.gpuModels[0] in body should be at least 1 chars", pool(offers={})),
    (
        GPU_POOLS,
        pool(offers={"capacityTypes": ["sport"]}),
        'spec.offers.capacityTypes[0]: Unsupported value: "sport": supported values: "on-demand", "spot", "reserved"',
        pool(offers={"capacityTypes": ["spot", "reserved"]}),
    ),
    (
        GPU_POOLS,
        pool(mode="static", offers={"zones": ["z"]}),
        "offers must be left out in mode static: it buys nothing",
        pool(mode="static"),
    ),
    (GPU_POOLS, pool(default="yes"), "spec.default in body must be of type boolean", pool(default=True)),
    (GPU_POOLS, pool(binder="extender"), 'spec.binder: Unsupported value: "extender": supported', pool(binder="loop")),
    (GPU_POOLS, pool(inventory="agent"), 'spec.inventory: Unsupported value: "agent"', pool(inventory="counts")),
    (GPU_POOLS, pool(options=[]), "spec.options in body must be of type object", pool(options={"any": [{"thing": None}]})),
    (NODE_REQUESTS, {"mode": "ec2"}, "spec.pool: Required value", REQUEST),
    (NODE_REQUESTS, {"pool": "p"}, "spec.mode: Required value", {"pool": "p", "mode": "ec2"}),
    (NODE_REQUESTS, REQUEST | {"nominated": [""]}, "spec.nominated[0] in body should be at least", REQUEST | {"nominated": []}),
    (LAUNCH_BATCHES, {**BATCH, "parameters": None}, "spec.parameters: Required value", BATCH),
    (LAUNCH_BATCHES, BATCH | {"parameters": {}}, "spec.parameters in body must be of type", BATCH | {"parameters": '{"a": 1}'}),
    (LAUNCH_BATCHES, BATCH | {"epoch": -1}, f"spec.epoch {LEAST_0}", BATCH | {"epoch": 0}),
    (
        LAUNCH_BATCHES,
        BATCH | {"createdAt": "today"},
        "spec.createdAt in body must be of type date-time",
        BATCH | {"createdAt": "2026-01-01T00:00:00Z"},
    ),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "bad", "message", "good"), BAD_AND_GOOD)
def test_a_rule_refuses_what_breaks_it_and_takes_its_neighbour(
    installed: KubeClient, kind: Kind, bad: Json, message: str, good: Json
) -> None:
    """The message names the field and what it must be."""
    with pytest.raises(RefusedObjectError) as refused:
        put(installed, kind, bad)

    assert message in str(refused.value)
    assert put(installed, kind, good)


def test_a_name_that_is_no_label_is_refused(installed: KubeClient) -> None:
    """Nodes carry it."""
    with pytest.raises(RefusedObjectError, match=r"metadata\.name must have at most 63 characters"):
        installed.create(GPU_POOLS, fresh(GPU_POOLS, pool()) | {"metadata": {"name": "n" * 64}})

    assert installed.create(GPU_POOLS, fresh(GPU_POOLS, pool()) | {"metadata": {"name": "n" * 63}})


REWRITES: list[Json] = [
    {"pool": "q"},
    {"mode": "static"},
    {"requests": []},
    {"offers": ["o", "o"]},
    {"parameters": "{ }"},
    {"epoch": 1},
    {"createdAt": "2026-01-01T00:00:00Z"},
]


@pytest.mark.parametrize(
    ("kind", "spec", "change", "message"),
    [
        (NODE_REQUESTS, REQUEST, {"pool": "q"}, "pool cannot be changed: the machine carries it as a tag"),
        (NODE_REQUESTS, REQUEST, {"mode": "static"}, "mode cannot be changed: no other mode knows what became of the machine"),
        *((LAUNCH_BATCHES, BATCH, change, "spec cannot be changed: a call that is replayed must be") for change in REWRITES),
    ],
)
def test_what_was_bought_cannot_be_rewritten(installed: KubeClient, kind: Kind, spec: Json, change: Json, message: str) -> None:
    """Not by us either."""
    name = put(installed, kind, spec)
    with pytest.raises(RefusedObjectError, match=message):
        installed.patch(kind, name, {"spec": change})

    assert spec == installed.patch(kind, name, {"spec": spec, "metadata": {"labels": {"mine": "yes"}}})["spec"]


def test_pods_of_a_request_change(installed: KubeClient) -> None:
    """Who waits for a node may leave."""
    name = put(installed, NODE_REQUESTS, REQUEST)

    assert [] == installed.patch(NODE_REQUESTS, name, {"spec": {"nominated": []}})["spec"]["nominated"]


def test_a_settled_batch_stays_settled(installed: KubeClient) -> None:
    """Else its call would be made again, when the cloud has forgotten its token."""
    name = put(installed, LAUNCH_BATCHES, BATCH)
    for settled in (False, True, True):
        installed.patch_status(LAUNCH_BATCHES, name, {"status": {"settled": settled}})
    for taken_back in ({"settled": False}, {"settled": None}, None):
        with pytest.raises(RefusedObjectError, match="settled cannot be taken back: the call would be made again"):
            installed.patch_status(LAUNCH_BATCHES, name, {"status": taken_back})


def test_the_mode_of_a_pool_changes_only_while_nothing_is_bought(installed: KubeClient) -> None:
    """The status tells it to the API server."""
    name = put(installed, GPU_POOLS, pool())
    installed.patch(GPU_POOLS, name, {"spec": {"mode": "managed-nodeclaim"}})
    installed.patch_status(GPU_POOLS, name, {"status": {"bought": 1}})
    with pytest.raises(RefusedObjectError, match=r"spec\.mode: .*mode must stay 'managed-nodeclaim' until all"):
        installed.patch(GPU_POOLS, name, {"spec": {"mode": "ec2"}})
    installed.patch(GPU_POOLS, name, {"spec": {"idleAfter": "1m"}})
    installed.patch_status(GPU_POOLS, name, {"status": {"bought": 0}})

    assert "ec2" == installed.patch(GPU_POOLS, name, {"spec": {"mode": "ec2"}})["spec"]["mode"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"status": "Maybe"}, 'status.conditions[0].status: Unsupported value: "Maybe"'),
        ({"reason": "two words"}, 'status.conditions[0].reason: Invalid value: "two words"'),
        ({"lastTransitionTime": "today"}, 'status.conditions[0].lastTransitionTime: Invalid value: "today"'),
        ({"lastTransitionTime": None}, "status.conditions[0].lastTransitionTime: Required value"),
    ],
)
@pytest.mark.parametrize(("kind", "spec"), [(GPU_POOLS, pool()), (NODE_REQUESTS, REQUEST), (LAUNCH_BATCHES, BATCH)])
def test_conditions_are_those_that_kubernetes_knows(
    installed: KubeClient, kind: Kind, spec: Json, change: Json, message: str
) -> None:
    """Every tool can read them."""
    name = put(installed, kind, spec)
    installed.patch_status(kind, name, {"status": {"conditions": [CONDITION]}})
    with pytest.raises(RefusedObjectError) as refused:
        installed.patch_status(kind, name, {"status": {"conditions": [CONDITION | change]}})

    assert message in str(refused.value)


def test_a_state_that_does_not_exist_is_refused(installed: KubeClient) -> None:
    """The loop could not read it."""
    name = put(installed, NODE_REQUESTS, REQUEST)
    with pytest.raises(RefusedObjectError, match=r'status\.state: Unsupported value: "Lost"'):
        installed.patch_status(NODE_REQUESTS, name, {"status": {"state": "Lost"}})


# --- objects that are older than their definition ----------------------------------------------------------------------


def test_what_was_there_before_its_rule_can_be_told_and_go(installed: KubeClient) -> None:
    """Its status says what is wrong; somebody puts the spec right, or deletes it and the finalizer is taken off."""
    specs = {
        "n" * 64: pool(),
        "odd": pool(idleAfter="1.5s", limits={"nodes": -1}, binder="extender"),
        "aimless": pool(mode="static", offers={"zones": ["z"]}),
    }
    before = old_definition({"type": "object", "x-kubernetes-preserve-unknown-fields": True})
    installed.create(CRDS, before)
    eventually(partial(is_served, installed, OLD), "old pools are served")
    for name, spec in specs.items():
        installed.create(OLD, fresh(OLD, spec) | {"metadata": {"name": name, "finalizers": ["example.com/kept"]}})
    installed.patch(CRDS, before["metadata"]["name"], old_definition(None))
    eventually(partial(is_refused, installed, pool(mode="")), "the rules hold")

    for name in specs:
        told = installed.patch_status(OLD, name, {"status": {"nodes": 1, "conditions": [CONDITION]}})
        assert (1, [CONDITION]) == (told["status"]["nodes"], told["status"]["conditions"])
        installed.delete(OLD, name)
        installed.patch(OLD, name, {"metadata": {"finalizers": []}})
        with pytest.raises(NotFoundError):
            installed.get(OLD, name)


OLD = Kind("old.tfscale.io", GPU_POOLS.version, GPU_POOLS.plural, GPU_POOLS.kind, namespaced=False)


def old_definition(schema: Json | None) -> Json:
    """Return the definition of pools in another group, with this schema in place of ours."""
    ours = definition(GPU_POOLS)
    (version,) = ours["spec"]["versions"]
    versions = [version if schema is None else version | {"schema": {"openAPIV3Schema": schema}}]
    names = {key: value for key, value in ours["spec"]["names"].items() if key not in ("shortNames", "categories")}
    spec = ours["spec"] | {"group": OLD.group, "names": names, "versions": versions}
    return ours | {"metadata": {"name": f"{OLD.plural}.{OLD.group}"}, "spec": spec}


def is_refused(kube: KubeClient, spec: Json) -> bool:
    """Return whether a pool with this spec is refused."""
    try:
        put(kube, OLD, spec)
    except RefusedObjectError:
        return True
    return False


def test_applying_the_definitions_again_changes_nothing(installed: KubeClient) -> None:
    """The API server's own defaults are no difference."""
    for kind in OUR_KINDS:
        first = installed.apply(CRDS, definition(kind), manager="kubectl")
        again = installed.apply(CRDS, definition(kind), manager="kubectl")

        assert (1, first["metadata"]["resourceVersion"]) == (
            again["metadata"]["generation"],
            again["metadata"]["resourceVersion"],
        )


# --- what is filled in and kept apart ---------------------------------------------------------------------------------


def test_defaults_are_filled_in(installed: KubeClient) -> None:
    """As the schema says, and only in parts that are there."""
    name = put(installed, GPU_POOLS, {"mode": "ec2", "offers": {}})
    stored = installed.get(GPU_POOLS, name)

    assert defaulted(schema_of(GPU_POOLS), {"spec": {"mode": "ec2", "offers": {}}})["spec"] == stored["spec"]
    assert Pool(name=name, mode="ec2") == read_pool(stored, gpus=GpuTable())


def test_records_begin_with_a_status(installed: KubeClient) -> None:
    """Before anybody wrote it: a request is Requested, a batch is not settled."""
    request, batch = put(installed, NODE_REQUESTS, REQUEST), put(installed, LAUNCH_BATCHES, BATCH)

    assert {"state": "Requested"} == installed.get(NODE_REQUESTS, request)["status"]
    assert {"settled": False} == installed.get(LAUNCH_BATCHES, batch)["status"]


@pytest.mark.parametrize(("kind", "spec"), [(GPU_POOLS, pool()), (NODE_REQUESTS, REQUEST), (LAUNCH_BATCHES, BATCH)])
def test_spec_and_status_are_written_apart(installed: KubeClient, kind: Kind, spec: Json) -> None:
    """A create drops the status, a change of the spec leaves it, a change of the status leaves the spec and its generation."""
    status = {"conditions": [CONDITION]}
    created = installed.create(kind, fresh(kind, spec) | {"status": status})
    name = created["metadata"]["name"]
    installed.patch(kind, name, {"status": status})
    untouched = installed.get(kind, name)
    changed = installed.patch_status(kind, name, {"status": status, "spec": {"mode": "other"}})

    assert "conditions" not in untouched.get("status", {})
    assert (created["spec"], 1) == (changed["spec"], changed["metadata"]["generation"])
    assert [CONDITION] == changed["status"]["conditions"]
