"""``toplora completion``: a script that completes the words of all commands in a shell."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from toplora_train.config.arguments import Key
from toplora_train.config.errors import UserError
from toplora_train.launch import cache, compare, evaluate, export, fuse, generate, inspect
from toplora_train.launch.command import run_words

USAGE = """\
Print a script that completes all commands: the keys and choices of each, and the groups, options
and keys of toplora-train. One line in the shell's start file enables it:

  bash, in ~/.bashrc                  eval "$(toplora completion bash)"
  zsh, in ~/.zshrc, after compinit    eval "$(toplora completion zsh)\""""
SHELLS = {"bash": "", "zsh": "autoload -U +X bashcompinit && bashcompinit\n"}
COMMANDS = {
    "eval": evaluate.KEYS,
    "generate": generate.KEYS,
    "report": tuple(Key(option, "") for option in compare.OPTIONS),
    "inspect": inspect.KEYS,
    "fuse": fuse.KEYS,
    "export": export.KEYS,
    "cache": cache.KEYS,
}
"""The commands that take ``key=value``; Hydra completes ``toplora-train``."""
_SCRIPT = r"""_toplora() {
  local line="$COMP_LINE" word="$2" offered=""
  if [ "${line%% *}" = toplora ]; then
    line="toplora-${line#toplora }"
    case "$line" in
      *" "*) ;;
      *) COMPREPLY=($(compgen -W "train completion NAMES" -- "$word")); return ;;
    esac
  fi
  local command="${line%% *}"
  case "${command##*/} $word" in
    "toplora-train "*)
      offered="$(COMP_POINT=${#line} COMP_LINE="$line" toplora-train -sc query=bash)" ;;
    *" run="*|*" file="*|*" output="*|*" config_dir="*|*" data_root="*)
      COMPREPLY=($(compgen -P "${word%%=*}=" -f -- "${word#*=}")); return ;;
CASES  esac
  COMPREPLY=($(compgen -W "$offered" -- "$word"))
}
COMP_WORDBREAKS="${COMP_WORDBREAKS//=}"
complete -o nospace -o default -F _toplora toplora toplora-train PROGRAMS"""


def main() -> int:
    """``toplora completion SHELL``: returns the exit code."""
    return run_words(_print_script, USAGE)


def _print_script(words: list[str]) -> None:
    if not words:
        print(USAGE)
        return
    if len(words) > 1 or words[0] not in SHELLS:
        raise UserError(f"'{' '.join(words)}' is no known shell; give one of {', '.join(SHELLS)}")
    print(SHELLS[words[0]] + completion_script())


def completion_script() -> str:
    """The script, for bash and for zsh with its ``bashcompinit``."""
    cases = "".join(
        f'    "toplora-{name} "*) offered="{_words(keys)}" ;;\n' for name, keys in COMMANDS.items()
    )
    programs = " ".join(f"toplora-{name}" for name in COMMANDS)
    text = _SCRIPT.replace("CASES", cases).replace("PROGRAMS", programs)
    return text.replace("NAMES", " ".join(COMMANDS))


def _words(keys: Sequence[Key]) -> str:
    return " ".join(f"{key.name}={choice}" for key in keys for choice in key.choices or ("",))


if __name__ == "__main__":
    sys.exit(main())
