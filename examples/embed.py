"""An existing controller that lets tfscale place its pods and buy its nodes, without any of tfscale's custom resources.

It keeps its own loop, its own settings and its own clock, and calls `decide` and `apply` itself. What must outlive a crash is
kept in ConfigMaps. Run as it is, it works on the simulated cluster of `first.yaml`; in a real one, `kube` is
`tfscale.kube.client.KubeClient.connect()` and the time is the wall clock's.
"""

from dataclasses import replace
from pathlib import Path

from tfscale import GpuTable, Plan, Pool, Supply, decide
from tfscale.apply import apply
from tfscale.kube.configmaps import InConfigMaps
from tfscale.kube.convert import pool_object, read_cluster
from tfscale.kube.port import GPU_POOLS, LAUNCH_BATCHES, NODE_REQUESTS, NODES, PODS, Kube
from tfscale.modes import load
from tfscale.modes.base import ModeContext
from tfscale.pool import Limits, OfferFilter
from tfscale.scenario import read_scenario
from tfscale.simulate import World, open_world

GPUS = GpuTable()
POOL = Pool(
    name="inference",
    mode="ec2",
    options={"region": "us-east-1", "launchTemplate": {"name": "tfscale-node"}},
    wanted=OfferFilter(instance_types=("g4dn.xlarge", "g6.xlarge", "g6.12xlarge")),
    limits=Limits(nodes=10, micro_usd=20_000_000),
)


class Controller:
    """What is there already; the part that matters here is `tick`."""

    def __init__(self, kube: Kube, context: ModeContext) -> None:
        self.kube = InConfigMaps(kube, namespace="my-controller")
        self.mode = load(POOL.mode).open(context)
        if not self.kube.list(GPU_POOLS).items:
            self.kube.create(GPU_POOLS, pool_object(POOL))

    def tick(self, now_s: int) -> Plan:
        """Observe, decide, apply. Whatever fails is tried again at the next tick."""
        machines = {POOL.name: self.mode.observe()}
        cluster = read_cluster(
            pods=self.kube.list(PODS).items,
            nodes=self.kube.list(NODES).items,
            pools=self.kube.list(GPU_POOLS).items,
            requests=self.kube.list(NODE_REQUESTS).items,
            batches=self.kube.list(LAUNCH_BATCHES).items,
            machines=machines,
            now_s=now_s,
            gpus=GPUS,
        )
        supply = Supply(offers=self.mode.offers(), reclaims_idle=self.mode.reclaims_idle, in_cluster=self.mode.in_cluster)
        plan = decide(cluster, {POOL.name: supply})
        for outcome in apply(plan, cluster, self.kube, {POOL.name: self.mode}):
            print(outcome.action, "failed:" if outcome.error else "", outcome.error or "")
        return plan


def controller_of(world: World) -> Controller:
    """Return the controller of a simulated world."""
    return Controller(world.kube, ModeContext(pool=POOL, gpus=GPUS, kube=world.kube, cluster="demo", aws=world.cloud.session))


def main() -> None:
    """Run the controller until the simulated pods are done and the nodes are gone."""
    scenario = read_scenario((Path(__file__).parent / "first.yaml").read_text(encoding="utf-8"), name="first.yaml")
    with open_world(replace(scenario, objects=())) as world:
        controller = controller_of(world)
        while (plan := controller.tick(world.now_s())).actions or plan.recheck_s or world.pending():
            if not plan.actions:
                world.wait(plan.recheck_s)


if __name__ == "__main__":
    main()
