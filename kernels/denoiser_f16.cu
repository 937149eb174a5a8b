// The denoiser's convolutions in fp16.
// targets: sm_80 sm_90
#include "common.cuh"
#define ELEMENT F16
#define SUFFIX f16
#include "conv_layers.cuh"
#include "attention.cuh"
