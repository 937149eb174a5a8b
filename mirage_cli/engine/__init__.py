"""The engine: plans of kernel launches, ops in two implementations (PTX kernels, torch), captured frames."""
