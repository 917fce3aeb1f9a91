"""What every command has: `--json`, `--context`, and one way to fail."""

import functools
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Concatenate, NoReturn, ParamSpec, TypeVar

import click

from orchestrator.cli.context import CONTEXT_VARIABLE, DEFAULT_CONTEXT, Credentials, find_directory, read_credentials
from orchestrator.cli.failure import CommandFailed, ExitCode, Finding
from orchestrator.cli.terminal import Terminal

P = ParamSpec("P")
R = TypeVar("R")

#: As `orchestrator.contract.base.Name`, which takes longer to import than `edgectl --help` may.
NODE_NAME = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"


class NodeName(click.ParamType[str]):
    """A node's name. Checked here, since it becomes part of a path."""

    name = "node"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = str(value)
        if not re.fullmatch(NODE_NAME, text):
            self.fail(f"{text!r} is no node's name: lower case letters, digits and hyphens, at most 63", param, ctx)
        return text


@dataclass(slots=True)
class Invocation:
    """One run of `edgectl`."""

    terminal: Terminal = field(default_factory=Terminal)
    context: Path | None = None

    def credentials(self) -> Credentials:
        """Of the fleet that the command is for. Raises CommandFailed."""
        return read_credentials(find_directory(self.context, self.terminal))


JSON_HELP = "One JSON object on stdout; progress and errors on stderr."
CONTEXT_HELP = f"Operator's directory. Else ${CONTEXT_VARIABLE}, {DEFAULT_CONTEXT}, or the one lab that is up."


@click.pass_obj
def before_command(invocation: Invocation, as_json: bool, context: Path | None) -> None:
    """The same options before the command's name: `edgectl --context DIR status`."""
    invocation.terminal.as_json = as_json
    invocation.context = context


def before_command_options() -> list[click.Parameter]:
    return [
        click.Option(["--context"], type=click.Path(path_type=Path), metavar="DIR", help=CONTEXT_HELP),
        click.Option(["--json", "as_json"], is_flag=True, help=JSON_HELP),
    ]


def json_option(command: Callable[Concatenate[Invocation, P], R]) -> Callable[P, R]:
    """`--json`, and the invocation as the command's first argument."""

    @click.option("--json", "as_json", is_flag=True, help=JSON_HELP)
    @click.pass_obj
    @functools.wraps(command)
    def with_json(invocation: Invocation, /, *args: Any, as_json: bool, **options: Any) -> R:
        invocation.terminal.as_json |= as_json
        return command(invocation, *args, **options)

    return with_json  # type: ignore[return-value]  # click calls it with keywords only: not expressible


def fleet_options(command: Callable[Concatenate[Invocation, P], R]) -> Callable[P, R]:
    """`--json` and `--context`, and the invocation as the command's first argument."""

    @click.option("--context", type=click.Path(path_type=Path), metavar="DIR", help=CONTEXT_HELP)
    @json_option
    @functools.wraps(command)
    def with_context(invocation: Invocation, /, *args: Any, context: Path | None, **options: Any) -> R:
        invocation.context = context or invocation.context
        return command(invocation, *args, **options)

    return with_context  # type: ignore[return-value]


class LazyGroup(click.Group):
    """A group that imports a command's module when the command is asked for."""

    def __init__(self, *args: Any, lazy: dict[str, tuple[str, str]], **options: Any) -> None:
        """`lazy`: command name → ("module:attribute", one line of help)."""
        super().__init__(*args, **options)
        self._lazy = lazy

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._lazy)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self._lazy:
            return None
        module, _, attribute = self._lazy[cmd_name][0].partition(":")
        command: click.Command = getattr(import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in self._lazy.items()])


class Edgectl(LazyGroup):
    """The whole command line: turns every end into an exit code."""

    def main(  # type: ignore[override]  # the overloads differ by `standalone_mode`, which makes no difference here
        self, args: Sequence[str] | None = None, prog_name: str | None = None, **options: Any
    ) -> NoReturn:
        """Like click's, with `edgectl`'s exit codes; always leaves by SystemExit, as a standalone command does."""
        arguments = list(sys.argv[1:] if args is None else args)
        invocation = Invocation()
        options |= {"obj": invocation, "standalone_mode": False}
        try:
            code = super().main(arguments, prog_name, **options)
        except click.UsageError as error:
            error.show()
            if "--json" in arguments:
                invocation.terminal.as_json = True
                usage = Finding("usage", error.format_message(), hint="see --help")
                sys.stdout.write(Terminal.problems_json((usage,)))
            code = ExitCode.USAGE
        except click.ClickException as error:
            error.show()
            code = error.exit_code
        except CommandFailed as error:
            invocation.terminal.problems(error.findings)
            code = error.exit_code
        except (click.Abort, KeyboardInterrupt):
            sys.stderr.write("interrupted\n")
            code = ExitCode.INTERRUPTED
        except BrokenPipeError:
            # `edgectl get nodes | head -1`: the reader has had enough. Python must not complain about it at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            code = ExitCode.OK
        sys.exit(int(code) if isinstance(code, int) else ExitCode.OK)
