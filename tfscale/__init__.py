"""Share GPUs between models and buy only the nodes that are needed."""

from __future__ import annotations

__version__ = "0.1.0"
