"""The command ``hwpoison``: runs the command asked for, and turns what stops it into a line and a code.

A command is a function with the name of its module. Only the modules named on the command line are
imported: the model and numpy take longer to import than ``hwpoison --help`` takes to run. The others
are listed with the help text in their source.
"""

from __future__ import annotations

import ast
import os
import signal
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated

import typer
from typer.main import get_command

from hwpoison import __version__
from hwpoison.abi.problems import DONE, NOT_POSSIBLE, Problem

COMMANDS = ("simulate", "explore", "forecast", "explain", "verify", "fuzz", "kernels")
FOLDER = Path(__file__).parent

INTERRUPTED = 128 + signal.SIGINT  # as the shell reports it
NOBODY_READS = 128 + signal.SIGPIPE


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line, by default the process's own, and return its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without our letters is no reason to fail
    if sys.stdout is None:
        return tell("standard output is closed: there is nowhere to print to", NOT_POSSIBLE)
    try:
        code = run(sys.argv[1:] if arguments is None else arguments)
        print(end="", flush=True)  # a reader that has left is noticed here, not at interpreter exit
    except BrokenPipeError:
        # The interpreter flushes once more on its way out, and would complain then.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return NOBODY_READS
    except OSError as error:  # a full disk, a terminal that went away: nothing the command could know
        code = tell(f"cannot go on: {error}", NOT_POSSIBLE)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return code


def run(arguments: Sequence[str]) -> int:
    """Run one command; what people can cause is told in one line on stderr. No arguments: the help."""
    command = get_command(build(arguments))
    try:
        with command.make_context("hwpoison", list(arguments) or ["--help"]) as context:
            command.invoke(context)
    except typer.Exit as leave:
        return leave.exit_code
    except Problem as problem:
        return tell(str(problem), problem.exit_code)
    except typer.TyperException as mistake:  # wrong use, found by the parser
        where = getattr(mistake, "ctx", None)  # errors about files have none
        hint = f" (see {where.command_path} --help)" if where else ""
        return tell(mistake.format_message() + hint, mistake.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        return tell("interrupted", INTERRUPTED)
    return DONE


def tell(text: str, code: int) -> int:
    """Say why the command ends, in one line, and hand back ``code``."""
    print("hwpoison:", " ".join(text.split()), file=sys.stderr)
    return code


def build(arguments: Sequence[str]) -> typer.Typer:
    """The app: commands named in ``arguments`` are imported, the others can only be listed."""
    # Plain help: rich takes twice as long to import as typer, and its markup swallows words in brackets.
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    app.callback()(about)
    for name in COMMANDS:
        if name in arguments:
            app.command(name)(load(name))
        else:
            app.command(name, help=help_text(name))(about)
    return app


def load(name: str) -> Callable[..., None]:
    """The function of a command, imported."""
    function: Callable[..., None] = getattr(import_module(f"{__package__}.{name}"), name)
    return function


def help_text(name: str) -> str | None:
    """The docstring of a command's function, read from the source without importing it."""
    tree = ast.parse((FOLDER / f"{name}.py").read_text(encoding="utf-8"))
    (function,) = (node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name)
    return ast.get_docstring(function)


def show_version(asked: bool) -> None:
    if asked:
        print("hwpoison", __version__)
        raise typer.Exit(DONE)


def about(
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """What a memory error will cost, decided by running Linux's own answer to it."""
