"""mirage: turn a video, a camera or a stream into another look, prompted by text, live."""

import os
from pathlib import Path

__version__ = "0.1.0"

# OpenCV reads this when it is first imported. Its own limit lets the header of a picture ask for 3 GB.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(1 << 27))

# kernels/ and models/ lie beside this package in a clone, and inside it once installed. A clone that
# is only on the path finds them as well.
_clone = Path(__file__).resolve().parent.parent
if (_clone / "pyproject.toml").is_file() and (_clone / "models" / "catalog.py").is_file():
    __path__.append(str(_clone))
