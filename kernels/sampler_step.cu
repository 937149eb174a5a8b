// sampler_step: y = a * x0 + b * noise, the noising of a sampler step. NHWC, one chunk of 8 channels a
// thread. (a, b) are read from device memory, so that a captured graph takes new ones without a new
// capture. y may be x0 or noise.
//
// Launch: block (256), grid (ceil(pixels * channels / 8 / 256)).
#include "common.cuh"

template <typename T>
__device__ __forceinline__ void sampler_step(
    const T* x0, const T* noise, T* out, const float* coefficients,
    unsigned x0_pixel, unsigned noise_pixel, unsigned out_pixel,  // elements from a pixel to the next
    unsigned chunks, unsigned total) {
    const unsigned index = blockIdx.x * 256u + threadIdx.x;
    if (index >= total) return;
    const size_t pixel = index / chunks;
    const size_t channel = 8u * (index % chunks);
    const float a = coefficients[0];
    const float b = coefficients[1];
    const Chunk<T> x = load_chunk(x0 + pixel * x0_pixel + channel);
    const Chunk<T> n = load_chunk(noise + pixel * noise_pixel + channel);
    Chunk<T> y;
#pragma unroll
    for (int i = 0; i < 8; ++i)  // two roundings in the products, as the reference has
        from_float(__fadd_rn(__fmul_rn(a, to_float(x.v[i])), __fmul_rn(b, to_float(n.v[i]))), y.v[i]);
    store_chunk(out + pixel * out_pixel + channel, y);
}

#define ENTRY(name, T)                                                                                  \
    extern "C" __global__ void __launch_bounds__(256) name(                                              \
        const T* x0, const T* noise, T* out, const float* coefficients, unsigned x0_pixel,               \
        unsigned noise_pixel, unsigned out_pixel, unsigned chunks, unsigned total) {                     \
        sampler_step<T>(x0, noise, out, coefficients, x0_pixel, noise_pixel, out_pixel, chunks, total);  \
    }
ENTRY(mirage_sampler_step_f16, F16)
ENTRY(mirage_sampler_step_bf16, BF16)
ENTRY(mirage_sampler_step_f32, float)
