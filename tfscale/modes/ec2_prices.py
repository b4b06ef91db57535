"""What instance types cost: the public price list for on-demand, the last market price for spot, a pool's own prices first."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Generic, TypeVar

from tfscale.errors import ModeError
from tfscale.modes.ec2_calls import Ec2Calls
from tfscale.quantity import micro_usd

if TYPE_CHECKING:
    from types_boto3_pricing.type_defs import FilterTypeDef

__all__ = ["Prices", "Remembered"]

log = logging.getLogger(__name__)
T = TypeVar("T")
Key = TypeVar("Key")

REMEMBER_S = 12 * 3_600
"""How long types, zones and prices are kept. They change rarely; Karpenter asks for prices every 12 h too."""
ASK_AGAIN_S = 300
"""How long a price feed that gave no answer is left alone."""


class Remembered(Generic[T]):
    """A value that is made again when it is too old. `clock` gives seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._until_s = float("-inf")
        self._value: T

    def get(self, make: Callable[[], tuple[T, int]]) -> T:
        """Return the value; `make` gives a new one and for how many seconds it is good."""
        if self._clock() >= self._until_s:
            self._value, good_for_s = make()
            self._until_s = self._clock() + good_for_s
        return self._value

    def forget(self) -> None:
        """Make the value again when it is next asked for."""
        self._until_s = float("-inf")


class Prices:
    """Prices of one region in micro-USD per hour. `own` is by type and beats the price list."""

    def __init__(self, calls: Ec2Calls, *, region: str, own: Mapping[str, int], clock: Callable[[], float]) -> None:
        self._calls = calls
        self._region = region
        self._own = own
        self._on_demand: Remembered[Mapping[str, int]] = Remembered(clock)
        self._spot: Remembered[Mapping[tuple[str, str], int]] = Remembered(clock)
        self._told: dict[str, str] = {}
        """Why prices are unknown, as it was logged."""

    def on_demand(self, types: Iterable[str]) -> Mapping[str, int]:
        """Return what is known, by type. A type without a price is absent."""
        names = sorted(set(types) - set(self._own))
        listed = self._on_demand.get(lambda: self._or_nothing("on-demand prices", lambda: self._ask_on_demand(names)))
        return {**listed, **self._own}

    def spot(self, types: Iterable[str]) -> Mapping[tuple[str, str], int]:
        """Return what is known, by type and zone."""
        names = sorted(set(types))
        return self._spot.get(lambda: self._or_nothing("spot prices", lambda: self._ask_spot(names)))

    def _or_nothing(self, what: str, ask: Callable[[], Mapping[Key, int]]) -> tuple[Mapping[Key, int], int]:
        """Return the prices, or none where the feed gives no answer: an unknown price is not free, but it can be bought."""
        try:
            found = ask()
        except (ModeError, ValueError, LookupError, TypeError) as error:
            if self._told.get(what) != str(error):
                log.warning("%s are unknown, and asked for every %d s: %s", what, ASK_AGAIN_S, error)
            self._told[what] = str(error)
            return {}, ASK_AGAIN_S
        self._told.pop(what, None)
        return found, REMEMBER_S

    def _ask_on_demand(self, types: Sequence[str]) -> dict[str, int]:
        found = {name: _price_in(self._calls.read("GetProducts", partial(self._products, name))) for name in types}
        unknown = sorted(name for name, price in found.items() if price is None)
        if unknown:
            log.info("the price list knows no price of %s", ", ".join(unknown))
        return {name: price for name, price in found.items() if price is not None}

    def _products(self, name: str) -> list[str]:
        terms = {
            "instanceType": name,
            "regionCode": self._region,
            "operatingSystem": "Linux",
            "preInstalledSw": "NA",
            "tenancy": "Shared",
            "capacitystatus": "Used",
        }
        filters: list[FilterTypeDef] = [{"Type": "TERM_MATCH", "Field": key, "Value": terms[key]} for key in terms]
        pages = self._calls.pricing.get_paginator("get_products").paginate(ServiceCode="AmazonEC2", Filters=filters)
        return [product for page in pages for product in page["PriceList"]]

    def _ask_spot(self, types: Sequence[str]) -> dict[tuple[str, str], int]:
        def ask() -> dict[tuple[str, str], int]:
            # From now on: the prices that hold now, one for each type and zone.
            pages = self._calls.ec2.get_paginator("describe_spot_price_history").paginate(
                Filters=[{"Name": "instance-type", "Values": types}],
                ProductDescriptions=["Linux/UNIX"],
                StartTime=datetime.now(UTC),
            )
            entries = sorted(
                (entry for page in pages for entry in page["SpotPriceHistory"]), key=lambda entry: entry["Timestamp"]
            )
            return {(entry["InstanceType"], entry["AvailabilityZone"]): micro_usd(entry["SpotPrice"]) for entry in entries}

        return {key: price for key, price in self._calls.read("DescribeSpotPriceHistory", ask).items() if price}


def _price_in(products: Iterable[str]) -> int | None:
    """Return the highest hourly price in USD of some products; a product that costs nothing is no price."""
    prices = [
        micro_usd(dimension["pricePerUnit"]["USD"])
        for product in products
        for term in json.loads(product)["terms"].get("OnDemand", {}).values()
        for dimension in term["priceDimensions"].values()
        if dimension["unit"] == "Hrs" and "USD" in dimension["pricePerUnit"]
    ]
    return max(prices, default=0) or None
