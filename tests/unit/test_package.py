"""The metadata of the installed distribution: one version, and entry points that can be loaded."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator
from importlib.metadata import entry_points, version

from airflow_provider_backfill import __version__, get_provider_info


def _dotted_names(value: object) -> Iterator[str]:
    """Yield every text anywhere in *value* that names something of the package."""
    if isinstance(value, str) and value.startswith("airflow_provider_backfill."):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _dotted_names(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _dotted_names(inner)


def test_airflow_finds_the_provider_info_by_its_entry_point() -> None:
    (entry,) = (
        entry
        for entry in entry_points(group="apache_airflow_provider")
        if entry.value.startswith("airflow_provider_backfill:")
    )
    assert entry.load()() == get_provider_info()
    assert get_provider_info()["package-name"] == "airflow-provider-backfill"


def test_there_is_one_version() -> None:
    """A distribution's metadata is made from the code's version when it is installed."""
    assert version("airflow-provider-backfill") == __version__
    assert get_provider_info()["versions"] == [__version__]


def test_every_module_that_the_provider_info_names_exists() -> None:
    """Airflow imports them by name, and a wrong one is only a warning in its log."""
    names = list(_dotted_names(get_provider_info()))
    assert len(names) > 5
    for name in names:
        path, _, last = name.replace(":", ".").rpartition(".")
        # The last part may name a class in the module.
        found = importlib.util.find_spec(path)
        assert found is not None, f"{name} is in no module"
        if found.submodule_search_locations is not None:
            assert importlib.util.find_spec(f"{path}.{last}") is not None, f"there is no {name}"
        else:
            assert hasattr(importlib.import_module(path), last), f"{path} has no {last}"
