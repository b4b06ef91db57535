"""Whether a NodeClaim still is what would be made now. Of claims without a NodePool Karpenter does not look.

Sources: the drift of Karpenter and of its providers, which write a hash of its node class on each claim that they launch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tfscale.kube.fields import named
from tfscale.kube.port import Json
from tfscale.model import Machine
from tfscale.modes.nodeclaim_options import NodeClassRef
from tfscale.modes.nodeclaim_order import condition
from tfscale.modes.nodeclaim_providers import provider_of
from tfscale.pool import OfferFilter

__all__ = ["class_drift", "karpenters_drift", "template_drift", "unwanted"]

_TEMPLATE = ("nodeClassRef", "taints", "startupTaints", "terminationGracePeriod")
"""What the pool says of every claim, whatever it asks for."""


def karpenters_drift(claim: Json) -> str:
    """Return why Karpenter says that a claim has drifted, or nothing."""
    drifted = condition(named("nodeclaim", claim), "Drifted")
    if drifted.at("status").text() != "True":
        return ""
    return f"Karpenter says {drifted.at('reason').text() or 'Drifted'}"


def unwanted(machine: Machine, wanted: OfferFilter) -> str:
    """Return what of a launched machine the pool does not want any more, or nothing. An empty list wants all.

    >>> gone = Machine(id="a", batch="b", pool="p", offer="g6.xlarge/us-east-1a/spot", provider_id="")
    >>> unwanted(gone, OfferFilter(zones=("us-east-1a", "us-east-1b")))
    'the pool wants on-demand, not spot'
    """
    names = machine.offer.split("/")[:3]
    asked = (wanted.instance_types, wanted.zones, wanted.capacity_types)
    for name, names_wanted in zip(names, asked, strict=False):
        if name and names_wanted and name not in names_wanted:
            return f"the pool wants {', '.join(names_wanted)}, not {name}"
    return ""


def template_drift(claim: Json, *, labels: Mapping[str, str], spec: Mapping[str, Any]) -> str:
    """Return what the pool's options say otherwise than the claim, or nothing. A label that was given up stays."""
    of_claim = claim["metadata"].get("labels") or {}
    changed = [f"label {key}" for key, value in sorted(labels.items()) if of_claim.get(key) != value]
    changed += [key for key in _TEMPLATE if (claim["spec"].get(key) or None) != (spec.get(key) or None)]
    return f"the pool says otherwise: {', '.join(changed)}" if changed else ""


def class_drift(claim: Json, ref: NodeClassRef, node_class: Json) -> str:
    """Return how the node class has changed since the claim was launched, or nothing where that cannot be told."""
    key = provider_of(ref.group).hash_annotation(ref.kind)
    at_launch, now = (obj["metadata"].get("annotations") or {} for obj in (claim, node_class))
    comparable = at_launch.get(key) and at_launch.get(f"{key}-version") == now.get(f"{key}-version")
    if comparable and now.get(key) not in {None, at_launch[key]}:
        return f"{ref.kind} {ref.name} has changed"
    image = named("nodeclaim", claim).at("status", "imageID").text()
    images = [one.at("id").text() for one in named(ref.kind.lower(), node_class).at("status", "amis").items()]
    return f"its image {image} is none of {ref.kind} {ref.name}" if image and images and image not in images else ""
