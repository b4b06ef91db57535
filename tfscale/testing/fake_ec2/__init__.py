"""A simulated EC2 on moto, in this process: tokens, finite capacity, prices, a clock and faults that moto lacks."""

from tfscale.testing.fake_ec2.cloud import SimulatedCloud
from tfscale.testing.fake_ec2.fleet import SimulatedMachine
from tfscale.testing.fake_ec2.market import SimulatedType
from tfscale.testing.fake_ec2.wire import ACCESS_DENIED, LOST_REPLY, SERVER_ERROR, THROTTLED, UNREACHABLE, ApiError, Fault

__all__ = [
    "ACCESS_DENIED",
    "LOST_REPLY",
    "SERVER_ERROR",
    "THROTTLED",
    "UNREACHABLE",
    "ApiError",
    "Fault",
    "SimulatedCloud",
    "SimulatedMachine",
    "SimulatedType",
]
