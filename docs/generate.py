"""
The pages of docs/reference that are made from the code.

    python -m docs.generate            # write them
    python -m docs.generate --check    # fail when one is not as the code says

Operators are read from their source, so that nothing here imports Airflow.
"""

import argparse
import ast
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel

import airflow_provider_backfill
from airflow_provider_backfill.cli import flags
from airflow_provider_backfill.core import events, plan
from airflow_provider_backfill.options import describe_options
from airflow_provider_backfill.state.log_lines import LogOpened

from . import arguments, findings
from .reference_texts import DAGS, KEYS

REFERENCE = Path(__file__).parent / "reference"
_PACKAGE = Path(airflow_provider_backfill.__file__).parent
_MARK = "<!-- Written by `python -m docs.generate` from the code; do not edit. -->\n"
# The classes that a DAG imports, in the order of the page.
_SKINS = ("operators", "sensors", "task_group")


def pages() -> dict[str, str]:
    """Return every generated page by file name."""
    return {
        "commands.md": _commands(),
        "options.md": _options(),
        "operators.md": _operators(),
        "events.md": _events(),
        "files.md": _files(),
        "findings.md": findings.page(),
        "arguments.md": _same_arguments(),
    }


# ---------------------------------------------------------------- commands


def _commands() -> str:
    lines = [
        "# Commands\n",
        _MARK,
        "Type `clickhouse-backfill COMMAND [flags]`. Exit codes: 0 success, 1 runtime error, 2 configuration or",
        "usage error, 3 from `verify` for inconclusive. `check`, `coverage`, `verify` and `doctor` end with 1 for a",
        "negative answer. With `--json`, stdout has one JSON object and nothing else; messages go to stderr. No",
        "command asks for input.\n",
        "A plan can be named by its id, by a unique prefix of the id, by `--last`, or by `--target`.\n",
        "| command | purpose |\n|---|---|",
        *(f"| [`{name}`](#{name}) | {about.help} |" for name, about in flags.COMMANDS.items()),
        "\n## Common flags\n",
        "Allowed before or after the command. Brackets show the equivalent environment variable.\n",
        *_flags(flags.COMMON),
    ]
    for name, about in flags.COMMANDS.items():
        lines.append(f"\n## {name}\n\n{about.help[0].upper()}{about.help[1:]}.\n")
        lines += _flags(about.flags) if about.flags else ["This command has only the common flags."]
        if about.more:
            lines.append(
                "\nWith `policy.requireDryRunBeforeRun = false`, `run` also takes the flags of `plan`, and plans."
            )
        lines.append("")
        if name in _ENDED:
            lines.append("<!-- ends with 2 -->")
        lines += ["```bash", *(f"clickhouse-backfill {example}" for example in flags.EXAMPLES[name]), "```"]
    return "\n".join(lines) + "\n"


# On the page, the plan is already completed before these commands.
_ENDED = ("set-parallel", "pause", "cancel")


def _flags(flags: tuple[Any, ...]) -> Iterator[str]:
    yield "| flag | meaning |\n|---|---|"
    for flag in flags:
        yield f"| `{f'{flag.name} {flag.value}'.strip()}` | {_marked(_cell(flag.help))} |"


# ---------------------------------------------------------------- options


def _options() -> str:
    lines = [
        # The tables need the full width.
        "---\nhide:\n  - toc\n---\n\n# Options\n",
        _MARK,
        "Precedence, highest first: a flag or an operator's argument, the environment, `clickhouse-backfill.toml` or",
        "`[tool.clickhouse-backfill]` of `pyproject.toml` in the working directory (or `--config FILE`),",
        "Airflow's section",
        "`[clickhouse_backfill]`. Options are merged one by one. An unknown name or a bad value ends with exit",
        "code 2, and",
        "the message names the option, the value, its origin and the allowed values.\n",
        "| option | allowed | default | meaning |\n|---|---|---|---|",
    ]
    for info in describe_options():
        default = f"`{info.default_text}`" if info.default_text else "none"
        lines.append(f"| `{info.name}` | {info.type_text} | {default} | {_cell(info.help)} |")
    lines += [
        "\nIn Airflow the default of `stateDir` is `{AIRFLOW_HOME}/clickhouse-backfill`.\n",
        "Names as an environment variable and in `airflow.cfg`:\n",
        f"| option | environment | `[{model_section()}]` |\n|---|---|---|",
        *(f"| `{info.name}` | `{info.env}` | `{info.key}` |" for info in describe_options()),
        "\nA file with every default; `chunk_hours` is accepted for `chunkHours`, and so on:\n",
        '```toml title="clickhouse-backfill.toml"',
        *_example(),
        "```",
    ]
    return "\n".join(lines) + "\n"


def model_section() -> str:
    """Return the name of Airflow's section."""
    config: Any = airflow_provider_backfill.get_provider_info()["config"]
    return str(next(iter(config)))


def _example() -> Iterator[str]:
    group = ""
    for info in describe_options():
        head, _, leaf = info.name.rpartition(".")
        if head != group:
            group = head
            yield f"\n[{head}]"
        if info.default is not None:
            yield f"{leaf} = {info.default_text}"
        elif not head:
            yield f'{leaf} = ".clickhouse-backfill"'


# ---------------------------------------------------------------- operators


def _operators() -> str:
    lines = [
        "# Operators and sensors\n",
        _MARK,
        "These classes and functions are the public interface for DAGs. A change of a name or an argument is in the",
        "changelog; other modules may change at any time. Each class also takes the arguments of Airflow's base class.",
    ]
    for module in _SKINS:
        paths = [_PACKAGE / f"{module}.py", *(_PACKAGE / module / f"{name}.py" for name in ("plan", "chunk"))]
        for node in (node for path in paths if path.exists() for node in ast.parse(path.read_text("utf-8")).body):
            if isinstance(node, ast.ClassDef) and node.name.startswith("Backfill"):
                lines += _class(module, node)
            if isinstance(node, ast.FunctionDef) and re.match("(clickhouse_)?backfill", node.name):
                lines += _function(module, node)
    return "\n".join(lines) + "\n"


def _same_arguments() -> str:
    lines = [
        "# Flags and arguments\n",
        _MARK,
        "The same request on the command line, in a DAG and in Python. `BackfillTaskGroup` takes arguments of",
        "`BackfillPlanOperator` as its own, and those of `BackfillChunkOperator` in `chunks={...}`. In Python, `plan`",
        "and `backfill` are methods of `Client`, and `run` is a method of `Backfill`. A load is a percentage on the",
        "command line and a share in DAGs and Python: `--max-load 80`, `max_load=0.8`.",
        *arguments.tables(),
    ]
    return "\n".join(lines) + "\n"


def _class(module: str, node: ast.ClassDef) -> Iterator[str]:
    text = inspect.cleandoc(ast.get_docstring(node) or "")
    about, _, arguments = text.partition("\nArgs:\n")
    explained = dict(_arguments(arguments))
    yield f"\n## {node.name}\n\n`from {_PACKAGE.name}.{module} import {node.name}`\n"
    yield _prose(about.strip())
    yield from _dag(node.name)
    signature = _signature(node, "__init__")
    partial = _signature(node, "partial")
    for method in node.body:
        if isinstance(method, ast.FunctionDef) and method.name == "partial":
            doc = inspect.cleandoc(ast.get_docstring(method) or "").partition("Args:\n")[2]
            explained |= dict(_arguments(doc))
    if signature:
        yield "\n| argument | default | meaning |\n|---|---|---|"
        templated = _templated(node)
        for name, default in {**partial, **signature}.items():
            where = " Of `.partial()`." if name in partial and name not in signature else ""
            mark = " ᵗ" if name in templated else ""
            yield f"| `{name}`{mark} | {default} | {_cell(_code(explained.get(name, '')))}{where} |"
        if templated:
            yield "\nᵗ Templated."


def _dag(name: str) -> Iterator[str]:
    if name == "BackfillChunkOperator":
        yield "\nSee the DAG of [BackfillPlanOperator](#backfillplanoperator)."
    if name in DAGS:
        yield f"\n```python{DAGS[name]}```"


def _function(module: str, node: ast.FunctionDef) -> Iterator[str]:
    about, _, arguments = inspect.cleandoc(ast.get_docstring(node) or "").partition("\nArgs:\n")
    yield f"\n## {node.name}\n\n`from {_PACKAGE.name}.{module} import {node.name}`\n"
    yield _prose(about.strip())
    yield from _dag(node.name)
    if arguments:
        yield "\n| argument | meaning |\n|---|---|"
        yield from (f"| `{name}` | {_cell(_code(meaning))} |" for name, meaning in _arguments(arguments))


def _signature(node: ast.ClassDef, name: str) -> dict[str, str]:
    """Return the keyword-only arguments of a method, with their defaults as written."""
    for method in node.body:
        if isinstance(method, ast.FunctionDef) and method.name == name:
            pairs = zip(method.args.kwonlyargs, method.args.kw_defaults, strict=True)
            shown = {arg.arg: "required" if value is None else f"`{ast.unparse(value)}`" for arg, value in pairs}
            return {name: text for name, text in shown.items() if name != "task_id"}
    return {}


def _templated(node: ast.ClassDef) -> list[str]:
    for statement in node.body:
        if isinstance(statement, ast.AnnAssign) and ast.unparse(statement.target) == "template_fields":
            return list(ast.literal_eval(statement.value)) if statement.value else []
    return []


def _arguments(text: str) -> Iterator[tuple[str, str]]:
    for entry in re.split(r"\n(?=\S)", textwrap.dedent(text.split("\nRaises:")[0]).strip()):
        name, colon, meaning = entry.partition(":")
        if colon:
            yield name.strip(), " ".join(meaning.split())


def _prose(text: str) -> str:
    """Return a docstring as Markdown, with names in code."""
    return "\n".join(_code(line) for line in text.splitlines())


def _code(text: str) -> str:
    text = re.sub(r"``(.+?)``", r"`\1`", text)
    text = re.sub(r":\w+:`[.~]*(.+?)`", r"`\1`", text)
    return re.sub(r"(?<![*\w])\*(\w+)\*(?![*\w])", r"`\1`", text)


# ---------------------------------------------------------------- events and files


def _events() -> str:
    lines = [
        "# Events\n",
        _MARK,
        "One line of JSON per event, in `events/<planId>.ndjson`, appended and never changed. The log is the truth:",
        "replaying the log gives the state of the run. The first line is `LogOpened`. Instants are UTC with",
        "three digits.\n",
        *_model("LogOpened", LogOpened),
    ]
    union = get_args(get_args(events.Event)[0])
    for event in sorted(union, key=lambda event: event.__name__):
        lines += _model(event.__name__, event)
    return "\n".join(lines) + "\n"


def _files() -> str:
    lines = [
        "# Files\n",
        _MARK,
        "All files are in one state folder: `--state-dir`, `CLICKHOUSE_BACKFILL_STATE_DIR`, or the option",
        "`stateDir`. State",
        "files contain no password and no connection string with a password, unless your `SELECT` contains one.\n",
        "| file | content |\n|---|---|",
        "| `plans/<planId>.json` | the plan: written once, never changed; its last key is a checksum of the rest |",
        "| `events/<planId>.ndjson` | the [event log](events.md): appended, durable before an event is acknowledged |",
        "| `runs/<planId>.json` | a checkpoint of the replay; may lag behind the log, and may be deleted |",
        "| `locks/` | locks of writers; may be deleted while nothing runs |\n",
        "In an object store the log is a folder of numbered objects, one event each, and `events/<planId>.ndjson` is a",
        "copy for people. `plan --force` and `repair` keep an older file under its name followed by a time. A",
        "file with a",
        "higher `format` is refused with the advice to upgrade.\n",
        *_model("A plan", plan.Plan),
        *_model("Statement", plan.Statement),
        *_model("TargetTime", plan.TargetTime),
        "\n## A plan's id\n",
        '`sha256("<target>|<from>|<to>|<chunkLength>|<timeColumn>")`, the first 16 hex digits, so that the same',
        "arguments give the same plan on every machine. Chunks follow from the window and `chunkLength`, or from",
        "`bounds`; see [chunks](chunks.md).",
    ]
    return "\n".join(lines) + "\n"


def _model(title: str, kind: type[BaseModel]) -> Iterator[str]:
    text = inspect.cleandoc(kind.__doc__ or "")
    about, _, attributes = text.partition("\nAttributes:\n")
    attributes, _, after = attributes.partition("\n\n")
    explained = dict(_arguments(attributes))
    yield f"\n## {title}\n\n{_code(about.strip())}\n"
    if after.strip():
        yield f"{_code(after.strip())}\n"
    yield "| key | type | meaning |\n|---|---|---|"
    schema = kind.model_json_schema(by_alias=True, mode="serialization")
    for name, field in kind.model_fields.items():
        if field.exclude:
            continue
        key = field.alias or field.serialization_alias or name
        shown = schema["properties"].get(key) or schema["properties"][name]
        meaning = _sentence(_code(explained.get(name, "")) or KEYS[key])
        yield f"| `{key}` | {_type(shown)} | {_cell(meaning)} |"


def _sentence(text: str) -> str:
    """Return a description as a sentence of a page about JSON, in which None is null."""
    text = re.sub(r"\b(?:None|null)\b", "`null`", text)
    return text[0].upper() + text[1:].rstrip(".") + "."


def _type(shown: dict[str, Any]) -> str:
    if "const" in shown:
        value = shown["const"]
        return f"`{value}`"
    if "$ref" in shown:
        return str(shown["$ref"]).rpartition("/")[2]
    if "anyOf" in shown:
        return " or ".join(_type(inner) for inner in shown["anyOf"])
    if shown.get("type") == "array":
        return f"list of {_type(shown['items'])}" if "items" in shown else "list"
    kind = str(shown.get("type", "object"))
    return {"string": "text", "boolean": "true or false"}.get(kind, kind)


def _marked(text: str) -> str:
    """Mark addresses, flags, variables, dates and times as code, which a browser does not break at a hyphen."""
    marks = r"\S*://\S*[\w/]|--[a-z][a-z-]*|CLICKHOUSE_[A-Z_]+|\d{4}-\d\d-\d\d(?:T[\d:]+Z)?"
    return re.sub(marks, r"`\g<0>`", text)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def main() -> int:
    """Write the pages, or report the pages that are not current."""
    parser = argparse.ArgumentParser(description="Write the generated pages of docs/reference.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail when a page is not up to date")
    check = parser.parse_args().check
    stale = []
    for name, text in pages().items():
        path = REFERENCE / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            stale.append(name)
            if not check:
                path.write_text(text, encoding="utf-8")
    if stale:
        sys.stderr.write(f"{'Not up to date' if check else 'Written'}: {', '.join(stale)}\n")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
