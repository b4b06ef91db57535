"""A simulated EC2: on moto with real boto3 clients, or in memory. Tokens, finite capacity, prices, a clock and faults."""

from tfscale.testing.fake_ec2.cloud import SimulatedCloud
from tfscale.testing.fake_ec2.faults import (
    ACCESS_DENIED,
    LOST_REPLY,
    SERVER_ERROR,
    THROTTLED,
    UNREACHABLE,
    ApiError,
    Fault,
)
from tfscale.testing.fake_ec2.machines import SimulatedMachine
from tfscale.testing.fake_ec2.market import SimulatedType
from tfscale.testing.fake_ec2.memory import MemoryCloud
from tfscale.testing.fake_ec2.region import Region
from tfscale.testing.fake_ec2.reservations import SimulatedReservation

__all__ = [
    "ACCESS_DENIED",
    "LOST_REPLY",
    "SERVER_ERROR",
    "THROTTLED",
    "UNREACHABLE",
    "ApiError",
    "Fault",
    "MemoryCloud",
    "Region",
    "SimulatedCloud",
    "SimulatedMachine",
    "SimulatedReservation",
    "SimulatedType",
]
