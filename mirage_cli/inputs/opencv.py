"""OpenCV as the inputs use it."""

from __future__ import annotations

import cv2


def quiet_opencv() -> None:
    """Switch off OpenCV's own warnings on stderr, which break the dashboard; mirage's errors replace them."""
    if hasattr(cv2, "setLogLevel"):
        cv2.setLogLevel(0)
    else:  # OpenCV 5
        cv2.utils.logging.setLogLevel(0)
