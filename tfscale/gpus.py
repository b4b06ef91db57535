"""The table of GPU models: VRAM and FP16 dense compute of one card, with the names by which others call it.

VRAM is what the data sheet names; a node or an instance type that states its own VRAM wins (EC2 reports 22,888 MiB for a
24 GB card, some models exist in several sizes). Compute is the tensor-core rate for FP16 without sparsity, of the board
that data centres and EC2 use; data sheets that print the rate with sparsity are halved. P100 has no tensor cores.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from tfscale.errors import BadInputError, Problem

__all__ = ["BUILT_IN", "GpuModel", "GpuTable"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuModel:
    """One model of card."""

    name: str
    vram_mib: int
    mtflops: int
    """FP16 dense, thousandths of a TFLOPs."""
    source: str
    aliases: tuple[str, ...] = ()
    """Other names: of EC2, of GPU feature discovery (label ``nvidia.com/gpu.product``), of TensorFusion."""


def _card(name: str, vram_gib: int, tflops: str, source: str, *aliases: str) -> GpuModel:
    mtflops = int(tflops.replace(".", "")) * 10 ** (3 - len(tflops.partition(".")[2]))
    return GpuModel(name=name, vram_mib=vram_gib * 1024, mtflops=mtflops, source=source, aliases=aliases)


BUILT_IN: tuple[GpuModel, ...] = (
    _card("P100", 16, "18.7", "NVIDIA Tesla P100 PCIe data sheet", "Tesla-P100-PCIE-16GB"),
    _card(
        "V100",
        16,
        "125",
        "NVIDIA V100 data sheet, SXM2",
        "Tesla-V100-SXM2-16GB",
        "Tesla-V100-SXM2-32GB",
        "Tesla-V100-SXM3-32GB",
    ),
    _card("T4", 16, "65", "NVIDIA T4 data sheet", "Tesla-T4"),
    _card("T4G", 16, "65", "NVIDIA T4 data sheet; AWS G5g product page", "NVIDIA-T4G"),
    _card("A10", 24, "125", "NVIDIA A10 data sheet", "NVIDIA-A10"),
    _card("A10G", 24, "70", "NVIDIA A10G data sheet (AWS G5)", "NVIDIA-A10G"),
    _card("A30", 24, "165", "NVIDIA A30 data sheet", "NVIDIA-A30"),
    _card("A40", 48, "149.7", "NVIDIA A40 data sheet", "NVIDIA-A40"),
    _card(
        "A100",
        40,
        "312",
        "NVIDIA A100 data sheet",
        "NVIDIA-A100-SXM4-40GB",
        "NVIDIA-A100-SXM4-80GB",
        "NVIDIA-A100-PCIE-40GB",
        "NVIDIA-A100-80GB-PCIe",
        "A100_SXM_40G",
        "A100_SXM_80G",
    ),
    _card("RTX-A6000", 48, "154.8", "NVIDIA RTX A6000 data sheet, 309.7 with sparsity", "NVIDIA-RTX-A6000"),
    _card("L4", 24, "121", "NVIDIA L4 data sheet, 242 with sparsity", "NVIDIA-L4"),
    _card("L40", 48, "181", "NVIDIA L40 data sheet, 362 with sparsity", "NVIDIA-L40"),
    _card("L40S", 48, "362", "NVIDIA L40S data sheet", "NVIDIA-L40S"),
    _card("H100", 80, "989.4", "NVIDIA H100 data sheet, SXM, 1,979 with sparsity", "NVIDIA-H100-80GB-HBM3", "H100_SXM"),
    _card("H100-PCIe", 80, "756", "NVIDIA H100 PCIe product brief, 1,513 with sparsity", "NVIDIA-H100-PCIe"),
    _card("H100-NVL", 94, "835", "NVIDIA H100 data sheet, NVL, 1,671 with sparsity", "NVIDIA-H100-NVL"),
    _card("H200", 141, "989.4", "NVIDIA H200 data sheet, SXM, 1,979 with sparsity", "NVIDIA-H200", "H200_SXM"),
    _card(
        "RTX-PRO-6000",
        96,
        "503.8",
        "NVIDIA RTX Blackwell PRO architecture paper, FP16 accumulate",
        "NVIDIA-RTX-PRO-6000-Blackwell-Server-Edition",
        "RTX PRO Server 6000",
    ),
    _card("B200", 180, "2250", "NVIDIA HGX B200 data sheet, 4,500 with sparsity", "NVIDIA-B200", "B200_SXM"),
    _card("B300", 270, "2250", "NVIDIA HGX B300 data sheet, 4,500 with sparsity", "NVIDIA-B300", "NVIDIA-B300-SXM6-AC"),
)


class GpuTable:
    """Card models by any of their names.

    >>> GpuTable().find("Tesla-T4").mtflops
    65000
    >>> GpuTable().find("NVIDIA-L4-SHARED").name
    'L4'
    """

    def __init__(self, extra: Iterable[GpuModel] = ()) -> None:
        """Take the built-in models and `extra` ones; an extra model replaces a built-in one of the same name."""
        self._models: Mapping[str, GpuModel] = {
            _key(name): model for model in (*BUILT_IN, *extra) for name in (model.name, *model.aliases)
        }

    @property
    def models(self) -> tuple[GpuModel, ...]:
        """All models, each once."""
        return tuple({model.name: model for model in self._models.values()}.values())

    def find(self, name: str, *, where: str = "gpu table", field: str = "gpu model") -> GpuModel:
        """Return the model of this name. Raises ``BadInputError`` that names `where`, `field` and the nearest known name."""
        found = self._models.get(_key(name))
        if found is None:
            raise BadInputError(Problem(where=where, field=field, value=name, want=self._advice(name)))
        return found

    def card(self, name: str, *, vram_mib: int | None = None, where: str = "gpu table", field: str = "gpu model") -> GpuModel:
        """Return the model, with the VRAM that a node or an instance type states instead of the table's."""
        model = self.find(name, where=where, field=field)
        return model if vram_mib is None else replace(model, vram_mib=vram_mib)

    def _advice(self, name: str) -> str:
        names = sorted({model.name for model in self._models.values()})
        near = difflib.get_close_matches(_key(name), self._models, n=1)
        return f"{self._models[near[0]].name}?" if near else "one of " + ", ".join(names)


def _key(name: str) -> str:
    """Fold case and punctuation, and the mark of time-sliced cards in feature discovery's labels."""
    return re.sub(r"[^a-z0-9]+", "-", name.casefold()).strip("-").removesuffix("-shared")
