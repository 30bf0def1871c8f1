"""
Run ``python -m benchmarks [--short] [--rounds N] [--json FILE] [--markdown FILE] [NAME …]``: all benchmarks, or the
named ones.
"""

import argparse
import importlib
import os
import pkgutil
import sys
from pathlib import Path

import benchmarks
from benchmarks import frame
from benchmarks.frame import Row, as_json, markdown


def main() -> None:
    """
    Run the benchmarks, print and write the figures. A figure over its bar is shown, but does not
    fail the command.
    """
    modules = [
        importlib.import_module(f"benchmarks.{m.name}")
        for m in pkgutil.iter_modules(benchmarks.__path__)
        if not m.name.startswith("_")
    ]
    known = {module.__name__.partition(".")[2]: module for module in modules if hasattr(module, "measure")}
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(known)}")
    parser.add_argument("--short", action="store_true", help="less work, for CI")
    parser.add_argument(
        "--rounds", type=int, metavar="N", default=frame.most_rounds, help="at most so many of each pair"
    )
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--markdown", type=Path, metavar="FILE")
    given = parser.parse_args()
    if unknown := set(given.names) - set(known):
        parser.error(f"no benchmark is called {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    frame.most_rounds = given.rounds
    # Installed programs have compiled modules. Without this, a container's setting would make each process compile them
    # again.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    rows: dict[str, list[Row]] = {}
    for name in given.names or known:
        print(f"{name} …", file=sys.stderr, flush=True)
        rows[name] = known[name].measure(given.short)
    print(markdown(rows))
    if given.json:
        given.json.write_text(as_json(rows))
    if given.markdown:
        given.markdown.write_text(markdown(rows))


if __name__ == "__main__":
    main()
