"""The command line: one file a verb, imported when it is used. Every failure becomes one line and an exit code here."""

from __future__ import annotations

import difflib
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module

import click

from .._version import __version__
from ..core.errors import HastenError
from . import shared

VERBS = {
    "optimize": "optimize",
    "why": "why",
    "verify": "verify",
    "predict": "predict",
    "bench": "bench",
    "profile": "profile",
    "report": "report",
    "track": "track",
    "serve": "serve",
    "deploy": "deploy",
    "store": "store",
    "list": "listing",
    "show": "show",
}
"""Verb -> the module of this package that holds it as `command`, in the order of the help."""

_KEPT = "stopped. Finished steps are kept: the same command goes on from there."


class _Verbs(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        command = import_module(f"hasten.cli.{VERBS[cmd_name]}").command
        assert isinstance(command, click.Command)
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in VERBS and not args[0].startswith("-"):
            near = difflib.get_close_matches(args[0], VERBS, n=1)
            raise click.UsageError(f"No such verb {args[0]!r}." + (f" Did you mean {near[0]!r}?" if near else ""), ctx)
        return super().resolve_command(ctx, args)


@click.group(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, message="hasten %(version)s")
@shared.everywhere
def cli() -> None:
    """Makes a trained model fast on this machine, and proves that it stayed right.

    \b
    hasten optimize job.toml                    a certified bundle in out/, or "nothing helps here"
    hasten optimize model.onnx --data data.npz  no job file, no labels needed
    hasten serve out/model                      answers requests

    Exit codes: 0 done, 1 unexpected, 2 the request is wrong, 3 not possible here, 4 an extra is missing,
    5 the limits cannot be met, 130 stopped.
    """


@dataclass
class _Session:
    """What every verb may know: the command line, and what the global options said."""

    args: tuple[str, ...]
    debug: bool = False


def main(args: Sequence[str] | None = None) -> int:
    """Run a command line (default: this process's own). Returns the exit code; never raises."""
    session = _Session(tuple(sys.argv[1:] if args is None else args))
    try:
        code = cli.main(args=list(session.args), prog_name="hasten", standalone_mode=False, obj=session)
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx else "hasten"
        return _fail(session, error, f"{_sentence(error.format_message())} See `{path} --help`", 2)
    except click.ClickException as error:
        return _fail(session, error, error.format_message(), error.exit_code)
    except HastenError as error:
        return _fail(session, error, str(error), error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        click.echo(_KEPT, err=True)
        return 130
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else 1
    except Exception as error:
        return _fail(session, error, f"unexpected {type(error).__name__}: {error}: run again with --debug", 1)
    return code if isinstance(code, int) else 0


def _fail(session: _Session, error: Exception, message: str, code: int) -> int:
    if session.debug:
        click.echo("".join(traceback.format_exception(error)), err=True, nl=False)
    click.echo("error: " + " ".join(message.split()), err=True)
    return code


def _sentence(text: str) -> str:
    return text if text.endswith((".", "?", "!")) else f"{text}."
