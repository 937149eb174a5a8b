// The denoiser's layers as instances of conv.cuh. Included by conv_f16.cu and conv_bf16.cu, which name the
// element type ELEMENT and the suffix of the entries; engine/program.py lists the same shapes.
#pragma once
#define CONV_COMPOSE
#include "compose.cuh"

#define LAYER(name, suffix, ...) LAYER_(name, suffix, __VA_ARGS__)
#define LAYER_(name, suffix, ...)                                                                     \
    extern "C" __global__ void __launch_bounds__(256, 2) mirage_##name##_##suffix(const ConvParams p) { \
        extern __shared__ __align__(128) char shared[];                                              \
        layer<Conv<ELEMENT, __VA_ARGS__>>(shared, p);                                                \
    }

//    name                    C0 taps stride up  C1  WM WN  S RING head            tail
LAYER(stem, SUFFIX,           112,  1,  1,  0,   48,  2, 2,  5, 1, AS_IS,          RESIDUAL)
LAYER(block64_first, SUFFIX,   64,  9,  1,  0,    0,  2, 2,  3, 6, NORM_FILM_SILU, FILM_SILU)
LAYER(block64_second, SUFFIX,  64,  9,  1,  0,    0,  2, 2,  3, 6, AS_IS,          RESIDUAL)
LAYER(down0, SUFFIX,           64,  9,  2,  0,   96,  1, 2,  1, 5, AS_IS,          STORE)
LAYER(block128_first, SUFFIX, 128,  9,  1,  0,    0,  1, 2,  3, 3, NORM_FILM_SILU, FILM_SILU)
LAYER(block128_second, SUFFIX, 128, 9,  1,  0,    0,  1, 2,  3, 3, AS_IS,          RESIDUAL)
LAYER(down1, SUFFIX,          128,  9,  2,  0,    0,  1, 1,  1, 3, AS_IS,          STORE)
LAYER(block256_first, SUFFIX, 256,  9,  1,  0,    0,  1, 1,  2, 3, NORM_FILM_SILU, FILM_SILU)
LAYER(block256_second, SUFFIX, 256, 9,  1,  0,    0,  1, 1,  2, 3, AS_IS,          RESIDUAL)
LAYER(attention_in, SUFFIX,   256,  1,  1,  0,    0,  1, 2,  4, 1, NORM,           STORE)
LAYER(attention_out, SUFFIX,  256,  1,  1,  0,    0,  1, 1,  2, 1, AS_IS,          RESIDUAL)
LAYER(up1, SUFFIX,            256,  1,  1,  1,  128,  1, 2,  3, 2, AS_IS,          STORE)
LAYER(up0, SUFFIX,            128,  1,  1,  1,   64,  2, 2,  3, 2, AS_IS,          STORE)

#define OUT_LAYER(suffix) OUT_LAYER_(suffix)
#define OUT_LAYER_(suffix)                                                                                     \
    extern "C" __global__ void __launch_bounds__(256, 2) mirage_out_##suffix(const ConvParams p, const ComposeParams q) { \
        extern __shared__ __align__(128) char shared[];                                                       \
        compose_layer<Conv<ELEMENT, 64, 9, 1, 0, 0, 2, 2, 3, 6, AS_IS, COMPOSE>>(shared, p, q);               \
    }
OUT_LAYER(SUFFIX)
