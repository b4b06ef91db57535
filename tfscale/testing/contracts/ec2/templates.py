"""Launch templates, images and the parameters that name them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from botocore.exceptions import ClientError

from tfscale.testing.contracts.ec2.world import HERE, SMALL, Workplace, code_of, fleet, ids_in, single
from tfscale.testing.fake_ec2 import Region

if TYPE_CHECKING:
    from types_boto3_ec2 import EC2Client

__all__ = ["TemplatesContract"]

_PATH = "/aws/service/eks/optimized-ami/1.34/amazon-linux-2023/x86_64/nvidia/recommended/image_id"


class TemplatesContract(Workplace):
    """CreateLaunchTemplate to DeleteLaunchTemplate, DescribeImages, GetParameter."""

    def test_a_template_is_made_once(self, cloud: Region, ec2: EC2Client) -> None:
        """Its name is taken then; the same token gives the same one; its time is the cloud's."""
        data = {"ImageId": "ami-00000000000000001", "UserData": "Z28="}
        one, two = (
            ec2.create_launch_template(LaunchTemplateName="made-once", LaunchTemplateData=data, ClientToken="lt-1")  # type: ignore[arg-type]  # plain
            for _ in range(2)
        )
        with pytest.raises(ClientError) as caught:
            ec2.create_launch_template(LaunchTemplateName="made-once", LaunchTemplateData=data)  # type: ignore[arg-type]  # plain
        (found,) = ec2.describe_launch_templates(LaunchTemplateNames=["made-once"])["LaunchTemplates"]
        (version,) = ec2.describe_launch_template_versions(LaunchTemplateName="made-once")["LaunchTemplateVersions"]

        assert one["LaunchTemplate"] == two["LaunchTemplate"] == found
        assert cloud.now_s == int(found["CreateTime"].timestamp())
        assert data == version["LaunchTemplateData"]
        assert code_of(caught) == ("InvalidLaunchTemplateName.AlreadyExistsException", 400)

    def test_a_fleet_uses_the_version_that_it_names(self, cloud: Region, ec2: EC2Client) -> None:
        """Or the default one. A version that is not there is refused."""
        name, images = "versions", [f"ami-0000000000000000{number}" for number in (1, 2)]
        ec2.create_launch_template(LaunchTemplateName=name, LaunchTemplateData={"ImageId": images[0]})
        ec2.create_launch_template_version(LaunchTemplateName=name, LaunchTemplateData={"ImageId": images[1]})

        def image_with(**version: str) -> str:
            template = {"LaunchTemplateName": name, **version}
            (one,) = ec2.run_instances(**single(cloud, LaunchTemplate=template))["Instances"]
            return one["ImageId"]

        assert [images[0], images[1], images[1]] == [image_with(), image_with(Version="2"), image_with(Version="$Latest")]
        with pytest.raises(ClientError) as caught:
            image_with(Version="3")
        assert code_of(caught) == ("InvalidLaunchTemplateId.VersionNotFound", 400)

    def test_a_template_may_go_before_the_launch(self, cloud: Region, ec2: EC2Client) -> None:
        """A fleet with its id is refused as a whole, and so is asking for it."""
        made = ec2.create_launch_template(LaunchTemplateName="short", LaunchTemplateData={"ImageId": "ami-00000000000000001"})
        template_id = made["LaunchTemplate"]["LaunchTemplateId"]
        ec2.delete_launch_template(LaunchTemplateId=template_id)
        wanted = fleet(cloud, (SMALL, HERE))
        wanted["LaunchTemplateConfigs"][0]["LaunchTemplateSpecification"] = {"LaunchTemplateId": template_id, "Version": "1"}
        for call in (
            lambda: ec2.create_fleet(**wanted),
            lambda: ec2.describe_launch_templates(LaunchTemplateIds=[template_id]),
            lambda: ec2.delete_launch_template(LaunchTemplateId=template_id),
        ):
            with pytest.raises(ClientError) as caught:
                call()
            assert code_of(caught) == ("InvalidLaunchTemplateId.NotFound", 400)

    def test_templates_are_found_by_tag(self, ec2: EC2Client) -> None:
        """Tags that they were made with, and those of later."""
        made = ec2.create_launch_template(
            LaunchTemplateName="with-tags",
            LaunchTemplateData={"ImageId": "ami-00000000000000001"},
            TagSpecifications=[{"ResourceType": "launch-template", "Tags": [{"Key": "owner", "Value": "us"}]}],
        )["LaunchTemplate"]
        ec2.create_tags(Resources=[made["LaunchTemplateId"]], Tags=[{"Key": "more", "Value": "1"}])
        found = ec2.describe_launch_templates(Filters=[{"Name": "tag:owner", "Values": ["us"]}])["LaunchTemplates"]

        assert [one["LaunchTemplateName"] for one in found] == ["with-tags"]
        assert {tag["Key"]: tag["Value"] for tag in found[0]["Tags"]} == {"owner": "us", "more": "1"}

    def test_a_launch_needs_an_image_and_a_type(self, ec2: EC2Client) -> None:
        """From the call or from its template."""
        for more in ({"InstanceType": SMALL}, {"ImageId": "ami-00000000000000001"}):
            with pytest.raises(ClientError) as caught:
                ec2.run_instances(MinCount=1, MaxCount=1, **more)  # type: ignore[arg-type]  # plain
            assert code_of(caught) == ("MissingParameter", 400)

    def test_images_are_found_by_owner_tag_and_architecture(self, cloud: Region, ec2: EC2Client) -> None:
        """With the time at which they were made, by which the newest is chosen."""
        old = cloud.add_image("ours-1", tags={"use": "gpu"})
        cloud.advance(cloud.now_s + 60)
        new = cloud.add_image("ours-2", tags={"use": "gpu"})
        cloud.add_image("ours-3", architecture="arm64", tags={"use": "gpu"})
        found = ec2.describe_images(
            Owners=["self"],
            Filters=[{"Name": "tag:use", "Values": ["gpu"]}, {"Name": "architecture", "Values": ["x86_64"]}],
        )["Images"]
        cloud.remove_image(old)

        assert [old, new] == [one["ImageId"] for one in sorted(found, key=lambda one: one["CreationDate"])]
        with pytest.raises(ClientError) as caught:
            ec2.describe_images(ImageIds=[old])
        assert code_of(caught) == ("InvalidAMIID.NotFound", 400)

    def test_parameters_name_images(self, cloud: Region, ec2: EC2Client) -> None:
        """The public ones are there; one can be set; any other is not found."""
        ssm = cloud.session.client("ssm")
        image = ssm.get_parameter(Name=_PATH)["Parameter"]["Value"]
        cloud.set_parameter("/ours/image", "ami-00000000000000007")

        assert [(one["Architecture"], one["ImageOwnerAlias"]) for one in ec2.describe_images(ImageIds=[image])["Images"]] == [
            ("x86_64", "amazon")
        ]
        assert ssm.get_parameter(Name="/ours/image")["Parameter"]["Value"] == "ami-00000000000000007"
        with pytest.raises(ClientError) as caught:
            ssm.get_parameter(Name="/ours/other")
        assert code_of(caught) == ("ParameterNotFound", 400)

    def test_a_fleet_of_a_template_with_a_type_needs_no_override(self, cloud: Region, ec2: EC2Client) -> None:
        """The template says all."""
        data = {"ImageId": "ami-00000000000000001", "InstanceType": SMALL}
        ec2.create_launch_template(LaunchTemplateName="whole", LaunchTemplateData=data)  # type: ignore[arg-type]  # plain
        wanted = fleet(cloud)
        wanted["LaunchTemplateConfigs"] = [{"LaunchTemplateSpecification": {"LaunchTemplateName": "whole"}}]

        assert len(ids_in({**ec2.create_fleet(**wanted)})) == 1
