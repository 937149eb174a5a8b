"""What tests of several rooms and the scripts share; ``tests`` is on the path. Importing it puts this clone first."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
