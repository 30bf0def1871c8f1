"""Check a request for errors that are visible without a server, to report these first. This module is pure."""

from ..errors import Advice, Flag, RequestError
from .names import show_table
from .parameters import read_parameters
from .plan import WriteMode
from .query_settings import check_setting_values, check_settings
from .request import PlanRequest
from .select_text import read_select


def check_request(request: PlanRequest) -> None:
    """
    Check a request for contradictions, and its settings and SELECT for errors.

    Raises:
        RequestError: Two arguments contradict each other, the source is the target, a setting is refused or contains a
            credential, the SELECT or one of its parameters is invalid, or a format has no SELECT.
    """
    for what, name, given in (
        ("Rows outside the window are kept", "--keep-outside", request.keep_outside),
        ("A backup is made", "--backup", request.backup),
    ):
        if given and request.write_mode is not WriteMode.REPLACE:
            raise RequestError(
                f"{what} only where partitions are replaced.",
                remedy=Advice("omit {}, or pass {}", Flag(name), Flag("--write-mode", WriteMode.REPLACE)),
            )
    if request.staging_database and request.write_mode is WriteMode.INSERT:
        raise RequestError(
            "A plain insert stages nothing, so it needs no database for staging tables.",
            remedy=Advice(
                "omit {}, or {}",
                Flag("--staging-database", request.staging_database),
                Flag("--write-mode", WriteMode.INSERT),
            ),
        )
    check_settings(request.settings, "--setting or defaults.settings")
    check_setting_values(request.settings, "--setting or defaults.settings")
    if request.source == request.target:
        raise RequestError(
            f"{show_table(request.target)} is the target itself; inserting a table into itself doubles its rows.",
            remedy=Advice("pass another {}, or omit it to replay the views that feed the target", Flag("--source")),
        )
    if request.select is not None:
        read = read_select(request.select, "--select")
        check_settings(read.settings, "--select")
        read_parameters(read.placeholders, dict(request.formats), request.time_unit, "--select")
    elif request.formats:
        raise RequestError(
            f"{', '.join(name for name, _ in request.formats)} is no parameter: no SELECT was given.",
            remedy=Advice("pass {}, which uses it, or omit {}", Flag("--select", "SELECT …"), Flag("--param")),
        )
