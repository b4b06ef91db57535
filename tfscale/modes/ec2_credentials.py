"""Who calls: boto3's chain of credentials as it is (IRSA and EKS Pod Identity are part of it), or a role assumed by that."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import cache, partial
from typing import Any

import boto3
import botocore.session
from botocore.config import Config
from botocore.credentials import AssumeRoleCredentialFetcher, DeferredRefreshableCredentials
from botocore.exceptions import NoCredentialsError
from botocore.loaders import Loader

__all__ = ["CONFIG", "as_role", "own_session"]

# botocore would repeat a launch by itself, InsufficientInstanceCapacity included (it is an HTTP 500): one attempt only.
# A call may take 30 s at most, so that with RETRY_WITHIN_S no read takes longer than a minute.
CONFIG = Config(connect_timeout=5, read_timeout=25, retries={"total_max_attempts": 1, "mode": "standard"})
"""For every client, those with which botocore fetches credentials included."""


def own_session() -> boto3.Session:
    """Return a session with the credentials of this process, which it finds when they are first needed.

    Each one reads them anew: a file that was put right counts.
    """
    core = botocore.session.Session()
    core.register_component("data_loader", _loader())
    core.set_default_client_config(CONFIG)
    return boto3.Session(botocore_session=core)


def as_role(source: boto3.Session, role: Mapping[str, str], region: str) -> boto3.Session:
    """Return a session whose calls are made in a role that `source` assumes when it is first needed, and again in time.

    `role` are the parameters of an AssumeRole.
    """
    # The emitter brings what others hooked into the session, and botocore's own handlers.
    events: Any = source.events
    core = botocore.session.Session(event_hooks=copy.copy(events), include_builtin_handlers=False)
    core.register_component("data_loader", _loader())
    core.register_component("credential_provider", _Assumed(source, role, region))
    return boto3.Session(botocore_session=core)


class _Assumed:
    """A chain of credentials with one link: the role."""

    def __init__(self, source: boto3.Session, role: Mapping[str, str], region: str) -> None:
        self._source = source
        self._role = dict(role)
        self._sts = partial(source.client, region_name=region, config=CONFIG)

    def load_credentials(self) -> DeferredRefreshableCredentials:
        return DeferredRefreshableCredentials(self._fetch, "assume-role")

    def _fetch(self) -> dict[str, Any]:
        credentials: Any = self._source.get_credentials()
        if credentials is None:
            raise NoCredentialsError
        sts: Any = self._sts
        more = {name: self._role[name] for name in self._role if name != "RoleArn"}
        # Made anew each time: it would remember what it fetched, and so do the credentials.
        fetched: dict[str, Any] = AssumeRoleCredentialFetcher(
            sts, credentials, self._role["RoleArn"], extra_args=more
        ).fetch_credentials()
        return fetched


@cache
def _loader() -> Loader:
    """Return one loader of API descriptions for all sessions: reading EC2's takes most of a second."""
    return Loader()
