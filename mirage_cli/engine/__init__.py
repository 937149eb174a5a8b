"""The engine: ops in two implementations (PTX kernels, torch), and captured frames."""
