"""The provider's metadata must have the form that Airflow reads, and describe the options as the options do."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jsonschema

from airflow_provider_backfill import get_provider_info
from airflow_provider_backfill.option_sources import resolve_options
from airflow_provider_backfill.options import Options, describe_options

AIRFLOW_TYPES = {bool: "boolean", int: "integer", float: "float", str: "string"}


def section() -> dict[str, dict[str, Any]]:
    info: Any = get_provider_info()
    options: dict[str, dict[str, Any]] = info["config"]["clickhouse_backfill"]["options"]
    return options


def test_section_has_every_option_with_its_type_and_default() -> None:
    # In Airflow, the state folder has another default, since a worker's working directory is no place for it.
    shown = {key: (option["type"], option["default"].lower()) for key, option in section().items()}
    state_dir = shown.pop("state_dir")
    described = {info.key: (AIRFLOW_TYPES[info.kind], info.default_text) for info in describe_options()}
    assert described.pop("state_dir") == ("string", "")
    assert state_dir[0] == "string"
    assert shown == described


def test_every_default_of_the_section_is_read_as_the_same_default(tmp_path: Path) -> None:
    texts = {key: option["default"] for key, option in section().items()}
    options = resolve_options(environ={}, config_file=None, directory=tmp_path, airflow_section=texts).options
    assert options == Options(state_dir=texts["state_dir"])


def test_every_option_is_described() -> None:
    assert all(option["description"].endswith(".") for option in section().values())


def test_metadata_is_valid_by_airflows_own_schema() -> None:
    spec = find_spec("airflow")
    assert spec is not None
    assert spec.origin is not None
    schema = json.loads(Path(spec.origin).with_name("provider_info.schema.json").read_text("utf-8"))
    jsonschema.validate(get_provider_info(), schema)
