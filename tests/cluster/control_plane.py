"""A real Kubernetes on this machine: etcd, API server, and on request its scheduler, its controllers, kwok and Karpenter.

Everything listens on free ports of 127.0.0.1 and keeps its data in one folder. Each program runs under a keeper that ends it
when this process ends, also when it is killed.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
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
CONTROLLERS = ("deployment", "replicaset", "disruption", "garbage-collector", "taint-eviction")
"""What tests want of kube-controller-manager. `node-lifecycle` would call nodes dead that no kubelet speaks for."""


class NotReadyError(Exception):
    """A program ended or did not become ready; the end of its log is in the message."""


class ControlPlane:
    """A control plane while its context is entered. `folder` must be empty.

    With `audit` every write is logged. Each of the `users` gets a kubeconfig of its own beside that of the administrator.
    """

    def __init__(self, folder: Path, *, audit: bool = False, users: Sequence[str] = ()) -> None:
        self.folder = folder
        self.kubeconfig = folder / "kubeconfig"
        self._audited = audit
        self._tokens = {user: secrets.token_hex() for user in ("admin", *users)}
        self._keepers: dict[str, subprocess.Popen[bytes]] = {}
        self._undo = ExitStack()

    def __enter__(self) -> Self:
        """Start etcd and the API server, and wait until they serve."""
        with ExitStack() as undo:
            self._undo = undo
            etcd, peer, port = _free_ports(3)
            self._etcd, self._server = f"http://127.0.0.1:{etcd}", f"https://127.0.0.1:{port}"
            self._start_etcd(f"http://127.0.0.1:{peer}")
            self._write_credentials()
            self.start_api_server()
            self._undo = undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop everything that was started, the last first."""
        self._undo.close()

    # --- programs ---

    def start_api_server(self) -> None:
        """Start the API server: the first time, or again after `stop`, on the same port with the same data."""
        key = self.folder / "service-accounts.key"
        flags = {
            "etcd-servers": self._etcd,
            "secure-port": self._server.rpartition(":")[2],
            "bind-address": "127.0.0.1",
            "cert-dir": self.folder / "certificates",
            "service-cluster-ip-range": "10.0.0.0/24",
            "authorization-mode": "AlwaysAllow",
            "token-auth-file": self.folder / "tokens.csv",
            "service-account-issuer": "https://localhost",
            "service-account-key-file": key,
            "service-account-signing-key-file": key,
            # No controller makes service accounts or takes the not-ready taint off.
            "disable-admission-plugins": "ServiceAccount,TaintNodesByCondition",
        }
        if self._audited:
            flags |= {"audit-log-path": self.folder / "audit.log", "audit-policy-file": self.folder / "audit.json"}
        self._run("kube-apiserver", flags)
        self._await("kube-apiserver", f"{self._server}/readyz")

    def start_controllers(self, *more: str) -> None:
        """Start kube-controller-manager with the usual controllers and more of them, named as its documentation does."""
        (port,) = _free_ports(1)
        flags = {
            "kubeconfig": self.kubeconfig,
            "leader-elect": "false",
            "controllers": ",".join(f"{name}-controller" for name in (*CONTROLLERS, *more)),
            "bind-address": "127.0.0.1",
            "secure-port": port,
            "cert-dir": self.folder / "controllers",
            "service-account-private-key-file": self.folder / "service-accounts.key",
        }
        self._run("kube-controller-manager", flags)
        self._await("kube-controller-manager", f"https://127.0.0.1:{port}/healthz")

    def start_scheduler(self) -> None:
        """Start kube-scheduler, which binds the pods that name no scheduler of their own."""
        (port,) = _free_ports(1)
        config = {
            "apiVersion": "kubescheduler.config.k8s.io/v1",
            "kind": "KubeSchedulerConfiguration",
            "clientConnection": {"kubeconfig": str(self.kubeconfig)},
            "leaderElection": {"leaderElect": False},
        }
        path = self.folder / "scheduler.json"
        path.write_text(json.dumps(config), encoding="utf-8")
        flags = {"config": path, "bind-address": "127.0.0.1", "secure-port": port, "cert-dir": self.folder / "scheduler"}
        self._run("kube-scheduler", flags)
        self._await("kube-scheduler", f"https://127.0.0.1:{port}/healthz")

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
            "FEATURE_GATES": "StaticCapacity=true",
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

    def stop(self, name: str) -> None:
        """End one program and wait for that."""
        _stop(self._keepers[name])

    def pause(self, name: str) -> None:
        """Let a program stand still, with its connections open."""
        os.kill(self._pid(name), signal.SIGSTOP)

    def resume(self, name: str) -> None:
        """Let a paused program go on."""
        os.kill(self._pid(name), signal.SIGCONT)

    # --- who may speak, and who has spoken ---

    def kubeconfig_of(self, user: str) -> Path:
        """Return the kubeconfig of one of the users."""
        return self.folder / f"kubeconfig-{user}"

    def audit(self) -> list[dict[str, Any]]:
        """Return the writes that were completed so far, as the API server logged them (``audit.k8s.io/v1`` Event)."""
        text = (self.folder / "audit.log").read_text(encoding="utf-8")
        # The last line may still be on its way.
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]

    def _write_credentials(self) -> None:
        lines = (f"{token},{user},{user},system:masters\n" for user, token in self._tokens.items())
        (self.folder / "tokens.csv").write_text("".join(lines), encoding="utf-8")
        private = rsa.generate_private_key(public_exponent=65_537, key_size=2_048)
        key = private.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
        (self.folder / "service-accounts.key").write_bytes(key)
        self.kubeconfig.write_text(json.dumps(self._credentials("admin")), encoding="utf-8")
        for user in self._tokens:
            self.kubeconfig_of(user).write_text(json.dumps(self._credentials(user)), encoding="utf-8")
        writes = {"level": "Metadata", "verbs": ["create", "update", "patch", "delete", "deletecollection"]}
        policy = {
            "apiVersion": "audit.k8s.io/v1",
            "kind": "Policy",
            "omitStages": ["RequestReceived", "ResponseStarted"],
            "rules": [writes, {"level": "None"}],
        }
        (self.folder / "audit.json").write_text(json.dumps(policy), encoding="utf-8")

    def _credentials(self, user: str) -> dict[str, Any]:
        certificate = self.folder / "certificates" / "apiserver.crt"
        return {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": self._server, "certificate-authority": str(certificate)}}],
            "users": [{"name": user, "user": {"token": self._tokens[user]}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": user}}],
        }

    # --- processes ---

    def _start_etcd(self, peer: str) -> None:
        flags = {
            "data-dir": self.folder / "etcd",
            "listen-client-urls": self._etcd,
            "advertise-client-urls": self._etcd,
            "listen-peer-urls": peer,
            "initial-advertise-peer-urls": peer,
            "initial-cluster": f"default={peer}",
            # A test has nothing to lose, and waits for the disk at every write otherwise.
            "unsafe-no-fsync": "true",
        }
        self._run("etcd", flags)
        self._await("etcd", f"{self._etcd}/readyz")

    def _run(self, name: str, flags: Mapping[str, object], environment: Mapping[str, str] | None = None) -> None:
        log = self.folder / f"{name}.log"
        arguments = [f"--{flag}={value}" for flag, value in flags.items()]
        keeper = subprocess.Popen(  # noqa: S603 - programs that were built here
            [sys.executable, str(KEEPER), str(log), str(TOOLS / name), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **(environment or {})},
            start_new_session=True,  # Ctrl-C is for the test, which then stops this
        )
        self._keepers[name] = keeper
        self._undo.callback(_stop, keeper)
        assert keeper.stdout
        (self.folder / f"{name}.pid").write_bytes(keeper.stdout.readline())

    def _pid(self, name: str) -> int:
        return int((self.folder / f"{name}.pid").read_text(encoding="ascii"))

    def _await(self, name: str, url: str) -> None:
        """Wait until the program says that it is ready."""
        request = urllib.request.Request(url, headers={"Authorization": f"Bearer {self._tokens['admin']}"})  # noqa: S310 - of 127.0.0.1
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
    """End a program and wait for that. One that has ended already is fine."""
    assert keeper.stdin
    assert keeper.stdout
    keeper.stdin.close()
    keeper.wait(60)
    keeper.stdout.close()


def _free_ports(count: int) -> list[int]:
    with ExitStack() as undo:
        sockets = [undo.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [one.getsockname()[1] for one in sockets]
