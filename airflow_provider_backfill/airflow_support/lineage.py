"""
Report the lineage of a filled window: asset events of the target, and inputs and outputs for OpenLineage.

The OpenLineage provider is optional, so its modules are imported inside the function that needs them.
"""

import re
from collections.abc import Iterable
from datetime import datetime, timedelta
from math import ceil
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from airflow.sdk import Asset, AssetAlias, Context

from ..commands.session import Payload
from ..commands.status import WindowStatus
from ..core.instants import parse_instant
from ..core.names import show_table
from ..errors import RequestError
from .compat import airflow_is, alias_extra

if TYPE_CHECKING:
    from airflow.providers.openlineage.extractors import OperatorLineage


BACKFILLS = AssetAlias("clickhouse_backfill")
"""The alias for targets whose names are known only at run time."""


def target_asset(target: str) -> Asset:
    """
    Return the asset of the table ``database.table``, for schedules that continue from a backfilled window.

    Events of the asset carry the window in ``extra``: ``target``, ``from``, ``to``, ``rowsWritten``, ``planIds``.
    """
    database, _, table = target.partition(".")
    return Asset(name=target, uri=f"clickhouse://{database}/{table}")


def announce(context: Context, outlets: Iterable[Any], published: Payload, partition_key_format: str = "") -> None:
    """
    Add the window to the asset events that Airflow sends for the *outlets* of a successful task.

    Args:
        published: The window as the sensor returns it, which becomes the ``extra`` of the events.
        partition_key_format: The strftime format of partition keys; each partition in the window gets an event. Empty
            for a single event without a key. An alias always gets a single event.
    """
    for outlet in outlets:
        if isinstance(outlet, AssetAlias):
            context["outlet_events"][outlet].add(target_asset(published["target"]), extra=alias_extra(published))
        elif isinstance(outlet, Asset):
            context["outlet_events"][outlet].extra.update(published)
            if partition_key_format:
                window = parse_instant(published["from"]), parse_instant(published["to"])
                context["outlet_events"][outlet].add_partitions(partition_keys(*window, partition_key_format))


def partition_keys(start: datetime, end: datetime, key_format: str) -> list[str]:
    """
    Return the keys of all partitions that overlap ``[start, end)``, in time order.

    Args:
        key_format: The strftime format of a partition's start in UTC; not finer than hours.
    """
    first = start.replace(minute=0, second=0, microsecond=0)
    moments = (first + timedelta(hours=hours) for hours in range(ceil((end - first) / timedelta(hours=1))))
    return list(dict.fromkeys(moment.strftime(key_format) for moment in moments))


def check_partitions(key_format: str, outlets: Iterable[Any]) -> None:
    """
    Refuse a format of partition keys that cannot be used.

    Raises:
        RequestError: This Airflow has no partitioned assets; the format is finer than hours, or constant; or an outlet
            is an alias, whose events have no partitions.
    """
    if not airflow_is(3, 3):
        raise RequestError(
            "partition_key_format needs partitions that are known at run time, which Airflow has since 3.3.",
            hint="omit it, or use a later Airflow",
        )
    if any(isinstance(outlet, AssetAlias) for outlet in outlets):
        raise RequestError(
            "partition_key_format does not go with an asset alias, whose events have no partitions.",
            hint="name the target as a text, not as a template, or pass outlets=[target_asset('database.table')]",
        )
    if re.search(r"%[-#^_0]*[MSfXTscr]", key_format) or not re.search(r"%[-#^_0]*[a-zA-Z]", key_format):
        raise RequestError(
            f"partition_key_format is {key_format!r}.", hint="pass a strftime format of days or hours: '%Y-%m-%d'"
        )


def openlineage(result: WindowStatus) -> "OperatorLineage[Any, Any]":
    """Return an executed window's sources, target and number of written rows; requires the OpenLineage provider."""
    from airflow.providers.common.compat.openlineage.facet import (
        InputDataset,
        OutputDataset,
        OutputStatisticsOutputDatasetFacet,
    )
    from airflow.providers.openlineage.extractors import OperatorLineage

    # The namespace follows OpenLineage's naming rules; for an embedded engine, the host is empty.
    namespace = f"clickhouse://{urlsplit(result.environment).netloc}"
    rows = OutputStatisticsOutputDatasetFacet(rowCount=result.rows)
    return OperatorLineage(
        inputs=[InputDataset(namespace=namespace, name=source) for source in result.sources],
        outputs=[
            OutputDataset(namespace=namespace, name=show_table(result.target), outputFacets={"outputStatistics": rows}),
        ],
    )
