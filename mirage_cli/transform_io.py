"""Where ``mirage transform`` takes its frames from and puts them."""

from __future__ import annotations

from mirage_cli.config import Size

CPU_LIMIT: Size = (768, 432)
"""More pixels than this are scaled down by default where the model runs on a CPU."""

PIPE = "-"
