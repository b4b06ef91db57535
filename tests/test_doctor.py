"""What the doctor finds about the NodeClaims of a pool, whatever their mode thinks of them."""

from __future__ import annotations

import pytest

from tests.modes.nodeclaims import EC2_CLASS, NOW_S, A, FailingKube, batch_of, cluster, condition, managed
from tfscale import doctor, modes
from tfscale.errors import ForbiddenError, NotFoundError
from tfscale.finding import Finding
from tfscale.gpus import GpuTable
from tfscale.kube.convert import pool_object
from tfscale.kube.port import GPU_POOLS, NODE_CLAIMS
from tfscale.modes.base import ModeContext
from tfscale.pool import OfferFilter, Pool

WANTED = OfferFilter(zones=(A,), instance_types=("g6.xlarge",))
POOL = Pool(name="gpus", mode="managed-nodeclaim", wanted=WANTED, options={"nodeClassRef": EC2_CLASS})


def ordered() -> FailingKube:
    """Return a cluster with a pool and a claim that nobody has looked at."""
    kube = cluster()
    kube.create(GPU_POOLS, pool_object(POOL))
    mode = managed(kube, wanted=WANTED)
    mode.launch(batch_of(mode, mode.offers()))
    return kube


def about_karpenter(kube: FailingKube, *, after_s: int = 60) -> list[Finding]:
    """Return what the doctor says of Karpenter, so long after the claim was made."""
    gpus = GpuTable()
    found = doctor.findings(
        kube,
        gpus=gpus,
        mode_of=modes.load,
        open_with=lambda pool: ModeContext(pool=pool, gpus=gpus, kube=kube, cluster="test"),
        now_s=NOW_S + after_s,
    )
    return [one for one in found if one.check == "karpenter"]


def test_claims_that_nobody_looks_at_are_a_finding() -> None:
    """With one of their names, and what should run."""
    (found,) = about_karpenter(ordered())

    assert ("gpus", "fail", "nobody looks at 1 of its NodeClaims, such as batch-0") == (found.pool, found.verdict, found.says)
    assert "with the provider of EC2NodeClass" in found.fix


def test_a_claim_is_given_a_minute() -> None:
    """Right after it was made nothing is wrong."""
    assert [] == about_karpenter(ordered(), after_s=59)


def test_a_claim_with_a_condition_was_looked_at() -> None:
    """Whatever the condition says: of that its record tells."""
    kube = ordered()
    kube.patch_status(NODE_CLAIMS, "batch-0", {"status": {"conditions": [condition("Launched", "Unknown")]}})

    assert [] == about_karpenter(kube)


@pytest.mark.parametrize("error", [NotFoundError("no such resource"), ForbiddenError("you may not")])
def test_where_claims_cannot_be_listed_nothing_is_said_of_them(error: NotFoundError | ForbiddenError) -> None:
    """The mode that needs them says it."""
    kube = ordered()
    kube.list_errors["nodeclaims"] = error

    assert [] == about_karpenter(kube)
