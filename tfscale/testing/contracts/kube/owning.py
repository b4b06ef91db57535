"""What goes with its owners. A cluster's garbage collector works in the background, so these tests wait."""

from __future__ import annotations

import uuid

import pytest

from tfscale.errors import RefusedObjectError
from tfscale.kube.port import CONFIG_MAPS, NODES, Json
from tfscale.testing.contracts.kube.workplace import ELSEWHERE, HOLD, HOME, WIDGETS, Workplace

__all__ = ["OwningContract"]


class OwningContract:
    """Owner references and their collection."""

    def test_what_is_owned_goes_with_its_owner(self, world: Workplace) -> None:
        """Of a namespace by a widget in it, and so on down the line."""
        owner = world.widget()
        child = world.owned("child", world.reference(WIDGETS, owner))
        grandchild = world.owned("grandchild", world.reference(CONFIG_MAPS, child))

        world.kube.delete(WIDGETS, owner["metadata"]["name"], namespace=HOME)

        world.eventually(lambda: world.gone(CONFIG_MAPS, child), "the child is collected")
        world.eventually(lambda: world.gone(CONFIG_MAPS, grandchild), "the grandchild is collected")

    def test_a_cluster_scoped_owner_may_own_in_every_namespace(self, world: Workplace) -> None:
        """As a node does."""
        owner = world.node()
        owned = [world.owned("b", world.reference(NODES, owner), namespace=home) for home in (HOME, ELSEWHERE)]

        world.kube.delete(NODES, owner["metadata"]["name"])

        world.eventually(lambda: all(world.gone(CONFIG_MAPS, one) for one in owned), "both are collected")

    def test_the_last_of_several_owners_counts(self, world: Workplace) -> None:
        """Until then the references to those that are gone are removed."""
        owners = [world.widget("a"), world.widget("b")]
        refs = [world.reference(WIDGETS, owner) for owner in owners]
        owned = world.owned("c", *refs)

        world.kube.delete(WIDGETS, owners[0]["metadata"]["name"], namespace=HOME)

        world.eventually(lambda: world.references(owned) == refs[1:], "one reference is left")
        world.kube.delete(WIDGETS, owners[1]["metadata"]["name"], namespace=HOME)
        world.eventually(lambda: world.gone(CONFIG_MAPS, owned), "it is collected")

    def test_an_owner_that_is_only_marked_is_still_there(self, world: Workplace) -> None:
        """What it owns goes after its last finalizer."""
        owner = world.widget(metadata={"finalizers": [HOLD]})
        owned = world.owned("b", world.reference(WIDGETS, owner))
        after = world.canary()

        world.kube.delete(WIDGETS, owner["metadata"]["name"], namespace=HOME)
        world.eventually(lambda: world.gone(CONFIG_MAPS, after), "the collector came by")

        assert owned == world.now(CONFIG_MAPS, owned)
        world.kube.patch(WIDGETS, owner["metadata"]["name"], {"metadata": {"finalizers": None}}, namespace=HOME)
        world.eventually(lambda: world.gone(CONFIG_MAPS, owned), "it is collected")

    def test_what_is_owned_keeps_its_finalizers(self, world: Workplace) -> None:
        """It is marked, and goes with the last of them."""
        owner = world.widget()
        owned = world.owned("b", world.reference(WIDGETS, owner), finalizers=[HOLD])

        world.kube.delete(WIDGETS, owner["metadata"]["name"], namespace=HOME)

        world.eventually(lambda: "deletionTimestamp" in world.now(CONFIG_MAPS, owned)["metadata"], "it is marked")

    @pytest.mark.parametrize("field", ["uid", "name"])
    def test_what_belongs_to_nobody_is_collected(self, world: Workplace, field: str) -> None:
        """The owner of that name has another uid, or there is none of that name."""
        wrong = world.reference(WIDGETS, world.widget()) | {"uid": str(uuid.uuid4())}
        if field == "name":
            wrong["name"] = world.name("nobody")

        owned = world.owned("b", wrong)

        world.eventually(lambda: world.gone(CONFIG_MAPS, owned), "it is collected")

    def test_an_owner_in_another_namespace_is_none(self, world: Workplace) -> None:
        """A reference has no namespace: the owner is looked up beside the object."""
        owned = world.owned("b", world.reference(WIDGETS, world.widget()), namespace=ELSEWHERE)

        world.eventually(lambda: world.gone(CONFIG_MAPS, owned), "it is collected")

    def test_one_owner_that_lives_is_enough(self, world: Workplace) -> None:
        """The reference to the one that does not is removed."""
        lives = world.reference(WIDGETS, world.widget())
        owned = world.owned("b", lives, lives | {"name": world.name("nobody"), "uid": str(uuid.uuid4())})

        world.eventually(lambda: world.references(owned) == [lives], "one reference is left")

    def test_an_owner_of_which_nobody_can_say_is_left_alone(self, world: Workplace) -> None:
        """Its kind is not served, or it has a namespace where the object has none."""
        widget = world.reference(WIDGETS, world.widget())
        unserved = world.owned("b", {**widget, "apiVersion": "nobody.tfscale.io/v1", "kind": "Nothing"})
        outside = world.node("c", metadata={"ownerReferences": [widget]})
        after = world.canary()

        world.eventually(lambda: world.gone(CONFIG_MAPS, after), "the collector came by")

        assert unserved == world.now(CONFIG_MAPS, unserved)
        assert outside == world.now(NODES, outside)

    def test_an_owner_may_be_given_later(self, world: Workplace) -> None:
        """By a patch; it counts from then on."""
        owner, owned = world.widget(), world.owned("b")
        refs = {"metadata": {"ownerReferences": [world.reference(WIDGETS, owner)]}}
        world.kube.patch(CONFIG_MAPS, owned["metadata"]["name"], refs, namespace=HOME)

        world.kube.delete(WIDGETS, owner["metadata"]["name"], namespace=HOME)

        world.eventually(lambda: world.gone(CONFIG_MAPS, owned), "it is collected")

    @pytest.mark.parametrize("changes", [{"uid": ""}, {"apiVersion": ""}, {"name": ""}, {"kind": ""}], ids=str)
    def test_a_reference_that_names_nobody_is_refused(self, world: Workplace, changes: Json) -> None:
        """All four of its fields are needed."""
        with pytest.raises(RefusedObjectError):
            world.owned("b", {**world.reference(WIDGETS, world.widget()), **changes})

    def test_an_object_has_one_controller(self, world: Workplace) -> None:
        """Of its owners, one at most."""
        refs = [world.reference(WIDGETS, world.widget(suffix), controller=True) for suffix in "ab"]

        with pytest.raises(RefusedObjectError):
            world.owned("c", *refs)
