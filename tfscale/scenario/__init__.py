"""Scenario files: what runs on the simulated cluster and cloud.

A scenario is several YAML documents: ordinary Kubernetes objects, which go into the simulated cluster as they are, and at most
one ``Scenario`` (``sim.tfscale.io/v1alpha1``) that describes the cloud, card models of its own, workloads that arrive and end,
and what breaks. Times count from the start of the simulation.
"""

from tfscale.scenario.facts import (
    Arrivals,
    CallsFail,
    Capacity,
    CapacityChanges,
    Cloud,
    Fault,
    KarpenterStops,
    MachinesStop,
    Restart,
    Scenario,
    Workload,
)
from tfscale.scenario.files import read_scenario

__all__ = [
    "Arrivals",
    "CallsFail",
    "Capacity",
    "CapacityChanges",
    "Cloud",
    "Fault",
    "KarpenterStops",
    "MachinesStop",
    "Restart",
    "Scenario",
    "Workload",
    "read_scenario",
]
