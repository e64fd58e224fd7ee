"""The agent's Python, compiled: what a guest gets with its first file system so that it searches for nothing.

Each module that the agent imports, ours and the standard library's, is one file under one directory, already
compiled; the interpreter finds it there at the first look, without a request to the host.
"""

from __future__ import annotations

import json
import os
import py_compile
import sys
import tempfile
from pathlib import Path

from . import initramfs, tools
from .keep import kept, state

AGENT = "hwpoison.lab.agent"  # with all its modules: what is not in the bundle cannot be imported from it
LIST = """
import importlib, json, pkgutil, sys
for each in pkgutil.iter_modules(importlib.import_module(sys.argv[1]).__path__, sys.argv[1] + "."):
    importlib.import_module(each.name)
specs = {name: getattr(module, "__spec__", None) for name, module in sys.modules.items()}
files = [(name, spec) for name, spec in specs.items() if spec and spec.has_location]
print(json.dumps([[name, spec.origin, bool(spec.submodule_search_locations)] for name, spec in files]))
"""
LIST_SECONDS = 120.0


def bundle() -> Path:
    """The archive with the agent's Python, made once for each state of the sources."""
    sources = map(state, sorted((tools.SOURCE / "hwpoison").rglob("*.py")))
    return kept("python", [sys.version, sys.executable, *sources], _archive)


def _archive() -> bytes:
    files: list[tuple[str, bytes]] = []
    directories = [initramfs.PYTHON]
    for name, origin, package in _modules():
        place = f"{initramfs.PYTHON}/{name.replace('.', '/')}"
        if package:
            directories.append(place)
            place += "/__init__"
        if origin.suffix == ".py":
            files.append((f"{place}.pyc", _compiled(origin)))
        elif origin.suffix == ".so":
            files.append((f"{Path(place).parent}/{origin.name}", origin.read_bytes()))
    return initramfs.archive(files, sorted(directories))


def _modules() -> list[tuple[str, Path, bool]]:
    """Name and file of each module that the agent imports, and whether it is a package."""
    command = ["env", f"PYTHONPATH={tools.SOURCE}", sys.executable, "-S", "-s", "-c", LIST, AGENT]
    said = tools.run(command, seconds=LIST_SECONDS)
    return [(name, Path(origin), package) for name, origin, package in json.loads(said)]


def _compiled(source: Path) -> bytes:
    with tempfile.TemporaryDirectory() as work:
        target = os.path.join(work, "compiled")
        mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
        py_compile.compile(str(source), target, doraise=True, invalidation_mode=mode)
        return Path(target).read_bytes()
