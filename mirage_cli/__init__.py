"""mirage: restyle video as it plays, one frame in, one frame out, prompted by text.

Read ``lsd/stream.py``, ``lsd/model.py`` and ``pipeline.py``, in this order.
"""

from __future__ import annotations

from pathlib import Path as _Path

__version__ = "0.1.0"

# kernels/ and models/ stand at the top of a clone and inside an installed package. This lets a
# clone run that was not installed: python -m mirage_cli, or pytest.
_clone = _Path(__file__).resolve().parent.parent
if (_clone / "pyproject.toml").is_file() and (_clone / "models" / "catalog.py").is_file():
    __path__.append(str(_clone))
