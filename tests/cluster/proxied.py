"""A fault proxy before a real API server."""

from __future__ import annotations

import json
import ssl
from pathlib import Path

from tfscale.testing import FaultProxy

__all__ = ["proxy_of"]


def proxy_of(kubeconfig: Path, *, seed: int = 0) -> FaultProxy:
    """Return a proxy before the server of a kubeconfig that the control plane wrote, with its token."""
    config = json.loads(kubeconfig.read_text(encoding="utf-8"))
    cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
    tls = ssl.create_default_context(cafile=cluster["certificate-authority"])
    return FaultProxy(cluster["server"], token=user["token"], tls=tls, seed=seed)
