"""The command `qwell`: its subcommands, and how faults leave it.

A QwellError is one line on stderr and its exit code; a wrong option is exit 2, Ctrl-C 130, a closed
pipe silence, lack of memory and refusals of the operating system one line. All else is a bug of
ours: one line and exit 70; QWELL_DEBUG=1 adds the traceback. Only the command that is asked for is
imported.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path

from qwell.cli.options import OPTIONS, Parser
from qwell.errors import MemoryBudgetError, QwellError, StorageError, UsageError

BUG, INTERRUPTED, PIPE_CLOSED = 70, 130, 141

COMMANDS = {
    "run": ("qwell.cli.run:run", "Answer one prompt."),
    "chat": ("qwell.cli.chat:chat", "Talk with a model; /help tells the commands."),
    "serve": ("qwell.cli.serve:serve", "Serve OpenAI's API to programs and people."),
    "batch": ("qwell.cli.batch:batch", "Answer a file of requests in OpenAI's batch format."),
    "key": ("qwell.cli.serve:key", "Make a key for the key file of serve."),
    "pull": ("qwell.cli.pull:pull", "Fetch a model and verify it."),
    "list": ("qwell.cli.list:list_models", "List the models on this machine."),
    "show": ("qwell.cli.show:show", "Tell what a model is: sizes, memory, sampling, licence."),
    "rm": ("qwell.cli.rm:rm", "Delete a model and what was packed from it."),
    "tokenize": ("qwell.cli.tokenize:tokenize", "Show how a model reads a text."),
    "verify": ("qwell.cli.verify:verify", "Compare the program with its float32 reference."),
    "bench": ("qwell.cli.bench:bench", "Measure speed, and how near it is to the machine's best."),
    "train": ("qwell.cli.train:train", "Learn: pre-training, fine-tuning, LoRA, a whole life."),
    "export": ("qwell.cli.export:export", "Write a model as a Hugging Face folder or a GGUF."),
    "merge": ("qwell.cli.export:merge", "Write a model with an adapter merged into it."),
    "doctor": ("qwell.cli.doctor:doctor", "Check this machine and this installation."),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command line (default: the process's own); gives the exit code of the process."""
    _prepare_streams()
    try:
        _invoke(sys.argv[1:] if argv is None else list(argv))
        sys.stdout.flush()
        return 0
    except SystemExit:  # argparse, after it has printed a help
        return 0
    except BrokenPipeError:
        _drop_stdout()
        return PIPE_CLOSED
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:
        return _report(error)


def _prepare_streams() -> None:
    """Model text is UTF-8 whatever the locale says, a strange file name must not hide an error,
    and a process that was started without a stdout may still do its work."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115
        getattr(sys, name).reconfigure(encoding="utf-8", errors="backslashreplace")


def _drop_stdout() -> None:
    """What cannot be written now must not be tried, and complained of, again at exit."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _invoke(argv: list[str]) -> None:
    name = argv[0] if argv else "--help"
    if name == "help" and len(argv) > 1:
        _invoke([*argv[1:], "--help"])
    elif name in ("-h", "--help", "help"):
        print(_help())
    elif name in ("--version", "-V", "version"):
        from importlib.metadata import version

        print(f"qwell {version('qwell')}")
    elif name not in COMMANDS:
        near = get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {near[0]}?" if near else "see qwell --help"
        raise UsageError(f"there is no command {name!r}: {hint}")
    else:
        place, text = COMMANDS[name]
        module, _, function = place.partition(":")
        if name not in OPTIONS:  # it has subcommands and reads its line itself
            getattr(import_module(module), function)(argv[1:])
            return
        arguments = Parser(name, text, OPTIONS[name]).parse(argv[1:])
        getattr(import_module(module), function)(**arguments)


def _help() -> str:
    lines = [f"  {name:<11}{text}" for name, (_, text) in COMMANDS.items()]
    return "\n".join(
        [
            "qwell: Qwen2.5 on this machine's CPU",
            "",
            *lines,
            "",
            "qwell COMMAND --help tells its options, qwell --version the version.",
            'Start with: qwell run qwen2.5-coder:0.5b "Write a haiku about memory."',
        ]
    )


def _report(error: Exception) -> int:
    """Says on one line what went wrong; gives the exit code."""
    message, code = _explain(error)
    if os.environ.get("QWELL_DEBUG") == "1":
        import traceback

        traceback.print_exception(error)
    line = " ".join(message.split())
    line = line if len(line) <= 1000 else f"{line[:1000]} ..."
    print(f"qwell: {line}", file=sys.stderr, flush=True)
    if isinstance(error, OSError):
        _drop_stdout()
    return code


def _explain(error: Exception) -> tuple[str, int]:
    if isinstance(error, QwellError):
        return str(error), error.exit_code
    if isinstance(error, MemoryError):
        advice = "out of memory: take a smaller model or --ctx, or close other programs"
        return advice, MemoryBudgetError.exit_code
    if isinstance(error, OSError) and error.strerror:
        at = "" if error.filename is None else f"{error.filename}: "
        return f"{at}{error.strerror}; check the disk and its permissions", StorageError.exit_code
    if isinstance(error, ImportError):
        return f"a part of qwell cannot be loaded ({error}): see qwell doctor", 1
    if isinstance(error, RuntimeError) and "start new thread" in str(error):
        advice = "no thread can be started: raise the limits on memory or processes (ulimit -a)"
        return advice, MemoryBudgetError.exit_code
    if isinstance(error, RuntimeError) and "gloo" in str(error):
        return "another process of this run has ended: what it said tells why", 1
    what = f"{type(error).__name__}: {error}"
    return f"this is a bug of qwell ({what}); QWELL_DEBUG=1 shows where, please report it", BUG
