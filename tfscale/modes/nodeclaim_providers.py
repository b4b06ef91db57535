"""Karpenter's providers: the labels that each writes on its nodes, as far as they follow from the instance type.

Sources, each read in the provider's own repository; what could not be found there is not in the tables:

- AWS: ``pkg/apis/v1/labels.go`` and ``pkg/providers/instancetype/types.go`` of aws/karpenter-provider-aws.
- Azure: ``pkg/apis/v1beta1/labels.go``, ``pkg/providers/instancetype/instancetype.go`` and ``pkg/utils/zones/zones.go`` of
  Azure/karpenter-provider-azure; ``vmsize.go`` of Azure/skewer, which reads the names of sizes.
- OCI, Oracle's own: ``pkg/apis/v1beta1/labels.go``, ``pkg/providers/instancetype/{provider,shape}.go`` and
  ``pkg/cloudprovider/drift.go`` of oracle/karpenter-provider-oci.
- OCI, the community's: ``pkg/apis/v1alpha1/labels.go`` and ``pkg/providers/instancetype/types.go`` of zoom/karpenter-oci.
- kwok: ``kwok/apis/v1alpha1/labels.go`` and ``kwok/cloudprovider/helpers.go`` of kubernetes-sigs/karpenter.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

__all__ = ["AWS", "AZURE", "KWOK", "OCI", "ZOOM", "Provider", "TypeFacts", "provider_of"]

AWS = "karpenter.k8s.aws"
AZURE = "karpenter.azure.com"
OCI = "oci.oraclecloud.com"
ZOOM = "karpenter.k8s.oracle"
KWOK = "karpenter.kwok.sh"


@dataclass(frozen=True, slots=True, kw_only=True)
class TypeFacts:
    """What labels follow from. CPU and memory are the machine's totals; None where only what a node allocates is known."""

    name: str
    cpu_milli: int | None
    memory_mib: int | None
    gpu_model: str = ""
    """Canonical name in the GPU table."""
    gpu_count: int = 0
    vram_mib: int = 0
    """Of one card."""


Rule = Callable[[TypeFacts], str | None]
"""Gives the value of a label: empty where nodes of the type have none, None where the type does not tell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """What is known of one provider. Of a provider that is in no table this is its group alone."""

    group: str
    """Of its node classes, and in front of its labels."""
    rules: Mapping[str, Rule] = field(default_factory=dict)
    """By label."""
    region: str = r"(?!)"
    """Matches the region that a zone's name begins with; nothing where zones do not name theirs."""
    hash: str = ""
    """The annotation by which a node class and its claims are compared. Most are called after the kind of the class."""
    gpu_taint: str = ""
    """Claims without this taint, effect NoSchedule, are given no types with GPUs."""

    def labels(self, facts: TypeFacts) -> Mapping[str, str]:
        """Return the labels of every node of a type, as far as they follow from the type itself.

        >>> facts = TypeFacts(name="g6.2xlarge", cpu_milli=8_000, memory_mib=32_768, gpu_model="L4", gpu_count=1)
        >>> labels = provider_of(AWS).labels(facts)
        >>> labels["karpenter.k8s.aws/instance-family"], labels["karpenter.k8s.aws/instance-gpu-name"]
        ('g6', 'l4')
        """
        told = {key: rule(facts) for key, rule in self.rules.items()}
        return {key: value for key, value in told.items() if value}

    def tells(self, key: str, facts: TypeFacts) -> bool:
        """Return whether a type tells a label, so that one which is missing from ``labels`` is missing on the node too."""
        return key in self.rules and self.rules[key](facts) is not None

    def region_of(self, zone: str) -> str:
        """Return the region of a zone, empty where its name does not say it.

        >>> provider_of(AWS).region_of("us-west-2-lax-1a"), provider_of(AZURE).region_of("eastus-1")
        ('us-west-2', 'eastus')
        """
        found = re.match(self.region, zone)
        return found[0] if found else ""

    def hash_annotation(self, kind: str) -> str:
        """Return the annotation with the hash of a node class of this kind; the hash has a version, in ``...-version``."""
        return self.hash or f"{self.group}/{kind.lower()}-hash"


def provider_of(group: str) -> Provider:
    """Return the provider whose node classes are of this group."""
    return _KNOWN.get(group, Provider(group=group))


# --- rules that providers share ---


def _name(facts: TypeFacts) -> str:
    return facts.name


def _cpus(facts: TypeFacts) -> str | None:
    return None if facts.cpu_milli is None else str(facts.cpu_milli // 1_000)


def _memory_mib(facts: TypeFacts) -> str | None:
    return None if facts.memory_mib is None else str(facts.memory_mib)


def _cards(facts: TypeFacts) -> str:
    return str(facts.gpu_count) if facts.gpu_count else ""


def _vram_mib(facts: TypeFacts) -> str:
    return str(facts.vram_mib) if facts.gpu_count else ""


def _manufacturer(facts: TypeFacts) -> str:
    return "nvidia" if facts.gpu_count else ""


def _part(pattern: re.Pattern[str], part: str, otherwise: str = "") -> Rule:
    """Return the rule for a label that is a part of the type's name. A name of another form tells nothing."""

    def rule(facts: TypeFacts) -> str | None:
        found = pattern.fullmatch(facts.name)
        return (found[part] or otherwise) if found else None

    return rule


def _under(prefix: str, rules: Mapping[str, Rule]) -> dict[str, Rule]:
    return {f"{prefix}{name}": rule for name, rule in rules.items()}


# --- AWS: g6.12xlarge in us-east-1a ---

_AWS_NAME = re.compile(r"(?P<family>(?P<category>[a-z]+)(?:-[0-9]+tb)?(?P<generation>[0-9]+)[^.]*)\.(?P<size>.+)")


def _aws_card(facts: TypeFacts) -> str | None:
    # The table's longer names are not those of EC2.
    return None if "-" in facts.gpu_model else facts.gpu_model.lower()


_AWS = Provider(
    group=AWS,
    rules=_under(
        f"{AWS}/instance-",
        {
            **{part: _part(_AWS_NAME, part) for part in ("category", "generation", "family", "size")},
            "cpu": _cpus,
            "memory": _memory_mib,
            "gpu-name": _aws_card,
            "gpu-manufacturer": _manufacturer,
            "gpu-count": _cards,
            "gpu-memory": _vram_mib,
        },
    ),
    region=r"[a-z]+(?:-[a-z]+)+?-[0-9]+",
)

# --- Azure: Standard_NC24ads_A100_v4 in eastus-1; a machine outside of all zones is in zone 0 ---

_AZURE_NAME = re.compile(
    r"Standard_(?P<head>(?P<family>[A-Z])[A-Z]{0,2})[0-9]+(?:-[0-9]+)?(?P<features>[a-z]*)"
    r"(?:_(?:xl_)?(?P<card>[A-Z]+[0-9]+[A-Z]*))?(?P<tail>_v(?P<version>[1-9]))?"
)


def _azure_series(facts: TypeFacts) -> str | None:
    found = _AZURE_NAME.fullmatch(facts.name)
    return f"{found['head']}{found['features']}{found['tail'] or ''}" if found else None


def _azure_card(facts: TypeFacts) -> str | None:
    # Names of older sizes do not say which card it is, and the provider looks it up in a list.
    found = _AZURE_NAME.fullmatch(facts.name) if facts.gpu_count else None
    return (found and found["card"]) or (None if facts.gpu_count else "")


_AZURE_SIZE = {"sku-cpu": _cpus, "sku-memory": _memory_mib}
_AZURE = Provider(
    group=AZURE,
    rules=_under(
        f"{AZURE}/",
        {
            **_AZURE_SIZE,
            "sku-name": _name,
            "sku-family": _part(_AZURE_NAME, "family"),
            "sku-series": _azure_series,
            "sku-version": _part(_AZURE_NAME, "version", otherwise="1"),
            "sku-gpu-name": _azure_card,
            "sku-gpu-manufacturer": _manufacturer,
            "sku-gpu-count": lambda facts: str(facts.gpu_count),
        },
    )
    | _under("kubernetes.azure.com/", _AZURE_SIZE),
    region="[a-z0-9]+(?=-[0-9]+$)",
)

# --- OCI, Oracle's own: BM.GPU.A10.4, or VM.Standard3.Flex.4o.32g.1_1b of a shape with sizes; PHX-AD-1 says no region ---

_OCI_NAME = re.compile(r"(?P<shape>.+?)(?P<flex>\.[0-9]+o\.[0-9]+g\.[0-9]_[0-9]b)?")


def _true_if(holds: Callable[[TypeFacts], object]) -> Rule:
    return lambda facts: "true" if holds(facts) else ""


def _oci_dense_io(facts: TypeFacts) -> str | None:
    # Of these shapes it depends on disks, too, of which nothing is known here.
    return None if "DENSEIO" in facts.name.upper() else ""


_OCI = Provider(
    group=OCI,
    rules=_under(
        f"{OCI}/",
        {
            "instance-shape": _part(_OCI_NAME, "shape"),
            "flex-shape": _true_if(_part(_OCI_NAME, "flex")),
            "gpu-shape": _true_if(_cards),
            "baremetal-shape": _true_if(lambda facts: facts.name.upper().startswith("BM")),
            "denseio-shape": _oci_dense_io,
        },
    ),
    hash=f"{OCI}/nodeclass-hash",
    gpu_taint="nvidia.com/gpu",
)

# --- OCI, the community's: VM.GPU.A10.1 ---

_ZOOM = Provider(
    group=ZOOM,
    rules=_under(
        f"{ZOOM}/instance-",
        {"shape-name": _name, "cpu": _cpus, "memory": _memory_mib, "gpu": _cards},
    ),
)

# --- kwok: names as of any cloud, amounts as quantities ---

_KWOK_SIZE = re.compile(r"\w+\.(?P<size>nano|micro|small|medium|large|\d*xlarge|metal)")


def _kwok_cpu(facts: TypeFacts) -> str | None:
    return f"{facts.cpu_milli}m" if facts.cpu_milli and facts.cpu_milli % 1_000 else _cpus(facts)


def _kwok_memory(facts: TypeFacts) -> str | None:
    mib = facts.memory_mib
    if mib is None:
        return None
    return f"{mib}Mi" if mib % 1_024 else f"{mib // 1_024}Gi"


def _kwok_family(facts: TypeFacts) -> str:
    family, *rest = re.split("[.-]", facts.name, maxsplit=1)
    return family if rest else family[:1]


def _kwok_size(facts: TypeFacts) -> str | None:
    found = _KWOK_SIZE.fullmatch(facts.name)
    return found["size"] if found else _kwok_cpu(facts)


_KWOK = Provider(
    group=KWOK,
    rules=_under(
        f"{KWOK}/instance-",
        {"family": _kwok_family, "size": _kwok_size, "cpu": _kwok_cpu, "memory": _kwok_memory},
    ),
)

_KNOWN = {one.group: one for one in (_AWS, _AZURE, _OCI, _ZOOM, _KWOK)}
