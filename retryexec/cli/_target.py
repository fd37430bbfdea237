"""TARGET: find the dataclass that makes a job of each record."""

import dataclasses
import importlib
import importlib.util
import inspect
import sys
import sysconfig
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from retryexec.cli._misuse import Misuse

EXPECTED = "expected file.py:Class or package.module:Class, a dataclass with exec()"


def load(target: str) -> type[Any]:
    """Return the class that *target* names: ``file.py:Class`` or ``package.module:Class``.

    As Python itself does, it looks for further modules beside a file, and in the current
    directory for a module.

    Raises:
        Misuse: there is no such file, module or class, importing it fails, or the class is no
            dataclass with a plain ``exec()``.
    """
    path = file_of(target)
    place, colon, name = target.rpartition(":")
    if not colon or name.endswith(".py"):  # in C:file.py, the colon belongs to the path
        place, name = target, ""
    module = _import_file(path) if path else _import_module(place, target)
    if not name:
        msg = f"{target!r} names no class: {EXPECTED}{_hint(module, place)}"
        raise Misuse(msg)
    found = getattr(module, name, None)
    if found is None:
        msg = f"{place} has no class {name!r}{_hint(module, place) or f': {EXPECTED}'}"
        raise Misuse(msg)
    _check(found, name)
    return found  # type: ignore[no-any-return]


def load_function(name: str) -> Callable[..., Any]:
    """Return the function that *name* is of: ``module:function`` or ``file.py:function``.

    Raises:
        Misuse: there is none, or importing its module fails.
    """
    path = file_of(name)
    place, colon, attribute = name.rpartition(":")
    if not colon or not place or not attribute or attribute.endswith(".py"):
        msg = f"{name!r} names no function: expected module:function or file.py:function"
        raise Misuse(msg)
    module = _import_file(path) if path else _import_module(place, name)
    found = getattr(module, attribute, None)
    if not callable(found):
        msg = f"{place} has no function {attribute!r}"
        raise Misuse(msg)
    return cast("Callable[..., Any]", found)


def file_of(target: str) -> Path | None:
    """Return the path of a *target* that names a file, and None for a module."""
    place, _, name = target.rpartition(":")
    if name.endswith(".py"):
        return Path(target)
    return Path(place) if place.endswith(".py") else None


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        msg = f"there is no file {str(path)!r}: {EXPECTED}"
        raise Misuse(msg)
    # Under its own name, so that --retry-on and the file's neighbours can import it too; but
    # never in the place of a module that is already there.
    name = path.stem if path.stem not in sys.modules else f"retryexec_target_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:  # pragma: no cover  not for a name ending in .py
        msg = f"{str(path)!r} cannot be imported: {EXPECTED}"
        raise Misuse(msg)
    sys.path.insert(0, str(path.resolve().parent))
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up there, to make sense of annotations given as text.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise _broken(str(path), error) from error
    return module


def _import_module(name: str, target: str) -> ModuleType:
    sys.path.insert(0, str(Path.cwd()))
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing is not None and f"{name}.".startswith(f"{missing}."):
            msg = f"there is no module {missing!r} for {target!r}: {EXPECTED}"
            raise Misuse(msg) from error
        if not name or name.startswith("."):
            msg = f"{target!r} names no file or module: {EXPECTED}"
            raise Misuse(msg) from error
        raise _broken(name, error) from error


def _broken(place: str, error: BaseException) -> Misuse:
    """Return the error for a module that fails while it is imported, naming the user's line."""
    said, where = str(error), ""
    if isinstance(error, SyntaxError):
        said, where = error.msg, f" ({error.filename}, line {error.lineno})"
    else:
        library = (sysconfig.get_path("stdlib"), __file__, "<")  # < as in <frozen importlib>
        frames = [
            frame
            for frame in traceback.extract_tb(error.__traceback__)
            if not frame.filename.startswith(library) and "site-packages" not in frame.filename
        ]
        if frames:
            where = f" ({frames[-1].filename}, line {frames[-1].lineno})"
    return Misuse(f"{place} cannot be imported: {type(error).__name__}: {said}{where}")


def _check(found: object, name: str) -> None:
    if not isinstance(found, type):
        msg = f"{name} is no class but {found!r}: {EXPECTED}"
        raise Misuse(msg)
    if not dataclasses.is_dataclass(found):
        msg = f"{name} is no dataclass: decorate it with @dataclass, so its fields are known"
        raise Misuse(msg)
    exec_ = getattr(found, "exec", None)
    if not callable(exec_):
        msg = f"{name} has no exec(): give it the method that does the work, def exec(self)"
        raise Misuse(msg)
    if inspect.iscoroutinefunction(exec_) or inspect.isasyncgenfunction(exec_):
        msg = f"{name}.exec is a coroutine function; jobs run on threads: make it a plain def"
        raise Misuse(msg)
    if inspect.isgeneratorfunction(exec_):
        msg = f"{name}.exec is a generator function, so calling it does nothing: take out the yield"
        raise Misuse(msg)


def _hint(module: ModuleType, place: str) -> str:
    """Return what the user may have meant, if *module* holds a class that would do."""
    fitting = [
        name
        for name, value in vars(module).items()
        if isinstance(value, type)
        and value.__module__ == module.__name__
        and dataclasses.is_dataclass(value)
        and callable(getattr(value, "exec", None))
    ]
    return (
        f"; did you mean {' or '.join(f'{place}:{name}' for name in fitting)}?" if fitting else ""
    )
