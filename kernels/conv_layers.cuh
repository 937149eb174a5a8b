// The denoiser's convolutions: an instance of conv.cuh for each line of conv_table.cuh. Included by denoiser_f16.cu
// and denoiser_bf16.cu, which name the element type (ELEMENT) and the suffix of the entries (SUFFIX).
#pragma once
#define CONV_COMPOSE
#include "compose.cuh"

#define ENTRY(name, suffix, ...) ENTRY_(name, suffix, __VA_ARGS__)
#define ENTRY_(name, suffix, ...) \
    extern "C" __global__ void __launch_bounds__(256, 2) mirage_##name##_##suffix(__VA_ARGS__)

// LAYER(name, shape..., head, tail): a kernel whose last parameter depends on the tail.
#define LAYER(name, C0, TAPS, STRIDE, UP, C1, WM, WN, S, RING, HEAD, TAIL) \
    LAYER_##TAIL(name, Conv<ELEMENT, C0, TAPS, STRIDE, UP, C1, WM, WN, S, RING, HEAD, TAIL>)
#define LAYER_STORE PLAIN_LAYER
#define LAYER_FILM_SILU PLAIN_LAYER
#define LAYER_RESIDUAL PLAIN_LAYER
#define LAYER_COMPOSE COMPOSED_LAYER

#define PLAIN_LAYER(name, ...)                          \
    ENTRY(name, SUFFIX, const ConvParams p) {           \
        extern __shared__ __align__(128) char shared[]; \
        layer<__VA_ARGS__>(shared, p);                  \
    }
#define COMPOSED_LAYER(name, ...)                                      \
    ENTRY(name, SUFFIX, const ConvParams p, const ComposeParams q) {   \
        extern __shared__ __align__(128) char shared[];                \
        compose_layer<__VA_ARGS__>(shared, p, q);                      \
    }

#include "conv_table.cuh"
