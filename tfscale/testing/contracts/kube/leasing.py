"""Leases, on which processes agree who leads."""

from __future__ import annotations

from typing import Any

import pytest

from tfscale.errors import AlreadyExistsError, ConflictError, RefusedObjectError
from tfscale.kube.port import LEASES
from tfscale.testing.contracts.kube.workplace import HOME, Workplace

__all__ = ["LeasingContract"]

NOW = "2026-01-02T03:04:05.000006Z"


class LeasingContract:
    """What a leader election relies on."""

    def test_a_lease_is_created_once(self, world: Workplace) -> None:
        """The second candidate hears that he came late."""
        lease = world.lease(holderIdentity="a", leaseDurationSeconds=15, leaseTransitions=0, renewTime=NOW)

        assert "generation" not in lease["metadata"]
        with pytest.raises(AlreadyExistsError):
            world.lease(holderIdentity="b")
        assert lease == world.now(LEASES, lease)

    def test_one_of_two_candidates_takes_it_over(self, world: Workplace) -> None:
        """Both saw the same version; the second to write is refused."""
        lease = world.lease(holderIdentity="gone")
        name, seen = lease["metadata"]["name"], {"resourceVersion": lease["metadata"]["resourceVersion"]}

        taken = world.kube.patch(LEASES, name, {"metadata": seen, "spec": {"holderIdentity": "a"}}, namespace=HOME)
        with pytest.raises(ConflictError):
            world.kube.patch(LEASES, name, {"metadata": seen, "spec": {"holderIdentity": "b"}}, namespace=HOME)

        assert taken["spec"] == {"holderIdentity": "a"}
        assert taken == world.now(LEASES, lease)

    def test_times_are_kept_to_the_microsecond_in_utc(self, world: Workplace) -> None:
        """Whatever zone they came in."""
        name = world.lease(renewTime="2026-01-02T03:04:05.000006Z")["metadata"]["name"]

        after = world.kube.patch(LEASES, name, {"spec": {"renewTime": "2026-01-02T05:04:05.500000+02:00"}}, namespace=HOME)

        assert after["spec"] == {"renewTime": "2026-01-02T03:04:05.500000Z"}

    @pytest.mark.parametrize("time", ["2026-01-02T03:04:05Z", "2026-01-02T03:04:05.5Z", f"{NOW[:-1]}0Z", "now", "", 5])
    def test_other_forms_of_time_are_refused(self, world: Workplace, time: Any) -> None:  # noqa: ANN401  # any JSON value
        """Exactly six digits after the point."""
        lease = world.lease(renewTime=NOW)

        with pytest.raises(RefusedObjectError):
            world.kube.patch(LEASES, lease["metadata"]["name"], {"spec": {"renewTime": time}}, namespace=HOME)
        assert lease == world.now(LEASES, lease)

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("leaseDurationSeconds", 0),
            ("leaseDurationSeconds", -1),
            ("leaseDurationSeconds", "15"),
            ("leaseDurationSeconds", 1.5),
            ("leaseTransitions", -1),
        ],
    )
    def test_numbers_that_make_no_sense_are_refused(self, world: Workplace, field: str, value: Any) -> None:  # noqa: ANN401
        """A lease lasts at least a second, and was passed on so many times."""
        with pytest.raises(RefusedObjectError):
            world.lease(**{field: value})

    def test_a_lease_may_be_given_back(self, world: Workplace) -> None:
        """Nobody holds it, and its times go."""
        lease = world.lease(holderIdentity="a", renewTime=NOW, acquireTime=NOW, leaseTransitions=3)
        spec = {"holderIdentity": "", "renewTime": None, "acquireTime": None}

        after = world.kube.patch(LEASES, lease["metadata"]["name"], {"spec": spec}, namespace=HOME)

        assert after["spec"] == {"holderIdentity": "", "leaseTransitions": 3}
