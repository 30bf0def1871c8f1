"""Generate completion scripts for shells from the table of commands and flags."""

from ..errors import PROGRAM
from .flags import COMMANDS, COMMON, PLAN_ID

SHELLS = ("bash", "zsh", "fish")


def completion_script(shell: str) -> str:
    """
    Return the script that completes commands, flags and plan ids in *shell*.

    The script gets plan ids from ``list --quiet`` on the current state folder.

    Args:
        shell: One of :data:`SHELLS`.
    """
    return {"bash": _bash, "zsh": _zsh, "fish": _fish}[shell]()


def _words(command: str) -> str:
    about = COMMANDS[command]
    return " ".join(dict.fromkeys(flag.name for flag in (*about.flags, *about.more, *COMMON)))


def _takes_plan(command: str) -> bool:
    return PLAN_ID in COMMANDS[command].flags


def _bash() -> str:
    named = "|".join(command for command in COMMANDS if _takes_plan(command))
    cases = "\n".join(f'    {command}) words="{_words(command)}" ;;' for command in COMMANDS)
    return f"""\
# Load with: source <({PROGRAM} completion bash)
_clickhouse_backfill() {{
  local current="${{COMP_WORDS[COMP_CWORD]}}" command="${{COMP_WORDS[1]}}" words=""
  if [ "$COMP_CWORD" -eq 1 ]; then
    COMPREPLY=($(compgen -W "{" ".join(COMMANDS)}" -- "$current"))
    return
  fi
  case "$command" in
{cases}
  esac
  case "$command" in
    {named})
      case "$current" in
        -*) ;;
        *) words="$words $({PROGRAM} list --quiet 2>/dev/null)" ;;
      esac ;;
  esac
  COMPREPLY=($(compgen -W "$words" -- "$current"))
}}
complete -o default -F _clickhouse_backfill {PROGRAM}"""


def _zsh() -> str:
    # zsh can run completions for bash.
    return f"# Load with: source <({PROGRAM} completion zsh)\nautoload -U +X bashcompinit && bashcompinit\n" + _bash()


def _fish() -> str:
    lines = [f"# Load with: {PROGRAM} completion fish | source", f"complete -c {PROGRAM} -f"]
    for command, about in COMMANDS.items():
        text = about.help.replace("'", "\\'")
        lines.append(f"complete -c {PROGRAM} -n __fish_use_subcommand -a {command} -d '{text}'")
        used = f"'__fish_seen_subcommand_from {command}'"
        for flag in dict.fromkeys((*about.flags, *about.more, *COMMON)):
            needs = " -r" if flag.value else ""
            lines.append(f"complete -c {PROGRAM} -n {used} -l {flag.name.removeprefix('--')}{needs}")
        if _takes_plan(command):
            lines.append(f"complete -c {PROGRAM} -n {used} -a '({PROGRAM} list --quiet 2>/dev/null)'")
    return "\n".join(lines)
