"""GPU kernels: CUDA sources, the PTX made from them, and their loader."""
