"""The `nodeyard` command.

Each sub-command lives in a module of its own under `nodeyard.cli` that offers an `app`; it is imported only
when it is called, so that a part that needs an extra which is not installed says so by name, and hinders no
other. Adding a command is one line in COMMANDS.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from typing import Any

import typer
from typer.core import TyperGroup

# name -> (module with an `app`, what it does)
COMMANDS: dict[str, tuple[str, str]] = {
    "local": ("nodeyard.cli.local", "Run everything on this machine: up, down, status, logs, fetch."),
    "demo": ("nodeyard.cli.demo", "Run the main job on this machine and watch it."),
    "catalog": ("nodeyard.cli.catalog", "What the cloud sells and at what price, without a running service."),
    "replay": ("nodeyard.cli.replay", "Compare policies over a trace of pods and prices, in simulated time."),
    "plan": ("nodeyard.cli.plan", "Say what would be launched for pods described in files."),
    "simulate": ("nodeyard.cli.simulate", "Say what the reallocator would make of a cluster."),
}


class LazyGroup(TyperGroup):
    """A group whose commands are imported when they are looked up."""

    def list_commands(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]  # Typer vendors its own Context
        """The names of all commands that this installation has."""
        return [name for name, (module, _) in COMMANDS.items() if importlib.util.find_spec(module)]

    def get_command(self, ctx: typer.Context, cmd_name: str) -> Any:  # type: ignore[override]
        """The command of this name, or None."""
        if cmd_name not in COMMANDS or importlib.util.find_spec(COMMANDS[cmd_name][0]) is None:
            return None
        module, summary = COMMANDS[cmd_name]
        try:
            command = typer.main.get_command(importlib.import_module(module).app)
        except ModuleNotFoundError as error:
            command = typer.main.get_command(_unavailable(cmd_name, error.name or str(error)))
        command.name = cmd_name
        command.help = command.help or summary
        return command


def _unavailable(name: str, missing: str) -> typer.Typer:
    """A command that only says what is missing."""
    stand_in = typer.Typer(add_completion=False)

    @stand_in.command(
        name, context_settings={"ignore_unknown_options": True, "allow_extra_args": True}, hidden=True
    )
    def explain(_: typer.Context) -> None:
        print(f"nodeyard {name} needs the Python package {missing}: install nodeyard[local]", file=sys.stderr)
        raise typer.Exit(1)

    return stand_in


app = typer.Typer(
    cls=LazyGroup,
    name="nodeyard",
    help="The right node for every pending pod, on EC2.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback()
def root() -> None:
    """The right node for every pending pod, on EC2, at the lowest provable price."""


if __name__ == "__main__":
    app()
