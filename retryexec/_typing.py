"""Names of `typing` that the oldest supported Pythons do not have yet, from one place.

Python 3.13 has them all; before that they come from typing-extensions, which takes some 10 ms to
import and is spared where it is not needed.
"""

import sys

if sys.version_info >= (3, 13):
    from typing import TypeIs, TypeVar, Unpack, override
    from warnings import deprecated
else:
    from typing_extensions import TypeIs, TypeVar, Unpack, deprecated, override

__all__ = ["TypeIs", "TypeVar", "Unpack", "deprecated", "override"]
