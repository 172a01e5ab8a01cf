"""Commands that tell what there is."""

from __future__ import annotations

from typing import Annotated

import typer

from sharegrpo_rl.cli.options import ImportOption


def show_list(
    what: Annotated[
        str | None, typer.Argument(help="algorithms, environments, examples, transforms, rewards, options")
    ] = None,
    of: Annotated[str | None, typer.Argument(help="with `options`: the algorithm or environment")] = None,
    imports: ImportOption = None,
) -> None:
    """List what run files can name: algorithms, environments, tuned examples, transforms, rewards, options."""
    from sharegrpo_rl.tune.listing import print_listing
    from sharegrpo_rl.user_code import import_user_files

    import_user_files(imports or [])
    print_listing(what, of)


def doctor() -> None:
    """Show versions, devices, memory, and what is missing."""
    from sharegrpo_rl.doctor import print_diagnosis

    raise typer.Exit(print_diagnosis())
