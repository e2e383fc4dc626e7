"""Entry point of `river-trt`: the registry of commands, and the one place that reports errors."""

import argparse
import difflib
import io
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from contextlib import suppress
from typing import NoReturn, TextIO

from rich.text import Text

import river_trt
from river_trt.cli import (
    bench,
    build,
    calibrate,
    convert,
    evaluate,
    inspect,
    plugin,
    run,
    serve,
    triton,
    tune,
    verify,
)
from river_trt.cli.command import join_negative_tau, make_parser
from river_trt.cli.console import printable, stderr_console
from river_trt.errors import RiverError, RiverWarning
from river_trt.faults import describe
from river_trt.user_cache import write_fault

ABOUT = """\
Build and run River engines: decoders in which every token leaves the full-precision
backbone for a 4-bit river as soon as a gate on its hidden state allows it.

  river-trt build --model demo --out engine/
  river-trt run --engine engine/ --chat --prompt "Why is the sky blue?" --stats

`river-trt COMMAND --help` has the options and examples of a command."""
COMMANDS = (
    build.COMMAND,
    convert.COMMAND,
    run.COMMAND,
    inspect.COMMAND,
    bench.COMMAND,
    evaluate.COMMAND,
    calibrate.COMMAND,
    plugin.COMMAND,
    serve.COMMAND,
    triton.COMMAND,
    tune.COMMAND,
    verify.COMMAND,
)
# Bad input, and a fault of our own; then two as a shell reports the signals.
BAD_INPUT, FAULT, INTERRUPTED, BROKEN_PIPE = 2, 3, 130, 141


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code.

    What can be foreseen is one line on stderr and code 2. What cannot is a fault of river-trt: one
    line that says so and names the file with the traceback, and code 3.
    """
    arguments = [_as_utf8(text) for text in sys.argv[1:]] if argv is None else argv
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a model may write what a terminal cannot show
            stream.reconfigure(errors="backslashreplace")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always", RiverWarning)
            warnings.showwarning = _show_warning
            code = _execute(arguments)
        sys.stdout.flush()  # here, so that a closed pipe is noticed inside the try
        return code
    except RiverError as error:
        return _report(str(error))
    except KeyboardInterrupt:
        stderr_console().print("\ninterrupted")
        return INTERRUPTED
    except BrokenPipeError:
        # Python flushes stdout once more at exit: let that go nowhere instead of failing again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except OSError as error:  # no permission, a full disk: the machine's doing, not a bug
        where = f"{error.filename}: " if error.filename is not None else ""
        return _report(f"{where}{error.strerror or error}")
    except MemoryError as error:
        return _report(f"this machine has not enough memory: {error or 'none is left'}")
    except SystemExit:
        raise
    except BaseException as error:  # a panic in a library of Rust is no Exception
        return _report_fault(error, "--debug" in arguments)


def _execute(argv: Sequence[str]) -> int:
    parser = make_parser("river-trt", river_trt.__version__, ABOUT, COMMANDS, argv)
    try:
        args, unknown = parser.parse_known_args(join_negative_tau(argv))
        if unknown:
            _refuse(getattr(args, "parser", parser), unknown)
    except SystemExit as done:  # --help and --version
        return int(done.code or 0)
    if "execute" not in args:
        parser.print_help(sys.stderr)
        return BAD_INPUT
    code: int = args.execute(args)
    return code


def _as_utf8(text: str) -> str:
    """An argument whose bytes are UTF-8, whatever the locale took them for."""
    try:
        return os.fsencode(text).decode()
    except UnicodeError:
        return text


def _refuse(command: argparse.ArgumentParser, unknown: list[str]) -> NoReturn:
    """Of arguments that the command does not have: in its own name, with the nearest one."""
    known = [option for action in command._actions for option in action.option_strings]
    near = difflib.get_close_matches(unknown[0].partition("=")[0], known, 1)
    hint = f"; did you mean {near[0]}?" if near else ""
    command.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Ours in one line; a library's as Python has them."""
    if not issubclass(category, RiverWarning):
        sys.stderr.write(warnings.formatwarning(message, category, filename, lineno))
        return
    text = " ".join(str(message).split())
    stderr_console().print(Text.assemble(("warning:", "bold yellow"), " ", text), soft_wrap=True)


def _report(message: str, code: int = BAD_INPUT) -> int:
    line = printable(" ".join(message.splitlines()))
    stderr_console().print(Text.assemble(("error:", "bold red"), " ", line), soft_wrap=True)
    return code


def _report_fault(error: BaseException, debug: bool) -> int:
    trace = "".join(traceback.format_exception(error))
    where = "run it with --debug to see the traceback"
    if debug:
        sys.stderr.write(trace)
        where = "the traceback is above"
    else:
        with suppress(OSError, RiverError):
            where = f"the traceback is in {write_fault(trace)}"
    return _report(
        f"this is a fault of river-trt, please report it ({describe(error)}); {where}", FAULT
    )


if __name__ == "__main__":
    sys.exit(main())
