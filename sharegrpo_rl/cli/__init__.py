"""The command line. Each command imports what it needs only when it runs, so that `--help` answers at once."""

from __future__ import annotations

import json
import os
import sys
from typing import Annotated, cast

import typer

from sharegrpo_rl.cli.commands import (
    compare,
    doctor,
    evaluate,
    expand,
    export,
    grade,
    init,
    plan,
    preview,
    report,
    reproduce,
    show_list,
    train,
    tune,
    watch,
)
from sharegrpo_rl.errors import UserError, package_version

app = typer.Typer(
    name="sharegrpo-rl",
    help="Reinforcement learning that teaches vision-language models to reason.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


# What typer raises for wrong input is click's, or in later versions that of a copy of click inside typer.
_WrongInput = cast(
    "type[typer.BadParameter]", next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")
)


def _show_version(asked: bool) -> None:
    if asked:
        print(f"sharegrpo-rl {package_version('sharegrpo-rl')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Options before a command."""


for command in (
    init,
    train,
    plan,
    tune,
    compare,
    watch,
    report,
    reproduce,
    evaluate,
    export,
    preview,
    expand,
    grade,
    doctor,
):
    app.command()(command)
app.command("list")(show_list)


def main() -> None:
    """Run the command line: wrong input ends with one line and exit code 2, Ctrl-C with 130."""
    sys.exit(run())


def run(arguments: list[str] | None = None) -> int:
    """The exit code of one command."""
    try:
        code = app(arguments, prog_name="sharegrpo-rl", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except UserError as error:
        return _refuse(" ".join(str(error).split()), 2, arguments)
    except _WrongInput as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            return 2  # the help is there already
        return _refuse(f"{error.format_message()} (see --help)", error.exit_code, arguments)
    except (KeyboardInterrupt, typer.Abort):
        print("stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader went away (`| head`); without this Python complains once more while it shuts down.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _refuse(text: str, code: int, arguments: list[str] | None) -> int:
    """One line on standard error; for a script that asked for JSON, an object on standard output."""
    if "--json" in (sys.argv[1:] if arguments is None else arguments):
        print(json.dumps({"error": text, "exit_code": code}))
    else:
        print(f"error: {text}", file=sys.stderr)
    return code
