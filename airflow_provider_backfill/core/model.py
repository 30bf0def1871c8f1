"""
Define the shared parts of stored values: format number, JSON types and base model.

Python names are snake_case; JSON keys are camelCase.
"""

from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer, PlainValidator
from pydantic.alias_generators import to_camel

from ..errors import RequestError
from .instants import from_ms, parse_instant, render_instant, to_ms
from .names import parse_table, show_table
from .tables import TableName

FORMAT = 2
"""The format number in every state file. Other versions of the product may write other numbers."""


def _instant(value: object) -> object:
    """
    Return the datetime of a stored text; truncate a given datetime to whole milliseconds, as a file stores it.

    Other values are returned unchanged; pydantic judges them.

    Raises:
        ValueError: The text is not an instant.
        TypeError: The datetime is naive.
    """
    if isinstance(value, str):
        try:
            # For the product's own format, fromisoformat is ten times as fast as parse_instant.
            if len(value) == 24 and value.endswith("Z"):
                return datetime.fromisoformat(value)
            return parse_instant(value)
        except RequestError as error:
            # pydantic adds the place in the file to a ValueError. A hint for users would not help.
            raise ValueError(error.message) from None
    return from_ms(to_ms(value)) if isinstance(value, datetime) else value


Instant = Annotated[datetime, BeforeValidator(_instant), PlainSerializer(render_instant, return_type=str)]
"""An aware UTC datetime in whole milliseconds, in JSON as ``2025-01-01T00:00:00.000Z``."""


def _table(value: object) -> TableName:
    """
    Return the table's name for a stored text; return a :class:`.TableName` unchanged.

    Raises:
        ValueError: The value is neither the text of a table's name nor a :class:`.TableName`.
    """
    if isinstance(value, TableName):
        return value
    try:
        return parse_table(value if isinstance(value, str) else repr(value), "table")
    except RequestError as error:
        raise ValueError(error.message) from None


def _table_or_none(value: object) -> TableName | None:
    return None if value in ("", None) else _table(value)


def _text_or_empty(name: TableName | None) -> str:
    return "" if name is None else show_table(name)


Table = Annotated[TableName, PlainValidator(_table), PlainSerializer(show_table, return_type=str)]
"""A table's name, in JSON as ``database.table``."""

OptionalTable = Annotated[
    TableName | None, PlainValidator(_table_or_none), PlainSerializer(_text_or_empty, return_type=str)
]
"""A table's name or None, in JSON as ``database.table`` or an empty text."""


def whole(value: float) -> float:
    """Return a whole number as an integer, so that JSON has 6 rather than 6.0; return other numbers unchanged."""
    return int(value) if value.is_integer() else value


Number = Annotated[float, PlainSerializer(whole)]
"""A float that JSON shows without a superfluous fraction: 6 rather than 6.0."""


class Model(BaseModel):
    """
    The base of stored values: frozen, with camelCase JSON keys. Unknown keys are errors.

    pydantic builds the validator of a model when the model is first used.
    """

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, frozen=True, extra="forbid", defer_build=True
    )
