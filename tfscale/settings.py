"""Every setting of the command line, with unit and reason. Flags win over environment variables (``TFSCALE_...``).

Only the CLI reads this; the library takes plain values.
"""

from __future__ import annotations

from argparse import Action, RawDescriptionHelpFormatter
from collections.abc import Callable
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, AliasChoices, BaseModel, Field, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    CliImplicitFlag,
    CliPositionalArg,
    CliSubCommand,
    CliToggleFlag,
    SettingsConfigDict,
    SettingsError,
)

from tfscale.pool import Limits, Policy
from tfscale.quantity import time_s
from tfscale.spec import Usd

__all__ = ["Doctor", "HelpText", "IamPolicy", "Manifests", "Plan", "Reconcile", "Settings", "Simulate"]


class HelpText(RawDescriptionHelpFormatter):
    """Help as people read it: no default where there is none, and files are called so."""

    def _get_help_string(self, action: Action) -> str:
        return (action.help or "").removesuffix(" (default: (none))").removesuffix(" (default: [])")

    def _metavar_formatter(self, action: Action, default_metavar: str) -> Callable[[int], tuple[str, ...]]:
        if action.metavar == "list[str]":
            action.metavar = "FILE"
        return super()._metavar_formatter(action, default_metavar)


def _as_time(text: str | None) -> str | None:
    if text is not None:
        time_s(text)
    return text


class Reconcile(BaseModel):
    """Bring the cluster to what its pods ask for: place fractional GPU pods, buy the nodes they need, return idle ones."""

    local: Annotated[
        str | None, Field(description="scenario file to run on the simulated cluster and cloud; no account, no cluster")
    ] = None
    kubeconfig: Annotated[
        str | None, Field(description="kubeconfig file; default: $KUBECONFIG, ~/.kube/config, or the pod's service account")
    ] = None
    context: Annotated[str | None, Field(description="context of the kubeconfig; default: its current one")] = None
    once: Annotated[CliToggleFlag[bool], Field(description="one round, then end")] = False
    interval: Annotated[
        int | None, Field(ge=1, le=3600, description="seconds between rounds; default 10, which is what Karpenter polls too")
    ] = None
    until_idle: Annotated[CliToggleFlag[bool], Field(description="end when nothing is left to do and nothing is on its way")] = (
        False
    )
    dry_run: Annotated[CliToggleFlag[bool], Field(description="print the plan of one round and change nothing")] = False
    leader_elect: Annotated[
        CliImplicitFlag[bool],
        Field(description="of several processes on one cluster only one acts, by a Lease; --dry-run and --local need none"),
    ] = True
    lease_namespace: Annotated[
        str | None,
        Field(
            pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$",
            description="where the Lease is; default: the pod's own, else default",
        ),
    ] = None
    lease_name: Annotated[
        str,
        Field(
            pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$", description="processes with different Leases do not see each other"
        ),
    ] = "tfscale"
    output: Annotated[
        Literal["text", "json"],
        Field(validation_alias=AliasChoices("o", "output"), description="form of the result on standard output"),
    ] = "text"

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        given = {"--once": self.once, "--interval": self.interval, "--until-idle": self.until_idle}
        ways = [name for name, on in given.items() if on]
        if len(ways) > 1:
            raise ValueError(f"{' and '.join(ways)} exclude each other")
        if self.local is not None and (self.kubeconfig or self.context):
            raise ValueError("--local runs without a cluster; leave out --kubeconfig and --context")
        if self.local is not None and self.interval:
            raise ValueError("--local runs in simulated time; leave out --interval")
        return self


class Simulate(BaseModel):
    """Run a scenario on a simulated cluster and cloud: what each pool buys, what it costs and how full it is over time."""

    file: Annotated[CliPositionalArg[str], Field(description="scenario file; its load, its faults and its end")]
    seed: Annotated[
        int | None, Field(ge=0, lt=2**63, description="draws arrivals and faults differently; default: the scenario's seed")
    ] = None
    output: Annotated[
        Literal["text", "json"],
        Field(validation_alias=AliasChoices("o", "output"), description="form of the result on standard output"),
    ] = "text"


class Plan(BaseModel):
    """Print what would be done in a cluster, and why, from dumps of its objects alone. Exit code 10: there is something to do."""

    file: Annotated[
        list[str],
        Field(
            validation_alias=AliasChoices("f", "file"),
            description="what kubectl get pods,nodes,nodeclaims,nodepools -A -o json (or yaml) gives: file, directory or -",
        ),
    ] = []
    pool: Annotated[list[str], Field(description="file with GPUPools, beside those of the dump or instead of them")] = []
    now: Annotated[
        str | None,
        AfterValidator(_as_time),
        Field(description="time of the dump (RFC 3339); default: the latest that it mentions"),
    ] = None
    output: Annotated[
        Literal["text", "json"],
        Field(validation_alias=AliasChoices("o", "output"), description="form of the result on standard output"),
    ] = "text"

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not self.file:
            raise ValueError("-f is missing; want tfscale plan -f FILE")
        return self


class Manifests(BaseModel):
    """Print what a cluster needs before tfscale can work there: tfscale manifests crds | kubectl apply --server-side -f -."""

    what: Annotated[
        CliPositionalArg[Literal["crds"]], Field(description="crds: the definitions of GPUPool, NodeRequest and LaunchBatch")
    ]
    output: Annotated[
        Literal["yaml", "json"],
        Field(validation_alias=AliasChoices("o", "output"), description="form of the result on standard output"),
    ] = "yaml"


class Doctor(BaseModel):
    """Look for what would keep pools from buying, or nodes from joining, and say what to do. Exit code 1: something fails."""

    pools: Annotated[CliPositionalArg[list[str]], Field(description="names of GPUPools; default: all")] = []
    kubeconfig: Annotated[
        str | None, Field(description="kubeconfig file; default: $KUBECONFIG, ~/.kube/config, or the pod's service account")
    ] = None
    context: Annotated[str | None, Field(description="context of the kubeconfig; default: its current one")] = None
    output: Annotated[
        Literal["text", "json"],
        Field(validation_alias=AliasChoices("o", "output"), description="form of the result on standard output"),
    ] = "text"


class _OfNodes(BaseModel):
    nodes: Annotated[CliPositionalArg[list[str]], Field(min_length=1, description="names of nodes")]
    kubeconfig: Annotated[
        str | None, Field(description="kubeconfig file; default: $KUBECONFIG, ~/.kube/config, or the pod's service account")
    ] = None
    context: Annotated[str | None, Field(description="context of the kubeconfig; default: its current one")] = None
    dry_run: Annotated[CliImplicitFlag[bool], Field(description="say what would be done, and do nothing")] = False
    output: Annotated[
        Literal["text", "json"],
        Field(validation_alias=AliasChoices("o", "output"), description="form of the result on standard output"),
    ] = "text"


class Adopt(_OfNodes):
    """Take nodes that somebody else made into a pool: slices are placed on them, and they are never given back."""

    pool: Annotated[str, Field(min_length=1, description="name of the GPUPool")]


class HandBack(_OfNodes):
    """Empty adopted nodes of tfscale's pods, and leave them as they were before. Exit code 5: some are not empty yet."""

    wait: Annotated[int, Field(ge=0, le=86_400, description="seconds that pods may take to leave; 0: ask once")] = 300


class IamPolicy(BaseModel):
    """Print the least that the controller's role must be allowed, as an IAM policy."""

    mode: Annotated[str, Field(description="mode of the pools")] = "ec2"
    cluster: Annotated[str | None, Field(description="name of the cluster on machines' tags; default: --cluster-name")] = None
    region: Annotated[str, Field(pattern=r"^([a-z]+(-[a-z]+)+-[0-9]+)?$", description="the only region; default: any")] = ""
    account: Annotated[str, Field(pattern=r"^([0-9]{12})?$", description="the only account; default: any")] = ""
    partition: Annotated[Literal["aws", "aws-cn", "aws-us-gov"], Field(description="partition of all ARNs")] = "aws"
    node_role: Annotated[
        str,
        Field(
            pattern=r"^(arn:aws[a-z-]*:iam::[0-9]{12}:role/[!-~]+)?$",
            description="ARN of the role of nodes; default: none may be passed",
        ),
    ] = ""
    queue: Annotated[
        str,
        Field(
            pattern=r"^(arn:aws[a-z-]*:sqs:[a-z0-9-]+:[0-9]{12}:[!-~]+)?$",
            description="ARN of the interruption queue; default: none",
        ),
    ] = ""


class Settings(BaseSettings):
    """Share GPUs between models and buy only the nodes that are needed."""

    model_config = SettingsConfigDict(
        env_prefix="TFSCALE_",
        env_nested_delimiter="__",
        cli_prog_name="tfscale",
        cli_kebab_case=True,
        cli_hide_none_type=True,
        cli_use_class_docs_for_groups=True,
        cli_parse_none_str="(none)",
        cli_exit_on_error=True,
        extra="forbid",
    )

    cluster_name: Annotated[
        str,
        Field(
            pattern=r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,98}[A-Za-z0-9])?$",
            description="written on every machine as a tag; two clusters of one account need different names",
        ),
    ] = "default"
    annotation_prefix: Annotated[
        str, Field(min_length=1, description="prefix of TensorFusion's annotations, where it was installed with its own")
    ] = "tensor-fusion.ai"
    machine_lag: Annotated[
        int, Field(ge=0, le=3600, description="seconds that a new machine may be missing from the cloud's listing")
    ] = 60
    limit_nodes: Annotated[int | None, Field(ge=0, description="most nodes of all pools together, with those on their way")] = (
        None
    )
    limit_gpus: Annotated[int | None, Field(ge=0, description="most cards of them")] = None
    limit_usd_per_hour: Annotated[
        Usd | None, Field(description="most US dollars per hour for them; offers of unknown price cannot be bought under it")
    ] = None
    limit_in_flight: Annotated[int | None, Field(ge=0, description="most nodes that were bought and are not Ready yet")] = None
    limit_launches_per_minute: Annotated[int | None, Field(ge=0, description="most nodes that are bought within a minute")] = None
    stop_buying: Annotated[str, Field(description="why nothing is to be bought for any pool; empty: it is")] = ""
    terminate_share: Annotated[
        int, Field(ge=0, le=100, description="per cent of all nodes that may be given back at once because they are idle")
    ] = 50
    log_level: Annotated[Literal["debug", "info", "warning", "error"], Field(description="what goes to standard error")] = (
        "warning"
    )
    version: Annotated[CliToggleFlag[bool], Field(description="print the version and end")] = False
    reconcile: CliSubCommand[Reconcile]
    simulate: CliSubCommand[Simulate]
    plan: CliSubCommand[Plan]
    manifests: CliSubCommand[Manifests]
    iam_policy: CliSubCommand[IamPolicy]
    doctor: CliSubCommand[Doctor]
    adopt: CliSubCommand[Adopt]
    hand_back: CliSubCommand[HandBack]

    def policy(self) -> Policy:
        """Return the rules that hold for every pool."""
        return Policy(
            machine_lag_s=self.machine_lag,
            total=Limits(
                nodes=self.limit_nodes,
                gpus=self.limit_gpus,
                micro_usd=self.limit_usd_per_hour,
                in_flight=self.limit_in_flight,
                launches_per_minute=self.limit_launches_per_minute,
            ),
            stop_buying=self.stop_buying,
            terminate_share_pct=self.terminate_share,
        )


_SHORT = {"f": "file", "o": "output"}
_COMMANDS = ("reconcile", "simulate", "plan", "manifests", "iam_policy", "doctor", "adopt", "hand_back")


def flag_problems(error: ValidationError | SettingsError) -> list[str]:
    """Return what is wrong with flags, one line each."""
    if isinstance(error, SettingsError):
        # The value of a list looks like JSON and is none.
        return [str(error)]
    lines = []
    for item in error.errors(include_url=False):
        names = [str(part) for part in item["loc"] if part not in _COMMANDS]
        message = item["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
        if not names:
            lines.append(message)
            continue
        flag = ".".join(_SHORT.get(name, name) for name in names).replace("_", "-")
        lines.append(f"--{flag} is {item['input']!r}; want {message}")
    return lines
