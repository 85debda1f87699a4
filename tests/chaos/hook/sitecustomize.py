"""Faults on order: what FAULTS asks for happens at a named function, in any process.

Python imports a module of this name at its start wherever it is first on the path, so every
process of a launch has it. FAULTS is a JSON list of faults (below); without it
nothing happens. A fault names a function where it is looked up, as `unittest.mock.patch` has it:
"package.module:name" or "package.module:Class.name".

    at      the function
    do      raise, errno, kill, tear, half a message, segfault, sleep, note, or run: learn which
            run is under way
    after   when the function has returned, not before
    call    at the n-th call in a process (else at each)
    rank    in one process of a launch only
    run     in one run only, and once
    once    a file that is made when it happens, so that it happens once in all processes
    all     kill and tear: the command itself dies, too
"""

from __future__ import annotations

import functools
import importlib.abc
import json
import os
import signal
import sys
import time

_run = ""  # the run under way in this process
_FAULTS = json.loads(os.environ.get("FAULTS", "[]"))


def _happen(fault, args):
    global _run
    do = fault["do"]
    fault["done"] = True
    if fault.get("once"):  # once in all processes together, also after a restart
        try:
            os.close(os.open(fault["once"], os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return
    if do == "run":
        _run = args[0].name
    else:
        _ACTIONS[do](fault, args)


def _raise(fault, args):
    raise RuntimeError(f"injected at {fault['at']}")


def _errno(fault, args):
    raise OSError(fault["errno"], os.strerror(fault["errno"]))


def _kill(fault, args):
    main = int(os.environ.get("CHAOS_MAIN", os.getpid()))
    if fault.get("all") and main != os.getpid():
        os.kill(main, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


def _tear(fault, args):
    """Leave the file that the function was given half written, and nobody to go on."""
    if os.path.isfile(args[0]):
        os.truncate(args[0], os.path.getsize(args[0]) // 2)
    _kill(fault, args)


def _half_message(fault, args):
    """Say to the parent how long the next message is, and the half of it."""
    os.write(args[0]._connection.fileno(), (64).to_bytes(4, "big") + b"h" * 32)
    _kill(fault, args)


def _segfault(fault, args):
    os.kill(os.getpid(), signal.SIGSEGV)


def _sleep(fault, args):
    time.sleep(fault["seconds"])


def _note(fault, args):
    what = f"{fault['at']}{':after' if fault.get('after') else ''}"
    with open(fault["file"], "a") as file:
        file.write(f"{what} {os.getpid()} {time.time()} {_run}\n")


_ACTIONS = {
    "raise": _raise,
    "errno": _errno,
    "kill": _kill,
    "tear": _tear,
    "half a message": _half_message,
    "segfault": _segfault,
    "sleep": _sleep,
    "note": _note,
}


def _is_due(fault, calls):
    rank, run = fault.get("rank"), fault.get("run")
    if rank is not None and rank != int(os.environ.get("RANK", "0")):
        return False
    if run is not None:
        return run == _run and not fault.get("done")
    return fault.get("call") in (None, calls)


def _wrapped(function, faults):
    calls = 0

    @functools.wraps(function)
    def call(*args, **kwargs):
        nonlocal calls
        calls += 1
        due = [fault for fault in faults if _is_due(fault, calls)]
        for fault in due:
            if not fault.get("after"):
                _happen(fault, args)
        result = function(*args, **kwargs)
        for fault in due:
            if fault.get("after"):
                _happen(fault, args)
        return result

    return call


def _install(module, name):
    """Wrap the functions of a module that faults name."""
    for place in {fault["at"] for fault in _FAULTS if fault["at"].startswith(name + ":")}:
        *owners, last = place.partition(":")[2].split(".")
        faults = [fault for fault in _FAULTS if fault["at"] == place]
        try:
            owner = functools.reduce(getattr, owners, module)
            setattr(owner, last, _wrapped(getattr(owner, last), faults))
        except AttributeError:  # a fault that cannot happen must not pass for one survived
            os.write(2, f"no such place for a fault: {place}\n".encode())
            os._exit(97)


class _Loader(importlib.abc.Loader):
    def __init__(self, inner, name):
        self._inner, self._name = inner, name

    def create_module(self, spec):
        return self._inner.create_module(spec)

    def exec_module(self, module):
        self._inner.exec_module(module)
        _install(module, self._name)


class _Finder(importlib.abc.MetaPathFinder):
    _names = frozenset(fault["at"].partition(":")[0] for fault in _FAULTS)

    def find_spec(self, name, path, target=None):
        if name not in self._names:
            return None
        for finder in sys.meta_path:
            if finder is self or not hasattr(finder, "find_spec"):
                continue
            spec = finder.find_spec(name, path, target)
            if spec is not None and spec.loader is not None:
                spec.loader = _Loader(spec.loader, name)
                return spec
        return None


if _FAULTS:
    for _name in _Finder._names & sys.modules.keys():
        _install(sys.modules[_name], _name)
    sys.meta_path.insert(0, _Finder())
