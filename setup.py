"""The dependencies, of which one depends on the machine that installs.

``opencv-python`` is linked to X11, OpenGL and GLib, which a plain server or container lacks, and
there ``import cv2`` fails. ``opencv-python-headless`` is the same library without windows, which
such a machine cannot show anyway. Neither a marker of PEP 508 nor an extra can tell the two
apart, so it is decided here, and one install command works on both. Everything else is in
pyproject.toml.
"""

import ctypes
import sys

from setuptools import setup

DEPENDENCIES = [
    "click>=8.1.7",
    "ffmpeg-python>=0.2",
    "imageio-ffmpeg>=0.5.1",
    "numpy>=1.26",
    "rich>=13.7",
    "safetensors>=0.4.5",
    "tokenizers>=0.20",
    "tomli>=2; python_version < '3.11'",
    "torch>=2.6",
]

# What the opencv-python wheel for Linux takes from the system (the rest lies inside it).
WINDOW_LIBRARIES = (
    "libGL.so.1",
    "libgthread-2.0.so.0",
    "libX11.so.6",
    "libXext.so.6",
    "libxcb.so.1",
    "libSM.so.6",
    "libICE.so.6",
)


def opencv_dependency(platform=sys.platform, load=ctypes.CDLL):
    """The OpenCV wheel whose ``import cv2`` works here."""
    if platform.startswith("linux"):
        for library in WINDOW_LIBRARIES:
            try:
                load(library)
            except OSError:
                return "opencv-python-headless>=4.8"
    return "opencv-python>=4.8"


if __name__ == "__main__":
    setup(install_requires=[*DEPENDENCIES, opencv_dependency()])
