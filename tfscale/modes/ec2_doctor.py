"""What would keep a pool from buying on EC2, or its nodes from joining: looked at before it happens. Nothing is changed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import yaml
from botocore.exceptions import ClientError

from tfscale.errors import ClusterError, CredentialsError, ModeError, NotFoundError, Problem
from tfscale.finding import Finding, Verdict, of_check
from tfscale.kube.port import CONFIG_MAPS, Kube
from tfscale.model import Offer
from tfscale.modes.ec2_calls import Ec2Calls, code_of
from tfscale.modes.ec2_catalogue import Facts
from tfscale.modes.ec2_dry_runs import dry_run, missing_permission
from tfscale.modes.ec2_fleet import fleet_parameters, tag_specifications
from tfscale.modes.ec2_images import Images
from tfscale.modes.ec2_options import Ec2Options
from tfscale.modes.ec2_queue_doctor import queue_findings
from tfscale.modes.ec2_quotas import quotas_of
from tfscale.modes.ec2_reservations import Reservations
from tfscale.modes.ec2_run import run_parameters
from tfscale.modes.ec2_templates import ARCH, TemplateSource, template_data
from tfscale.pool import Pool

__all__ = ["Doctor"]

_FEW_ADDRESSES = 16
_POLICY = "tfscale iam-policy --mode ec2 prints the policy"


@dataclass(frozen=True, slots=True, kw_only=True)
class Doctor:
    """One pool, and all that its launches are made of."""

    pool: Pool
    options: Ec2Options
    calls: Ec2Calls
    kube: Kube
    cluster: str
    tags: Mapping[str, str]
    """Those of a machine."""
    templates: TemplateSource
    reservations: Reservations
    check: Callable[[], Sequence[Problem]]
    offers: Callable[[], Sequence[Offer]]
    sold: Callable[[], Iterable[tuple[Facts, str]]]
    machines: Callable[[], Sequence[str]]
    """Ids of those that are there."""

    def findings(self) -> Iterator[Finding]:
        """Yield what was found. Without credentials nothing else is looked at."""
        caller = self._caller()
        yield caller
        if caller.verdict == "fail":
            return
        checks: Sequence[tuple[str, Callable[[], Iterable[Finding]]]] = (
            ("options", self._options),
            ("launch", self._launches),
            ("launch template", self._template),
            ("terminate", self._terminations),
            ("image", self._images),
            ("instance profile", self._profile),
            ("node access", self._node_access),
            ("subnets", self._subnets),
            ("quota", self._quotas),
            ("queue", self._queue),
        )
        for check, look in checks:
            yield from self._looked(check, look)

    def _looked(self, check: str, look: Callable[[], Iterable[Finding]]) -> Iterator[Finding]:
        try:
            yield from look()
        except (ModeError, ClusterError) as error:
            permission = missing_permission(self.calls, error)
            # What only the doctor looks at need not be allowed.
            verdict: Verdict = "fail" if check == "options" else "warn"
            yield self._found(verdict, check, f"could not be checked: {error}", _allow(permission) if permission else "")

    def _caller(self) -> Finding:
        sts = self.calls.client("sts")
        try:
            arn = self.calls.read("GetCallerIdentity", sts.get_caller_identity)["Arn"]
        except CredentialsError as error:
            return self._found("fail", "credentials", str(error), "see which credentials this process has, and since when")
        except ModeError as error:
            # STS may be out of reach, or silent, where EC2 is not.
            return self._found("warn", "credentials", f"could not be checked: {error}")
        return self._found("ok", "credentials", f"calls are made as {arn}")

    def _options(self) -> Iterable[Finding]:
        return of_check(self.pool.name, "ec2", self.check())

    def _launches(self) -> Iterator[Finding]:
        offers = self.offers()
        for kind in dict.fromkeys(offer.capacity_type for offer in offers):
            yield from self._launch(next(one for one in offers if one.capacity_type == kind))
        if not offers:
            yield self._found("warn", "launch", "could not be checked: there is no offer", "see what the options say")

    def _launch(self, offer: Offer) -> Iterator[Finding]:
        what, ec2, template = f"launch {offer.id}", self.calls.ec2, self.templates.find(offer)
        if template and not offer.reservation:
            fleet: Any = fleet_parameters([(template, [offer])], [offer], count=1, tags=self.tags, token_of=["doctor"])
            yield self._dry(what, "CreateFleet", partial(ec2.create_fleet, **fleet, DryRun=True))
        elif not offer.reservation:
            # A template that is not there has no tags, so EC2 would deny its use to whoever may only use ours.
            yield self._found("warn", what, "CreateFleet could not be checked: tfscale has made no launch template yet")
        alone: Any = self._alone(offer, template)
        yield self._dry(what, "RunInstances", partial(ec2.run_instances, **alone, DryRun=True))

    def _alone(self, offer: Offer, template: Mapping[str, str] | None) -> dict[str, Any]:
        """Return the parameters of a RunInstances: as a launch into the reservation has them, or what a fleet would do."""
        source: Mapping[str, Any] = {"LaunchTemplate": template} if template else self._data(offer)
        if offer.reservation:
            block = self.reservations.is_block(offer.reservation)
            run = run_parameters(offer, count=1, template={}, block=block, tags=self.tags, token_of=["doctor"])
            return {**{key: run[key] for key in run if key != "LaunchTemplate"}, **source}
        return {
            "InstanceType": offer.instance_type,
            "MinCount": 1,
            "MaxCount": 1,
            "TagSpecifications": tag_specifications(self.tags, "instance", "volume"),
            **({"SubnetId": offer.subnets[0]} if offer.subnets else {}),
            **source,
        }

    def _data(self, offer: Offer) -> Mapping[str, Any]:
        """Return what a template of ours would say, but for the user data, which botocore would encode once more."""
        bootstrap = self.options.bootstrap
        assert bootstrap is not None  # noqa: S101 - the options are refused otherwise
        image = Images(self.calls, bootstrap, clock=lambda: 0).find(offer.labels[ARCH])
        if image is None:
            raise ModeError(f"there is no image for {offer.labels[ARCH]}")
        data = template_data(bootstrap, image, pool=self.pool.name, capacity_type=offer.capacity_type)
        return {key: data[key] for key in data if key != "UserData"}

    def _template(self) -> Iterator[Finding]:
        offer = next(iter(self.offers()), None)
        if self.options.bootstrap is None or offer is None:
            return
        tags = [{"Key": key, "Value": self.tags[key]} for key in sorted(self.tags)]
        made: Any = {
            "LaunchTemplateName": f"tfscale-doctor-{self.pool.name}",
            "LaunchTemplateData": self._data(offer),
            "TagSpecifications": [{"ResourceType": "launch-template", "Tags": tags}],
        }
        make = partial(self.calls.ec2.create_launch_template, **made, DryRun=True)
        yield self._dry("launch template", "CreateLaunchTemplate", make)

    def _terminations(self) -> Iterator[Finding]:
        ids = [*self.machines()][:1]
        if not ids:
            yield self._found("warn", "terminate", "could not be checked: the pool has no machine yet")
            return
        yield self._dry(
            "terminate", "TerminateInstances", partial(self.calls.ec2.terminate_instances, InstanceIds=ids, DryRun=True)
        )

    def _dry(self, check: str, action: str, call: Callable[[], object]) -> Finding:
        refused = dry_run(self.calls, action, call)
        if refused is None:
            return self._found("ok", check, f"{action} would be made")
        fix = _allow(refused.permission) if refused.permission else "see the pool's options"
        return self._found("fail", check, refused.text, fix)

    def _images(self) -> Iterator[Finding]:
        bootstrap = self.options.bootstrap
        if bootstrap is None:
            return
        images = Images(self.calls, bootstrap, clock=lambda: 0)
        for arch in sorted({facts.arch for facts, _ in self.sold()}):
            image = images.find(arch)
            if image:
                yield self._found("ok", "image", f"{image.id} boots on {arch}")
            else:
                yield self._found(
                    "warn", "image", f"none boots on {arch}: such types are not bought", "name one in bootstrap.ami"
                )

    def _profile(self) -> Iterator[Finding]:
        if self.options.bootstrap is None:
            return
        name = self.options.bootstrap.instance_profile.rpartition("/")[2]
        try:
            role = self._role_of(name)
        except ModeError as error:
            if not _is(error, "NoSuchEntity"):
                raise
            yield self._found("fail", "instance profile", f"there is no {name}", "make it, with the role of your nodes")
            return
        if role:
            yield self._found("ok", "instance profile", f"{name} has the role {role}")
        else:
            yield self._found("fail", "instance profile", f"{name} has no role", "add the role of your nodes to it")

    def _role_of(self, profile: str) -> str:
        iam = self.calls.client("iam")
        reply = self.calls.read("GetInstanceProfile", lambda: iam.get_instance_profile(InstanceProfileName=profile))
        return next((str(role["Arn"]) for role in reply["InstanceProfile"]["Roles"]), "")

    def _node_access(self) -> Iterator[Finding]:
        bootstrap = self.options.bootstrap
        if bootstrap is None or bootstrap.cluster is None:
            return
        role, cluster = self._role_of(bootstrap.instance_profile.rpartition("/")[2]), bootstrap.cluster.name
        if not role:
            return
        said = self._entry(cluster, role)
        if said.verdict != "ok" and self._is_mapped(role):
            said = self._found("ok", "node access", f"{role} is in the ConfigMap aws-auth")
        yield said

    def _entry(self, cluster: str, role: str) -> Finding:
        eks = self.calls.client("eks")
        try:
            reply = self.calls.read(
                "DescribeAccessEntry", lambda: eks.describe_access_entry(clusterName=cluster, principalArn=role)
            )
        except ModeError as error:
            if not _is(error, "ResourceNotFoundException"):
                return self._found("warn", "node access", f"could not be checked: {error}")
            fix = f"aws eks create-access-entry --cluster-name {cluster} --principal-arn {role} --type EC2_LINUX"
            return self._found("fail", "node access", f"{role} may not join {cluster}", fix)
        kind = reply["accessEntry"].get("type", "")
        if kind.startswith("EC2"):
            return self._found("ok", "node access", f"{role} may join {cluster} ({kind})")
        fix = "make the entry anew with the type EC2_LINUX"
        return self._found("warn", "node access", f"{role} has an access entry of type {kind}, which nodes do not join by", fix)

    def _is_mapped(self, role: str) -> bool:
        try:
            data = self.kube.get(CONFIG_MAPS, "aws-auth", namespace="kube-system").get("data") or {}
            mapped = yaml.safe_load(data.get("mapRoles", "")) or []
            return any(entry.get("rolearn") in (role, _without_path(role)) for entry in mapped)
        except (NotFoundError, yaml.YAMLError, AttributeError, TypeError):
            return False

    def _subnets(self) -> Iterator[Finding]:
        wanted = self.options.subnet_ids
        if not wanted:
            yield self._found("ok", "subnets", "left to EC2 and the launch template")
            return
        ec2 = self.calls.ec2
        found = self.calls.read(
            "DescribeSubnets", lambda: ec2.describe_subnets(Filters=[{"Name": "subnet-id", "Values": wanted}])["Subnets"]
        )
        free = {subnet["SubnetId"]: (subnet["AvailabilityZone"], subnet["AvailableIpAddressCount"]) for subnet in found}
        for one in wanted:
            yield self._subnet(one, *free.get(one, ("", 0)))

    def _subnet(self, subnet: str, zone: str, free: int) -> Finding:
        if not zone:
            return self._found("fail", "subnets", f"{subnet} is not in {self.options.region}", "correct spec.options.subnetIds")
        says = f"{subnet} in {zone} has {free} free addresses"
        if free >= _FEW_ADDRESSES:
            return self._found("ok", "subnets", says)
        return self._found("warn" if free else "fail", "subnets", says, "add a larger subnet to spec.options.subnetIds")

    def _quotas(self) -> Iterator[Finding]:
        for quota, types in quotas_of((facts for facts, _ in self.sold()), self.pool.wanted.capacity_types).items():
            least = min(facts.cpu_milli // 1_000 for facts in types)
            yield from self._looked("quota", partial(self._quota, quota.code, quota.name, least))

    def _quota(self, code: str, name: str, least: int) -> Iterator[Finding]:
        quotas = self.calls.client("service-quotas")
        reply = self.calls.read("GetServiceQuota", lambda: quotas.get_service_quota(ServiceCode="ec2", QuotaCode=code))
        vcpus = int(reply["Quota"]["Value"])
        says = f"{name}: {vcpus} vCPUs, of which the smallest type takes {least}"
        if vcpus >= least:
            yield self._found("ok", "quota", says)
        else:
            yield self._found("fail", "quota", says, f"ask for more: Service Quotas, EC2, {code}")

    def _queue(self) -> Iterator[Finding]:
        name = self.options.interruption_queue
        if name is None:
            fix = "name a queue in spec.options.interruptionQueue (docs/interruptions.md)"
            spot = "spot" in self.pool.wanted.capacity_types
            yield self._found("warn" if spot else "ok", "queue", "none: warnings of EC2 are not heard", fix if spot else "")
            return
        for verdict, says, fix in queue_findings(self.calls, name, cluster=self.cluster):
            yield self._found(verdict, "queue", says, fix)

    def _found(self, verdict: Verdict, check: str, says: str, fix: str = "") -> Finding:
        return Finding(pool=self.pool.name, check=check, verdict=verdict, says=says, fix=fix)


def _allow(permission: str) -> str:
    return f"allow {permission}: {_POLICY}"


def _without_path(role: str) -> str:
    """Return the ARN of a role as the ConfigMap has it, which knows no paths."""
    account, _, name = role.partition(":role/")
    return f"{account}:role/{name.rpartition('/')[2]}"


def _is(error: ModeError, code: str) -> bool:
    return isinstance(error.__cause__, ClientError) and code_of(error.__cause__).startswith(code)
