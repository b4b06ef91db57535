"""The simulated cloud on moto: real boto3 clients, and moto for everything that is not simulated here."""

from __future__ import annotations

import os
from contextlib import ExitStack
from threading import Lock
from typing import Any, ClassVar, Self

import boto3

from tfscale.errors import BadInputError, Problem
from tfscale.spec import suggest
from tfscale.testing.fake_ec2.market import Market
from tfscale.testing.fake_ec2.moto_ground import MotoGround
from tfscale.testing.fake_ec2.region import Region
from tfscale.testing.fake_ec2.wire import Wire, moto_session, moto_stub

__all__ = ["SimulatedCloud"]

_AMIS = "MOTO_EC2_LOAD_DEFAULT_AMIS"


class SimulatedCloud(Region):
    """A context manager around one region on moto. See :class:`Region` for what it is made with.

    Only calls of `session` see it; nothing reaches the network, and neither the environment nor other sessions are touched.
    moto's store is one per process, so one cloud at a time.
    """

    _running: ClassVar[Lock] = Lock()

    def __enter__(self) -> Self:
        """Start empty at second 0."""
        if not self._running.acquire(blocking=False):
            raise RuntimeError("a simulated cloud is running already: there can be one at a time")
        with ExitStack() as undo:
            undo.callback(self._running.release)
            undo.callback(_restore, _AMIS, os.environ.get(_AMIS))
            os.environ[_AMIS] = "false"  # moto would load thousands of images, which takes seconds
            inside = self._inside = moto_session(self.region)
            undo.callback(_empty_moto)
            _empty_moto()
            _check_region(self.region)
            ground = self._lay(inside)
            desk = self._furnish(Market(self.region, self.zones, self._types, self._gpus), ground)
            self._wire = Wire(self.region, desk.handle, moto_stub())
            self._undo = undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        """Forget everything."""
        self._undo.close()

    @property
    def session(self) -> boto3.Session:
        """Return the session whose clients talk to this cloud."""
        return self._wire.session

    @property
    def inside(self) -> boto3.Session:
        """Return a session that talks to moto alone, uncounted and without faults: for whoever sets the stage."""
        return self._inside

    def _post(self, queue_url: str, text: str) -> None:
        sqs: Any = self._inside.client("sqs")
        sqs.send_message(QueueUrl=queue_url, MessageBody=text)

    def _lay(self, inside: boto3.Session) -> MotoGround:
        """Check the zones, let all ids from here on follow from the seed, and make the network."""
        from moto.core.models import DEFAULT_ACCOUNT_ID  # noqa: PLC0415 - moto is an extra and takes seconds to import
        from moto.ec2.models import ec2_backends  # noqa: PLC0415 - the same
        from moto.moto_api._internal import mock_random  # noqa: PLC0415 - the same

        ec2 = inside.client("ec2")
        known = {zone["ZoneName"] for zone in ec2.describe_availability_zones()["AvailabilityZones"]}
        for zone in self.zones:
            if zone not in known:
                want = "one of " + ", ".join(sorted(known))
                raise BadInputError(Problem(where="simulated cloud", field="zone", value=zone, want=want))
        mock_random.seed(self._seed)
        return MotoGround(ec2, ec2_backends[DEFAULT_ACCOUNT_ID][self.region], self.zones)


def _check_region(region: str) -> None:
    from moto.core.models import DEFAULT_ACCOUNT_ID  # noqa: PLC0415 - moto is an extra and takes seconds to import
    from moto.ec2.models import ec2_backends  # noqa: PLC0415 - the same

    known = ec2_backends[DEFAULT_ACCOUNT_ID].regions
    if region not in known:
        raise BadInputError(Problem(where="simulated cloud", field="region", value=region, want=suggest(region, known)))


def _empty_moto() -> None:
    """Forget moto's state, which is one for the whole process."""
    from moto.core.base_backend import BackendDict  # noqa: PLC0415 - moto is an extra and takes seconds to import
    from moto.core.model_instances import reset_model_data  # noqa: PLC0415 - the same

    BackendDict.reset()
    reset_model_data()


def _restore(name: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value
