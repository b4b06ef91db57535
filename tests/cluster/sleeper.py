"""A process that follows the nodes and, when asked, tells how old its knowledge is: at once, and a second later."""

from __future__ import annotations

import json
import sys
import time

from tests.kube.reflector_faults import QUICK
from tfscale.kube.client import KubeClient
from tfscale.kube.port import NODES
from tfscale.kube.reflector import Reflector


def main() -> None:
    """Follow the cluster of the kubeconfig that is the only argument."""
    kube = KubeClient.connect(kubeconfig=sys.argv[1])
    with Reflector(kube, NODES, pace=QUICK) as reflector:
        reflector.store.wait(lambda: bool(reflector.store.version), 10)
        print("ready", flush=True)  # noqa: T201 - for the test
        for _ in sys.stdin:
            for pause_s in (0, 1):
                time.sleep(pause_s)
                names = [node["metadata"]["name"] for node in reflector.store.listing().items]
                print(json.dumps([reflector.store.age_s(), names]), flush=True)  # noqa: T201 - the same
    kube.close()


if __name__ == "__main__":
    main()
