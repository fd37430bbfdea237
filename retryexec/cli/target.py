"""TARGET: find the dataclass that makes a job of each record, and refuse what cannot be one."""

import dataclasses
import importlib
import importlib.util
import inspect
import pkgutil
import sys
import sysconfig
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from retryexec.cli.options import UsageError, did_you_mean
from retryexec.cli.output import clean

_EXPECTED = "expected file.py:Class or package.module:Class, a dataclass with exec()"


def load(target: str) -> type[Any]:
    """Return the class that *target* names: ``file.py:Class`` or ``package.module:Class``.

    A class within another is ``file.py:Outer.Inner``. As Python itself does, it looks for
    further modules beside a file, and in the current directory for a module.

    Raises:
        UsageError: there is no such file, module or class, importing it fails, or the class is
            not a dataclass with a plain ``exec()``.
    """
    path = file_of(target)
    place, colon, name = target.rpartition(":")
    if not colon or name.endswith(".py"):  # in C:file.py, the colon belongs to the path
        place, name = target, ""
    module = _import_file(path) if path else _import_module(place, target)
    if not name:
        msg = f"{target!r} names no class: {_EXPECTED}{_hint(module, place)}"
        raise UsageError(msg)
    found = _attribute(module, name)
    if found is None:
        hint = did_you_mean(name, _fitting(module)) or _hint(module, place) or f": {_EXPECTED}"
        msg = f"{place} does not have a class {name!r}{hint}"
        raise UsageError(msg)
    _check(found, name)
    return cast("type[Any]", found)


def load_function(name: str) -> Callable[..., Any]:
    """Return the function that *name* is of: ``module:function`` or ``file.py:function``.

    Raises:
        UsageError: there is no such function, or importing its module fails.
    """
    path = file_of(name)
    place, colon, attribute = name.rpartition(":")
    if not colon or not place or not attribute or attribute.endswith(".py"):
        msg = f"{name!r} names no function: expected module:function or file.py:function"
        raise UsageError(msg)
    module = _import_file(path) if path else _import_module(place, name)
    found = _attribute(module, attribute)
    if not callable(found):
        msg = f"{place} does not have a function {attribute!r}"
        raise UsageError(msg)
    return cast("Callable[..., Any]", found)


def file_of(target: str) -> Path | None:
    """Return the path of a *target* that names a file, and None for a module."""
    place, _, name = target.rpartition(":")
    if name.endswith(".py"):
        return Path(target)
    return Path(place) if place.endswith(".py") else None


def identity_of(target: str, cls: type[Any]) -> str:
    """Return *target* without the folders it is in, which may be moved: ``savers:Save``."""
    path = file_of(target)
    module = path.stem if path else target.rpartition(":")[0].rpartition(".")[2]
    return clean(f"{module}:{cls.__qualname__}")


def _attribute(module: ModuleType, name: str) -> object:
    try:
        return cast("object", pkgutil.resolve_name(f"{module.__name__}:{name}"))
    except (AttributeError, ValueError):
        return None


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        msg = f"there is no file {str(path)!r}: {_EXPECTED}"
        raise UsageError(msg)
    # Under its own name, so that --retry-on and the file's neighbours can import it too; but
    # never in the place of a module that is already there. A dot would make it a submodule.
    name = path.stem.replace(".", "_")
    name = name if name.isidentifier() and name not in sys.modules else f"retryexec_target_{name}"
    name = "".join(c if c.isalnum() else "_" for c in name)
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:  # pragma: no cover  not for a name ending in .py
        msg = f"{str(path)!r} cannot be imported: {_EXPECTED}"
        raise UsageError(msg)
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
    with suppress(OSError):  # the current directory may have been removed
        sys.path.insert(0, str(Path.cwd()))
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing is not None and f"{name}.".startswith(f"{missing}."):
            msg = f"there is no module {missing!r} for {target!r}: {_EXPECTED}"
            raise UsageError(msg) from error
        if not name or name.startswith("."):
            msg = f"{target!r} names no file or module: {_EXPECTED}"
            raise UsageError(msg) from error
        raise _broken(name, error) from error


def _broken(place: str, error: BaseException) -> UsageError:
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
    return UsageError(f"{place} cannot be imported: {type(error).__name__}: {said}{where}")


def _check(found: object, name: str) -> None:
    """Raise UsageError if no object of the class *found* could be a job."""
    if not isinstance(found, type):
        msg = f"{name} is not a class but {found!r}: {_EXPECTED}"
        raise UsageError(msg)
    if not dataclasses.is_dataclass(found):
        msg = f"{name} is not a dataclass: decorate it with @dataclass, so its fields are known"
        raise UsageError(msg)
    if inspect.isabstract(found):
        missing = ", ".join(sorted(getattr(found, "__abstractmethods__", ())))
        msg = f"{name} is abstract: name a class that defines {missing}"
        raise UsageError(msg)
    exec_ = getattr(found, "exec", None)
    if not callable(exec_):
        msg = (
            f"{name} does not have an exec(): give it the method that does the work, def exec(self)"
        )
        raise UsageError(msg)
    _check_exec(found, exec_, name)


def _check_exec(cls: type[Any], exec_: Callable[..., Any], name: str) -> None:
    if inspect.iscoroutinefunction(exec_) or inspect.isasyncgenfunction(exec_):
        msg = f"{name}.exec is a coroutine function; jobs run on threads: make it a plain def"
        raise UsageError(msg)
    if inspect.isgeneratorfunction(exec_):
        msg = f"{name}.exec is a generator function, so calling it does nothing: take out the yield"
        raise UsageError(msg)
    bound = isinstance(inspect.getattr_static(cls, "exec"), (staticmethod, classmethod))
    try:
        # Of the function itself: a decorator may fill in arguments of the one that it wraps.
        signature = inspect.signature(exec_, follow_wrapped=False)
    except (TypeError, ValueError):
        return  # one that cannot be asked, as of C
    try:
        signature.bind(*(() if bound else (None,)))
    except TypeError as error:
        msg = f"{name}.exec{signature} cannot be called as exec(), without arguments: {error}"
        raise UsageError(msg) from error


def _fitting(module: ModuleType) -> list[str]:
    """Return the names of the classes in *module* that would do."""
    return [
        name
        for name, value in vars(module).items()
        if isinstance(value, type)
        and value.__module__ == module.__name__
        and dataclasses.is_dataclass(value)
        and callable(getattr(value, "exec", None))
    ]


def _hint(module: ModuleType, place: str) -> str:
    fitting = [f"{place}:{name}" for name in _fitting(module)]
    return f"; did you mean {' or '.join(fitting)}?" if fitting else ""
