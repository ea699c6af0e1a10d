"""The command line of every job: parse the flags, turn bad configuration into one line and exit 2, print tables."""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import difflib
import io
import itertools
import logging
import os
import re
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, get_type_hints

import tyro

from data_prep.media.errors import OurBug
from lingen.io.disk_errors import explain
from lingen.io.exit_codes import BAD_CONFIGURATION, DONE, FAILED, PREEMPTED
from lingen.io.redact import printable, redact_logs

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Config = TypeVar("Config", bound="DataclassInstance")


class Preempted(Exception):
    """The job was asked to stop: the state is saved, the same command continues later."""


def main(
    config_class: type[Config],
    job: Callable[[Config], object],
    defaults: Callable[[list[str]], dict[str, Any]] | None = None,
) -> NoReturn:
    """Parse the command line, run `job` on it and exit.

    Exit codes: 0 done, 1 the disk is full or a bug of ours, 2 bad configuration, 75 preempted (SIGTERM), 130 Ctrl-C.

    Args:
        config_class: the dataclass that the flags are parsed into.
        defaults: from the raw arguments, defaults of fields that depend on other flags.
    """
    quiet_libraries()
    config: Config | None = None
    told_to_end = threading.Event()

    def interrupt(number: int, frame: FrameType | None) -> None:
        told_to_end.set()
        raise KeyboardInterrupt  # the one exception of a signal that Ray hands on

    signal.signal(signal.SIGTERM, interrupt)
    try:
        config = parse(config_class, defaults=defaults(sys.argv[1:]) if defaults else {})
        _check_output(config)
        job(config)
    except ValueError as error:
        if not raised_by_us(error):
            raise  # a bug or a library's error: the traceback is worth more than one line
        fail(str(error))
    except Preempted as stop:
        print(f"preempted: {stop}", file=sys.stderr)
        leave(PREEMPTED)
    except KeyboardInterrupt:
        by = "SIGTERM" if told_to_end.is_set() else "Ctrl-C"
        print(f"stopped by {by}; the same command continues from here", file=sys.stderr)
        leave(PREEMPTED if told_to_end.is_set() else 130)
    except OurBug as bug:
        fail(str(bug), FAILED)
    except Exception as error:
        if (found := explain(error, getattr(config, "output", None))) is None:
            raise
        fail(*found)
    leave(DONE)


def quiet_libraries() -> None:
    """Log our packages' progress to stderr, and only warnings of libraries; switch usage reports off."""
    for switch in ("MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK"):
        os.environ.setdefault(switch, "true")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    for package in ("lingen", "data_prep", "pipelines", "jobs"):
        logging.getLogger(package).setLevel(logging.INFO)
    redact_logs()


def parse(
    config_class: type[Config], args: Sequence[str] | None = None, defaults: dict[str, Any] | None = None
) -> Config:
    """Parse with tyro.

    Args:
        args: the arguments; default: those of the process.
        defaults: values of fields that replace the class's own defaults.

    Raises:
        ValueError: a flag is unknown or missing, or its value is refused; one line.
    """
    captured = io.StringIO()
    default = _with_defaults(config_class, defaults) if defaults else tyro.MISSING_NONPROP
    try:
        with contextlib.redirect_stderr(captured):
            return tyro.cli(config_class, args=args, default=default)
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise ValueError(_one_line(captured.getvalue(), _positional(config_class))) from None


def fail(message: str, code: int = BAD_CONFIGURATION) -> NoReturn:
    """Print one line to stderr, and exit."""
    print("error: " + printable(" ".join(message.split())), file=sys.stderr)
    leave(code)


def leave(code: int) -> NoReturn:
    """Exit after Python's own clean-up, without the libraries' C++ destructors.

    Once in some tens of runs one of those aborts ("terminate called without an active exception"), and a finished job
    would have exit code 134.
    """
    atexit._run_exitfuncs()
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _check_output(config: object) -> None:
    """Refuse an output that would be lost, and one that would be replaced together with an input.

    Raises:
        ValueError: it is a relative path in Ray's temporary copy of the working directory; or an input, or a store, is
            inside the folder that --overwrite or --refilter replaces.
    """
    output = getattr(config, "output", None)
    in_copy = any(part.startswith("_ray_pkg_") for part in Path.cwd().parts)
    if in_copy and output is not None and "://" not in str(output) and not Path(output).is_absolute():
        raise ValueError(f"--output: {output} would be lost in Ray's temporary copy; give an absolute path")
    if output is None or not any(getattr(config, name, False) for name in ("overwrite", "refilter")):
        return
    for name, value in vars(config).items():
        for path in value if isinstance(value, tuple) else (value,):
            named = name != "output" and (isinstance(path, Path) or name == "input")
            if named and os.path.exists(path) and Path(path).resolve().is_relative_to(Path(output).resolve()):
                raise ValueError(f"--{name}: {path} is in --output {output}, which would be replaced; choose another")


def _with_defaults(config_class: type[Config], defaults: dict[str, Any]) -> Config:
    """An instance for tyro to start from; fields without a default stay required."""
    values = dict(defaults)
    for field in dataclasses.fields(config_class):
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and field.name not in values:
            values[field.name] = tyro.MISSING
    return config_class(**values)


def raised_by_us(error: BaseException) -> bool:
    """Whether the innermost frame is this project's: then the message is meant for the user."""
    frames = traceback.extract_tb(error.__traceback__)
    root = Path(__file__).parents[1]
    path = Path(frames[-1].filename).resolve()
    return path.is_relative_to(root) and "site-packages" not in path.parts


def _one_line(box: str, positional: Sequence[str]) -> str:
    """The text of tyro's boxed error, without the help texts in it.

    Args:
        box: as printed.
        positional: names of the arguments that have no flag.
    """
    body = [line.strip("│╰╯")[1:].rstrip() for line in box.splitlines() if not line.startswith("╭")]
    parts = [list(lines) for is_rule, lines in itertools.groupby(body, lambda line: set(line) == {"─"}) if not is_rule]
    unknown, missing, meant, rest = [], [], [], []
    for lines in parts:
        text = " ".join(" ".join(lines).split())
        flags = [line.split()[0] for line in lines[1:] if re.match(" {4}[^ ]", line)]
        if text.startswith("Missing from"):
            names = iter(positional)
            missing = [flag if flag.startswith("-") else next(names, flag).upper() for flag in flags]
        elif text.startswith("Unrecognized options"):
            unknown = text.partition(": ")[2].replace(",", "").split()
        elif text.startswith("Perhaps you meant"):
            meant = flags
        elif text and not text.startswith(("For full helptext", "Argument helptext")):
            rest.append(_plainer(text))
    meant = meant or difflib.get_close_matches(unknown[0] if unknown else "", missing, n=1)
    if unknown:
        rest.append(f"unknown: {' '.join(unknown)}{f' (did you mean {meant[0]}?)' if meant else ''}")
    if missing:
        rest.append(f"missing: {', '.join(missing)}")
    return f"{'; '.join(rest)} (see --help)"


def _plainer(text: str) -> str:
    """A refusal of tyro's in our words."""
    text = re.sub(r"^Error parsing (?:[\w.]+: (?=--)|(?=--))", "", text)
    text = re.sub(r"^Missing value for argument '(.+?)'\..*", r"\1: a value is missing", text)
    text = re.sub(r"invalid literal for int\(\) with base 10: (.*)", r"\1 is not a whole number", text)
    return re.sub("could not convert string to float: (.*)", r"\1 is not a number", text)


def _positional(config_class: type) -> list[str]:
    """Names of the fields that are given without a flag."""
    hints = get_type_hints(config_class, include_extras=True)
    return [name for name, hint in hints.items() if tyro.conf.Positional in getattr(hint, "__metadata__", ())]


def table(rows: Sequence[Sequence[object]], header: Sequence[str] | None = None) -> str:
    """Rows as aligned text, columns of numbers to the right."""
    cells = [[f"{c:.3g}" if isinstance(c, float) else printable(str(c)) for c in row] for row in rows]
    if header:
        cells.insert(0, list(header))
    if not cells:
        return ""
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    numeric = [all(isinstance(row[i], (int, float)) for row in rows) and rows for i in range(len(widths))]
    out = [
        "  ".join(c.rjust(w) if right else c.ljust(w) for c, w, right in zip(row, widths, numeric)).rstrip()
        for row in cells
    ]
    if header:
        out.insert(1, "  ".join("-" * w for w in widths))
    return "\n".join(out)
