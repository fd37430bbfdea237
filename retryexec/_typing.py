"""Names of `typing` that the oldest supported Pythons do not have yet, from one place.

Python 3.12 has them all; before that they come from typing-extensions, which takes some 10 ms to
import and is spared where it is not needed.
"""

import sys

if sys.version_info >= (3, 12):
    from typing import Unpack, override
else:
    from typing_extensions import Unpack, override

__all__ = ["Unpack", "override"]
