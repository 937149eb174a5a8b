// The denoiser's convolutions in bf16.
// targets: sm_80 sm_90
#include "common.cuh"
#define ELEMENT BF16
#define SUFFIX bf16
#include "conv_layers.cuh"
#include "attention.cuh"
