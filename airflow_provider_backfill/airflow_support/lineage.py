"""
What a filled window tells others: an event of the target's asset, and OpenLineage's inputs and outputs.

The provider of OpenLineage is optional: what needs it is imported where it calls us.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from airflow.sdk import Asset, AssetAlias, Context

from ..commands.session import Payload
from .compat import alias_extra

if TYPE_CHECKING:
    from airflow.providers.openlineage.extractors import OperatorLineage


BACKFILLS = AssetAlias("clickhouse_backfill")
"""Stands for the target of a backfill whose name is only known when it runs."""


def target_asset(target: str) -> Asset:
    """
    The asset of the table ``database.table``: what a DAG is scheduled by that goes on from a backfilled window.

    The events of it carry the window in ``extra``: ``target``, ``from``, ``to``, ``rowsWritten``, ``planIds``.
    """
    database, _, table = target.partition(".")
    return Asset(name=target, uri=f"clickhouse://{database}/{table}")


def announce(context: Context, outlets: Iterable[Any], published: Payload) -> None:
    """Put the window into the asset events that Airflow emits for a task's *outlets* when it succeeds."""
    for outlet in outlets:
        if isinstance(outlet, AssetAlias):
            context["outlet_events"][outlet].add(target_asset(published["target"]), extra=alias_extra(published))
        elif isinstance(outlet, Asset):
            context["outlet_events"][outlet].extra.update(published)


def openlineage(result: Payload) -> "OperatorLineage[Any, Any]":
    """Sources, target and rows of a window that a task has executed; for the OpenLineage provider, which calls it."""
    from airflow.providers.common.compat.openlineage.facet import (
        InputDataset,
        OutputDataset,
        OutputStatisticsOutputDatasetFacet,
    )
    from airflow.providers.openlineage.extractors import OperatorLineage

    # Named as OpenLineage's naming rules have it; an embedded engine has no host.
    namespace = f"clickhouse://{urlsplit(result['environment']).netloc}"
    rows = OutputStatisticsOutputDatasetFacet(rowCount=result["rowsWritten"])
    return OperatorLineage(
        inputs=[InputDataset(namespace=namespace, name=source) for source in result["sources"]],
        outputs=[
            OutputDataset(namespace=namespace, name=result["target"], outputFacets={"outputStatistics": rows}),
        ],
    )
