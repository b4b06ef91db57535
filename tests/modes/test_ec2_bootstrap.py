"""User data: what nodeadm, Bottlerocket and a script of the user's own read of it, and which options are refused."""

from __future__ import annotations

import email
import tomllib
from collections.abc import Mapping
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tests.modes.fleets import CERTIFICATES, CLUSTER, bootstrap
from tfscale.errors import BadInputError
from tfscale.modes.ec2_bootstrap import user_data
from tfscale.modes.ec2_bootstrap_options import Bootstrap
from tfscale.modes.ec2_options import options_of
from tfscale.pool import OfferFilter, Pool

NAME = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?", fullmatch=True)
VALUE = st.one_of(st.just(""), NAME, st.sampled_from(["true", "null", "1e3", "0x10", "on", "no", "2026-11-23"]))
KEY = st.one_of(NAME, NAME.map(lambda name: f"example.com/{name}"))
EFFECT = st.sampled_from(["NoSchedule", "PreferNoSchedule", "NoExecute"])
TAINTS = st.lists(st.fixed_dictionaries({"key": KEY, "value": VALUE, "effect": EFFECT}), max_size=4)
LABELS = st.dictionaries(KEY, VALUE, max_size=4)
FLAG = st.from_regex(r"--[a-z0-9-]{1,20}(=[!#%&()*+,./0-9:;<=>?@A-Z\[\]^_a-z{|}~-]{0,20})?", fullmatch=True)
OURS = {"tfscale.io/pool": "gpus", "karpenter.sh/capacity-type": "spot"}


def options_with(own: Mapping[str, Any]) -> Bootstrap:
    """Return the option as a pool's options are read."""
    pool = Pool(name="gpus", mode="ec2", options={"region": "us-east-1", "bootstrap": own}, wanted=OfferFilter())
    found = options_of(pool).bootstrap
    assert found is not None
    return found


def text_of(**changes: object) -> str:
    """Return the user data of a spot node."""
    return user_data(options_with(bootstrap(**changes)), pool="gpus", capacity_type="spot")


def node_config(text: str) -> dict[str, Any]:
    """Return what nodeadm finds: the one part of its type in a MIME message."""
    message = email.message_from_string(text)
    (part,) = [part for part in message.walk() if not part.is_multipart()]
    found: dict[str, Any] = yaml.safe_load(str(part.get_payload()))

    assert message.is_multipart()
    assert "application/node.eks.aws" == part.get_content_type()
    return found


def read_labels(flag: str) -> dict[str, str]:
    """Read labels as kubelet does."""
    pairs = [pair.partition("=") for pair in flag.removeprefix("--node-labels=").split(",")]
    return {key: value for key, _, value in pairs}


@given(
    labels=LABELS,
    taints=TAINTS,
    flags=st.lists(FLAG.filter(lambda flag: "taints" not in flag and "-pods" not in flag), max_size=3),
)
def test_nodeadm_reads_what_the_pool_says(labels: dict[str, str], taints: list[dict[str, str]], flags: list[str]) -> None:
    """Labels, taints and flags of any shape that is accepted come back as they were, and ours are among them."""
    flags = [flag for flag in flags if not flag.startswith("--node-labels")]
    config = node_config(text_of(kubelet={"labels": labels, "taints": taints, "flags": flags, "maxPods": 58}))
    kubelet = config["spec"]["kubelet"]

    assert labels | OURS == read_labels(kubelet["flags"][0])
    assert flags == kubelet["flags"][1:]
    assert 58 == kubelet["config"]["maxPods"]
    first, *others = kubelet["config"]["registerWithTaints"]
    assert {"key": "tfscale.io/unregistered", "effect": "NoExecute"} == first
    assert taints == [{"value": "", **taint} for taint in others]


@given(labels=LABELS, taints=TAINTS)
def test_bottlerocket_reads_what_the_pool_says(labels: dict[str, str], taints: list[dict[str, str]]) -> None:
    """The same in TOML, where a key may have several taints."""
    image = {"alias": "bottlerocket@latest"}
    settings = tomllib.loads(text_of(family="bottlerocket", ami=image, kubelet={"labels": labels, "taints": taints}))["settings"]
    kubernetes = settings["kubernetes"]
    listed = [f"{key}={entry}" for key, entries in kubernetes["node-taints"].items() for entry in entries]

    assert labels | OURS == kubernetes["node-labels"]
    expected = ["tfscale.io/unregistered=:NoExecute", *(f"{one['key']}={one['value']}:{one['effect']}" for one in taints)]
    assert sorted(expected) == sorted(listed)


def test_a_node_of_al2023_is_told_its_cluster() -> None:
    """Endpoint, certificates and the addresses of services, which nodeadm cannot look up without permissions."""
    config = node_config(text_of())

    assert ("node.eks.aws/v1alpha1", "NodeConfig") == (config["apiVersion"], config["kind"])
    expected = {
        "name": "prod",
        "apiServerEndpoint": CLUSTER["endpoint"],
        "certificateAuthority": CERTIFICATES,
        "cidr": "10.100.0.0/16",
    }
    assert expected == config["spec"]["cluster"]
    assert "maxPods" not in config["spec"]["kubelet"]["config"]


def test_a_node_of_bottlerocket_is_told_its_cluster_and_gives_out_cards() -> None:
    """The DNS service has the tenth address. A container may name its cards, which Bottlerocket forbids by default."""
    text = text_of(family="bottlerocket", ami={"alias": "bottlerocket@v1.40.0"}, kubelet={"maxPods": 58})
    settings = tomllib.loads(text)["settings"]
    kubernetes = {key: value for key, value in settings["kubernetes"].items() if not isinstance(value, dict)}

    expected = {
        "api-server": CLUSTER["endpoint"],
        "cluster-certificate": CERTIFICATES,
        "cluster-name": "prod",
        "cluster-dns-ip": "10.100.0.10",
        "max-pods": 58,
    }
    assert expected == kubernetes
    runtime = {"visible-devices-as-volume-mounts": True, "visible-devices-envvar-when-unprivileged": True}
    assert runtime == settings["nvidia-container-runtime"]
    plugin = {"device-id-strategy": "uuid", "device-list-strategy": "volume-mounts", "pass-device-specs": True}
    assert {"nvidia": plugin} == settings["kubelet-device-plugins"]


def test_services_may_have_ipv6_addresses() -> None:
    """The tenth of them is the DNS service's, too."""
    cluster = {**CLUSTER, "serviceCidr": "fd30:1c53:5f8a::/108"}
    text = text_of(family="bottlerocket", ami={"id": "ami-1"}, cluster=cluster)

    assert "fd30:1c53:5f8a::a" == tomllib.loads(text)["settings"]["kubernetes"]["cluster-dns-ip"]


def test_a_text_of_ones_own_is_filled_in() -> None:
    """Placeholders of ours have values; what a shell or a template of another kind would read stays as it is."""
    own = (
        "#!/bin/sh\njoin '{{clusterName}}' {{ clusterEndpoint }} $HOME ${X} {{ .Go }} {{}}\n"
        "--node-labels={{labels}} --register-with-taints={{taints}} --max-pods={{maxPods}} --cluster-dns={{clusterDns}}"
    )
    kubelet = {"labels": {"team": "speech"}, "taints": [{"key": "gpu", "value": "y", "effect": "NoSchedule"}], "maxPods": 9}

    expected = (
        f"#!/bin/sh\njoin 'prod' {CLUSTER['endpoint']} $HOME ${{X}} {{{{ .Go }}}} {{{{}}}}\n"
        "--node-labels=karpenter.sh/capacity-type=spot,team=speech,tfscale.io/pool=gpus "
        "--register-with-taints=tfscale.io/unregistered:NoExecute,gpu=y:NoSchedule --max-pods=9 --cluster-dns=10.100.0.10"
    )
    assert expected == text_of(family="custom", ami={"id": "ami-1"}, userData=own, kubelet=kubelet)


@given(filler=st.integers(16_250, 16_384))
def test_a_text_is_as_long_as_nodes_get_it(filler: int) -> None:
    """With labels in their place, and the longest of capacity types; not as the pool has written it."""
    labels = "karpenter.sh/capacity-type=on-demand,tfscale.io/pool=gpus"
    own = {**CUSTOM, "userData": "{{labels}}" + "x" * filler}

    if len(labels) + filler <= 16_384:
        assert len(labels) - len("on-demand") + len("spot") + filler == len(text_of(**own))
    else:
        with pytest.raises(BadInputError, match=rf"is '{len(labels) + filler} bytes of user data'; want at most 16384"):
            text_of(**own)


CUSTOM: dict[str, object] = {"family": "custom", "ami": {"id": "ami-1"}, "userData": "{{labels}}"}


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"family": "al2"}, "spec.options.bootstrap.family is 'al2'; want 'al2023', 'bottlerocket' or 'custom'"),
        ({"famly": "al2023"}, "a key of spec.options.bootstrap is 'famly'; want family?"),
        ({"ami": {}}, "want one of id, ssmParameter, alias and tags"),
        ({"ami": {"id": "ami-1", "alias": "al2023@latest"}}, "want one of id, ssmParameter, alias and tags"),
        (
            {"ami": {"alias": "al2023"}},
            "spec.options.bootstrap.ami.alias is 'al2023'; want al2023@latest, bottlerocket@latest, or",
        ),
        ({"ami": {"alias": "bottlerocket@latest"}}, "ami.alias is 'bottlerocket@latest'; want an image of the family al2023"),
        ({"ami": {"id": "img-1"}}, "ami.id is 'img-1'; want an id such as ami-0123456789abcdef0"),
        ({"instanceProfile": "a/b"}, "instanceProfile is 'a/b'; want the name or ARN of an instance profile"),
        ({"securityGroupIds": ["default"]}, "securityGroupIds[0] is 'default'; want an id such as sg-0123456789abcdef0"),
        ({"cluster": {**CLUSTER, "endpoint": "http://x"}}, "cluster.endpoint is 'http://x'; want the URL of the API server"),
        ({"cluster": {**CLUSTER, "certificateAuthority": "x"}}, "cluster.certificateAuthority is 'x'; want certificates in PEM"),
        (
            {"cluster": {**CLUSTER, "serviceCidr": "10.0.0.1/16"}},
            "cluster.serviceCidr is '10.0.0.1/16'; want the addresses of serv",
        ),
        (
            {"cluster": {**CLUSTER, "version": "1.33.1"}},
            "cluster.version is '1.33.1'; want a version of Kubernetes such as '1.33'",
        ),
        (
            {"cluster": {key: value for key, value in CLUSTER.items() if key != "version"}},
            "spec.options.bootstrap.cluster.version is ''; want the version of Kubernetes",
        ),
        ({"cluster": None}, "spec.options.bootstrap.cluster is ''; want the cluster that nodes of the family al2023 join"),
        ({"kubelet": {"maxPods": 0}}, "kubelet.maxPods is '0'; want a number from 1 to 1000"),
        ({"kubelet": {"labels": {"kubernetes.io/role": "x"}}}, "is 'kubernetes.io/role'; want a label that a kubelet may set"),
        ({"kubelet": {"labels": {"tfscale.io/pool": "x"}}}, "is 'tfscale.io/pool'; want a key of your own"),
        ({"kubelet": {"labels": {"karpenter.sh/nodepool": "x"}}}, "is 'karpenter.sh/nodepool'; want a key of your own"),
        ({"kubelet": {"labels": {"a": "b,c=d"}}}, "kubelet.labels.a is 'b,c=d'; want a label value"),
        ({"kubelet": {"taints": [{"key": "a", "effect": "No"}]}}, "taints[0].effect is 'No'; want 'NoSchedule'"),
        ({"kubelet": {"flags": ["--v=2 --x"]}}, "flags[0] is '--v=2 --x'; want a flag such as --v=2, without spaces"),
        ({"kubelet": {"flags": ["--max-pods=3"]}}, "want labels, taints and maxPods in fields of their own, not --max-pods"),
        ({"volume": {"size": "100"}}, "volume.size is '100'; want whole GiB from 1Gi to 64Ti, such as 100Gi"),
        ({"volume": {"type": "io2"}}, "want iops for a volume of type io2"),
        ({"userData": "x"}, "userData is 'x'; want none for the family al2023"),
        ({**CUSTOM, "userData": None}, "userData is ''; want the user data of the family custom"),
        ({**CUSTOM, "userData": "{{lables}}"}, "userData is '{{lables}}'; want labels?"),
        ({**CUSTOM, "userData": "x"}, "userData is 'x'; want {{labels}} in it"),
        ({**CUSTOM, "userData": "{{labels}}" * 500}, "userData is '28500 bytes of user data'; want at most 16384"),
        (
            {"kubelet": {"labels": {f"label-{number}": "x" * 60 for number in range(300)}}},
            "bytes of user data'; want at most 16384",
        ),
        ({**CUSTOM, "kubelet": {"flags": ["--v=2"]}}, "kubelet.flags is '--v=2'; want none for the family custom"),
        (
            {**CUSTOM, "userData": "{{labels}} {{clusterName}}", "cluster": None},
            "userData is '{{clusterName}}'; want a value of it: spec.options.bootstrap.cluster",
        ),
    ],
)
def test_a_bad_bootstrap_is_one_clear_line(changes: dict[str, object], line: str) -> None:
    """It names the pool, the field, its value and what was wanted."""
    own = {key: value for key, value in bootstrap(**changes).items() if value is not None}
    if "famly" in own:
        del own["family"]

    with pytest.raises(BadInputError) as caught:
        options_with(own)
    assert line in str(caught.value)
    assert all(str(problem).startswith("gpupool gpus: ") for problem in caught.value.problems)


def test_templates_are_either_given_or_made() -> None:
    """Both are a contradiction, and so is neither."""
    both = {"region": "us-east-1", "bootstrap": bootstrap(), "launchTemplate": {"name": "gpu"}}

    with pytest.raises(BadInputError, match=r"spec\.options\.bootstrap is 'beside launchTemplate'; want one of the two"):
        options_of(Pool(name="gpus", mode="ec2", options=both))
    with pytest.raises(BadInputError, match=r"spec\.options\.launchTemplate is ''; want a value, which is required where there"):
        options_of(Pool(name="gpus", mode="ec2", options={"region": "us-east-1"}))
