"""Launch templates of ours that nobody needs any more: found by name and tags, and deleted."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from tfscale.errors import ClusterError, ModeError
from tfscale.kube.port import GPU_POOLS, LAUNCH_BATCHES, Kube
from tfscale.modes.ec2_calls import Ec2Calls
from tfscale.modes.ec2_fleet import CLUSTER_TAG, POOL_TAG
from tfscale.modes.ec2_machines import tags_of

if TYPE_CHECKING:
    from types_boto3_ec2.type_defs import FilterTypeDef, LaunchTemplateTypeDef

__all__ = ["PREFIX", "UnusedTemplates"]

log = logging.getLogger(__name__)

PREFIX = "tfscale-"
"""How the names of our templates begin: one that somebody else made is not deleted, whatever its tags."""
LOOK_EVERY_S = 3_600
KEEP_S = 24 * 3_600
"""How old a template must be. Another process may have just found it, for a call that is not recorded yet: such a call is
refused, and prepared anew."""


class UnusedTemplates:
    """Deletes what is left of earlier contents of one pool, and of pools that are gone.

    `now` gives the seconds since the epoch.
    """

    def __init__(self, calls: Ec2Calls, kube: Kube, *, cluster: str, pool: str, now: Callable[[], float]) -> None:
        self._calls = calls
        self._kube = kube
        self._cluster = cluster
        self._pool = pool
        self._now = now
        self._looked_s = float("-inf")

    def delete(self, *, needed: Collection[str]) -> bool:
        """Delete them all but those `needed`, and return True, unless this was done within the hour.

        What goes wrong is logged: templates cost nothing.
        """
        # A clock that was set back must not put it off for long.
        if abs(self._now() - self._looked_s) < LOOK_EVERY_S:
            return False
        self._looked_s = self._now()
        try:
            self._delete_all(needed)
        except (ModeError, ClusterError) as error:
            log.warning("launch templates that nobody needs are not deleted: %s", error)
        return True

    def _delete_all(self, needed: Collection[str]) -> None:
        old = [template for template in self._ours() if self._now() - template["CreateTime"].timestamp() >= KEEP_S]
        old = [template for template in old if template["LaunchTemplateId"] not in needed]
        if not old:
            return
        recorded = [str(batch["spec"]) for batch in self._kube.list(LAUNCH_BATCHES).items]
        pools = {pool["metadata"]["name"] for pool in self._kube.list(GPU_POOLS).items}
        for template in old:
            if self._is_unused(template, recorded, pools):
                self._delete_one(template["LaunchTemplateId"])

    def _is_unused(self, template: LaunchTemplateTypeDef, recorded: Collection[str], pools: Collection[str]) -> bool:
        template_id = template["LaunchTemplateId"]
        pool = tags_of(template).get(POOL_TAG, "")
        # Another pool that is there looks after its own.
        if pool != self._pool and pool in pools:
            return False
        return not any(template_id in text for text in recorded)

    def _ours(self) -> list[LaunchTemplateTypeDef]:
        filters: list[FilterTypeDef] = [{"Name": f"tag:{CLUSTER_TAG}", "Values": [self._cluster]}]

        def ask() -> list[LaunchTemplateTypeDef]:
            pages = self._calls.ec2.get_paginator("describe_launch_templates").paginate(Filters=filters)
            return [template for page in pages for template in page["LaunchTemplates"]]

        found = self._calls.read("DescribeLaunchTemplates", ask)
        # Filters take * and ? for wildcards, so a strange cluster name could match others.
        ours = [template for template in found if tags_of(template).get(CLUSTER_TAG) == self._cluster]
        return [template for template in ours if template["LaunchTemplateName"].startswith(PREFIX)]

    def _delete_one(self, template_id: str) -> None:
        self._calls.read("DeleteLaunchTemplate", lambda: self._calls.ec2.delete_launch_template(LaunchTemplateId=template_id))
        log.info("launch template %s, which nobody needs any more, was deleted", template_id)
