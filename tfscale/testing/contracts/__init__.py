"""What every implementation of a tfscale port must do, as suites that its author can run. They need pytest."""

import pytest

pytest.register_assert_rewrite(f"{__name__}.ec2", f"{__name__}.kube", f"{__name__}.modes")

from tfscale.testing.contracts.kube import WIDGET_CRD, WIDGETS, KubeContract  # noqa: E402  # rewritten only after the line above

__all__ = ["WIDGETS", "WIDGET_CRD", "KubeContract"]
