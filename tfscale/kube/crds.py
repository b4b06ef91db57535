"""The definitions of tfscale's own resources: files of the package, as a cluster takes them."""

from __future__ import annotations

from importlib import resources

from tfscale.kube.port import GPU_POOLS, LAUNCH_BATCHES, NODE_REQUESTS, Json, Kind
from tfscale.manifests import read_manifests

__all__ = ["OUR_KINDS", "definition", "definitions_text"]

OUR_KINDS = (GPU_POOLS, NODE_REQUESTS, LAUNCH_BATCHES)


def definitions_text() -> str:
    """Return all of them as YAML documents, ready for ``kubectl apply --server-side -f -``."""
    return "---\n".join(map(_text, OUR_KINDS))


def definition(kind: Kind) -> Json:
    """Return the CustomResourceDefinition of one of our kinds."""
    (manifest,) = read_manifests(_text(kind), name=f"{kind.plural}.yaml")
    found: Json = manifest.value
    return found


def _text(kind: Kind) -> str:
    return resources.files("tfscale").joinpath("crds", f"{kind.plural}.yaml").read_text(encoding="utf-8")
