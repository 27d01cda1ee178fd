"""The command line cannot grow or change unnoticed, and its help teaches."""

from __future__ import annotations

import click
import pytest

from hasten.cli import cli

REQUEST = ["SOURCE", "--budget", "--data", "--max-drop", "--objective", "--set", "--threads"]
SERVE = [
    "--access-log",
    "--allow-reload",
    "--api-keys",
    "--canary",
    "--grpc-port",
    "--host",
    "--isolate",
    "--max-queue",
    "--memory",
    "--port",
    "--replicas",
    "--shadow",
    "--slo",
    "--split",
    "--tls-ca",
    "--tls-cert",
    "--tls-key",
    "--traces",
]
SURFACE = {
    "optimize": [*REQUEST, "--json", "--out", "--quiet", "--store", "--train-budget", "--workers"],
    "why": [*REQUEST, "--json"],
    "verify": ["BUNDLE", "--data", "--json"],
    "predict": ["BUNDLE", "INPUTS", "--format", "--json", "--many", "--top", "--workers"],
    "bench": ["SUBJECTS", "--against", "--batch-size", "--data", "--json", "--seconds", "--threads"],
    "profile": ["SOURCE", "--data", "--json", "--out", "--threads"],
    "report": ["BUNDLE", "--json", "--out"],
    "track": ["BUNDLE", "--experiment", "--json", "--uri"],
    "serve": ["BUNDLE", *SERVE],
    "deploy": ["BUNDLE", "--image", "--json", "--memory", "--output", "--replicas", "--slo", "--startup", "--to"],
    "store": [],
    "store ls": ["--json", "--store"],
    "store gc": ["--dry-run", "--json", "--keep", "--max-size", "--store"],
    "store verify": ["--json", "--repair", "--store"],
    "list": ["KIND", "--json"],
    "show": ["NAME", "--json"],
}
EVERYWHERE = {"--debug", "--plugin"}


def _commands() -> dict[str, click.Command]:
    found = {}
    context = click.Context(cli)
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        assert command is not None
        found[name] = command
        if isinstance(command, click.Group):
            found |= {f"{name} {action}": inner for action, inner in command.commands.items()}
    return found


def _names(command: click.Command) -> set[str]:
    return {p.opts[0] if isinstance(p, click.Option) else (p.name or "").upper() for p in command.params}


def test_the_verbs_are_these_in_this_order() -> None:
    assert list(_commands()) == list(SURFACE)


def test_global_options_are_these() -> None:
    assert _names(cli) == EVERYWHERE | {"--version"}


@pytest.mark.parametrize("verb", SURFACE)
def test_a_verb_has_these_arguments_and_options(verb: str) -> None:
    assert _names(_commands()[verb]) - EVERYWHERE == set(SURFACE[verb])


@pytest.mark.parametrize("verb", SURFACE)
def test_global_options_may_follow_the_verb(verb: str) -> None:
    assert _names(_commands()[verb]) >= EVERYWHERE


@pytest.mark.parametrize("verb", SURFACE)
def test_the_help_of_a_verb_shows_an_example(verb: str) -> None:
    assert f"hasten {verb} " in (_commands()[verb].help or "")


@pytest.mark.parametrize("verb", SURFACE)
def test_every_option_says_what_it_does(verb: str) -> None:
    assert [p.name for p in _commands()[verb].params if isinstance(p, click.Option) and not p.help] == []
