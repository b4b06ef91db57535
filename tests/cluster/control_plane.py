"""A real Kubernetes on this machine: etcd, API server, and on request kwok (which plays kubelets) and Karpenter.

Everything listens on free ports of 127.0.0.1 and keeps its data in one folder. Each program runs under a keeper that ends it
when this process ends, also when it is killed.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

__all__ = ["PROGRAMS", "TOOLS", "ControlPlane", "NotReadyError"]

TOOLS = Path(__file__).parents[2] / "tools" / "bin"
PROGRAMS = ("etcd", "kube-apiserver", "kube-scheduler", "kube-controller-manager", "kwok", "karpenter")
KEEPER = Path(__file__).parent / "keeper.py"
READY_WITHIN_S = 120
OK = 200


class NotReadyError(Exception):
    """A program ended or did not become ready; the end of its log is in the message."""


class ControlPlane:
    """A control plane while its context is entered. `folder` must be empty."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.kubeconfig = folder / "kubeconfig"
        self._keepers: dict[str, subprocess.Popen[bytes]] = {}
        self._token = secrets.token_hex()
        self._undo = ExitStack()

    def __enter__(self) -> Self:
        """Start etcd and the API server, and wait until they serve."""
        with ExitStack() as undo:
            self._undo = undo
            etcd, peer, port = _free_ports(3)
            self._server = f"https://127.0.0.1:{port}"
            self._start_etcd(f"http://127.0.0.1:{etcd}", f"http://127.0.0.1:{peer}")
            self._start_api_server(f"http://127.0.0.1:{etcd}", port)
            self.kubeconfig.write_text(json.dumps(self._kubeconfig()), encoding="utf-8")
            self._undo = undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop everything that was started, the last first."""
        self._undo.close()

    def start_karpenter(self, instance_types: Sequence[Mapping[str, Any]]) -> None:
        """Start Karpenter with its kwok provider, which makes nodes of these types. Its definitions must be there."""
        metrics, health = _free_ports(2)
        path = self.folder / "instance-types.json"
        path.write_text(json.dumps(list(instance_types)), encoding="utf-8")
        environment = {
            "KUBECONFIG": str(self.kubeconfig),
            "DISABLE_LEADER_ELECTION": "true",
            "METRICS_PORT": str(metrics),
            "HEALTH_PROBE_PORT": str(health),
            "BATCH_IDLE_DURATION": "100ms",
            "BATCH_MAX_DURATION": "500ms",
            "INSTANCE_TYPES_FILE_PATH": str(path),
            "CPU_REQUESTS": "2000",
        }
        self._run("karpenter", {}, environment)
        self._await("karpenter", f"http://127.0.0.1:{health}/readyz")

    def start_kwok(self) -> None:
        """Start kwok: nodes of Karpenter's kwok provider become Ready, pods that are bound to them run."""
        (port,) = _free_ports(1)
        flags = {
            "kubeconfig": self.kubeconfig,
            "config": TOOLS / "stages.yaml",
            "manage-all-nodes": "false",
            "manage-nodes-with-annotation-selector": "kwok.x-k8s.io/node=fake",
            "cidr": "10.1.0.0/24",
            "node-lease-duration-seconds": 40,
            "server-address": f"127.0.0.1:{port}",
        }
        self._run("kwok", flags)
        self._await("kwok", f"http://127.0.0.1:{port}/healthz")

    def _start_etcd(self, client: str, peer: str) -> None:
        flags = {
            "data-dir": self.folder / "etcd",
            "listen-client-urls": client,
            "advertise-client-urls": client,
            "listen-peer-urls": peer,
            "initial-advertise-peer-urls": peer,
            "initial-cluster": f"default={peer}",
            # A test has nothing to lose, and waits for the disk at every write otherwise.
            "unsafe-no-fsync": "true",
        }
        self._run("etcd", flags)
        self._await("etcd", f"{client}/readyz")

    def _start_api_server(self, etcd: str, port: int) -> None:
        tokens, key = self.folder / "tokens.csv", self.folder / "service-accounts.key"
        tokens.write_text(f"{self._token},admin,admin,system:masters\n", encoding="utf-8")
        private = rsa.generate_private_key(public_exponent=65_537, key_size=2_048)
        key.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()))
        flags = {
            "etcd-servers": etcd,
            "secure-port": port,
            "bind-address": "127.0.0.1",
            "cert-dir": self.folder / "certificates",
            "service-cluster-ip-range": "10.0.0.0/24",
            "authorization-mode": "AlwaysAllow",
            "token-auth-file": tokens,
            "service-account-issuer": "https://localhost",
            "service-account-key-file": key,
            "service-account-signing-key-file": key,
            # No controller makes service accounts or takes the not-ready taint off.
            "disable-admission-plugins": "ServiceAccount,TaintNodesByCondition",
        }
        self._run("kube-apiserver", flags)
        self._await("kube-apiserver", f"{self._server}/readyz")

    def _kubeconfig(self) -> dict[str, Any]:
        certificate = self.folder / "certificates" / "apiserver.crt"
        return {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": self._server, "certificate-authority": str(certificate)}}],
            "users": [{"name": "test", "user": {"token": self._token}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        }

    def _run(self, name: str, flags: Mapping[str, object], environment: Mapping[str, str] | None = None) -> None:
        log = self.folder / f"{name}.log"
        arguments = [f"--{flag}={value}" for flag, value in flags.items()]
        keeper = subprocess.Popen(  # noqa: S603 - programs that were built here
            [sys.executable, str(KEEPER), str(log), str(TOOLS / name), *arguments],
            stdin=subprocess.PIPE,
            env={**os.environ, **(environment or {})},
            start_new_session=True,  # Ctrl-C is for the test, which then stops this
        )
        self._keepers[name] = keeper
        self._undo.callback(_stop, keeper)

    def _await(self, name: str, url: str) -> None:
        """Wait until the program says that it is ready."""
        request = urllib.request.Request(url, headers={"Authorization": f"Bearer {self._token}"})  # noqa: S310 - of 127.0.0.1
        # Its certificate is one that it makes for itself when it starts.
        context = ssl._create_unverified_context()  # noqa: S323, SLF001 - the same
        end_s = time.monotonic() + READY_WITHIN_S
        while time.monotonic() < end_s and self._keepers[name].poll() is None:
            try:
                with urllib.request.urlopen(request, timeout=5, context=context) as reply:  # noqa: S310 - the same
                    if reply.status == OK:
                        return
            except OSError:
                time.sleep(0.1)
        log = (self.folder / f"{name}.log").read_text(encoding="utf-8", errors="replace")
        raise NotReadyError(f"{name} is not ready:\n" + "\n".join(log.splitlines()[-15:]))


def _stop(keeper: subprocess.Popen[bytes]) -> None:
    """End a program and wait for that."""
    assert keeper.stdin
    keeper.stdin.close()
    keeper.wait(60)


def _free_ports(count: int) -> list[int]:
    with ExitStack() as undo:
        sockets = [undo.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [one.getsockname()[1] for one in sockets]
