"""The controller of `embed.py` inside an asyncio program: tfscale is synchronous, so each tick runs in a thread."""

import asyncio
from dataclasses import replace
from pathlib import Path

from embed import controller_of

from tfscale.scenario import read_scenario
from tfscale.simulate import World, open_world


async def scale(world: World) -> None:
    """Tick until nothing is left to do. In a real program: every ten seconds, for ever."""
    controller = controller_of(world)
    while (plan := await asyncio.to_thread(controller.tick, world.now_s())).actions or plan.recheck_s or world.pending():
        if not plan.actions:
            await asyncio.to_thread(world.wait, plan.recheck_s)


async def serve(beats: list[float]) -> None:
    """Stand for everything else that the program does meanwhile."""
    while True:
        beats.append(asyncio.get_running_loop().time())
        await asyncio.sleep(0.01)


async def main() -> None:
    """Run both; the program goes on serving while tfscale works."""
    scenario = read_scenario((Path(__file__).parent / "first.yaml").read_text(encoding="utf-8"), name="first.yaml")
    beats: list[float] = []
    with open_world(replace(scenario, objects=())) as world:
        serving = asyncio.create_task(serve(beats))
        await scale(world)
        serving.cancel()
    print(f"served {len(beats)} times meanwhile")


if __name__ == "__main__":
    asyncio.run(main())
