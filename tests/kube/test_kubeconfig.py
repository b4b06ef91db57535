"""What `KubeClient.connect` reads, and what it says about a file that cannot be used."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tfscale.errors import BadInputError
from tfscale.kube.client import KubeClient
from tfscale.kube.port import NODES
from tfscale.testing import FakeKube, KubeServer

SECRET = "canary-5f1d"  # noqa: S105  # a canary: it must appear nowhere


def written(folder: Path, url: str) -> Path:
    """Write a kubeconfig of one context, called test."""
    content = {
        "current-context": "test",
        "clusters": [{"name": "test", "cluster": {"server": url}}],
        "users": [{"name": "test", "user": {"token": SECRET}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
    }
    path = folder / "config"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def refused(kubeconfig: Path, context: str | None = None) -> str:
    """Return the message for a file that cannot be used."""
    with pytest.raises(BadInputError) as caught:
        KubeClient.connect(str(kubeconfig), context)
    message = str(caught.value)
    assert "\n" not in message
    assert SECRET not in message
    return message.replace(str(kubeconfig), "FILE")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """With its path."""
    assert refused(tmp_path / "none") == "kubeconfig FILE: path is 'FILE'; want a file that exists"


def test_an_unknown_context_is_named_with_the_known_ones(tmp_path: Path) -> None:
    """So that the right one can be chosen."""
    path = written(tmp_path, "http://127.0.0.1:1")

    assert refused(path, "prod") == "kubeconfig FILE: context is 'prod'; want one of test"


@pytest.mark.parametrize(
    ("content", "field"),
    [
        ("a: [1\n", "content is 'line 2'; want YAML"),
        (f"users: [{{name: a, user: {{token: {SECRET}}}}}\nb: {{", "content is 'line"),
        ("", "content is ''; want clusters, users and contexts"),
        ("- 1\n", "content is 'list'; want clusters, users and contexts"),
        (SECRET, "content is 'str'; want clusters, users and contexts"),
        ("clusters: []\ncontexts: []\nusers: []\n", "clusters is ''; want a value, which is required"),
        (
            "clusters: [{name: a, cluster: {server: x}}]\ncontexts: [{name: a, context: {cluster: a}}]\n",
            "current-context is ''; want a value, which is required",
        ),
        (
            "current-context: a\ncontexts: [{name: a, context: {cluster: b}}]\nclusters: [{name: a, cluster: {server: x}}]\n",
            "content is 'ConfigException'",
        ),
        ("current-context: a\ncontexts: [{context: {}}]\nclusters: [{name: a}]\n", "content is '"),
        ("\x00\x01", "content is '"),
    ],
)
def test_a_broken_file_gives_one_line(tmp_path: Path, content: str, field: str) -> None:
    """Which file, where, and what was wanted; never what stands in it."""
    path = tmp_path / "config"
    path.write_text(content, encoding="utf-8")

    assert refused(path).startswith(f"kubeconfig FILE: {field}")


def test_a_pod_without_its_service_account_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a cluster no file is needed, but the mounted token is."""
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")

    with pytest.raises(BadInputError, match="the service account of this pod: files is 'Service token file does not exist"):
        KubeClient.connect()


def test_the_kubeconfig_variable_may_list_several_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As kubectl reads it: those that exist are merged."""
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    fake = FakeKube()
    fake.create(NODES, {"metadata": {"name": "gpu-0"}})
    with KubeServer(fake) as server:
        monkeypatch.setenv("KUBECONFIG", f"{tmp_path / 'none'}:{written(tmp_path, server.url)}")
        client = KubeClient.connect()

        assert fake.list(NODES) == client.list(NODES)
        client.close()
