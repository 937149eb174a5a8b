// What the CUDA C++ kernels share: element types, 128-bit chunks of 8 channels, conversions.
//
// The toolkit's fp16 headers are left out on purpose: a kernel here stores types, it does not compute
// in them, so four conversions suffice and the PTX stays readable.
#pragma once

struct F16 { unsigned short bits; };
struct BF16 { unsigned short bits; };

__device__ __forceinline__ float to_float(F16 v) {
    float f;
    asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(v.bits));
    return f;
}
__device__ __forceinline__ float to_float(BF16 v) { return __uint_as_float(unsigned(v.bits) << 16); }
__device__ __forceinline__ float to_float(float v) { return v; }

__device__ __forceinline__ void from_float(float f, F16& v) {
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(v.bits) : "f"(f));
}
__device__ __forceinline__ void from_float(float f, BF16& v) {
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(v.bits) : "f"(f));  // sm_80
}
__device__ __forceinline__ void from_float(float f, float& v) { v = f; }

// 8 neighbouring channels: 16 bytes of F16 or BF16, 32 of float; moved 16 bytes at a time.
template <typename T>
struct alignas(16) Chunk { T v[8]; };

template <typename T>
__device__ __forceinline__ Chunk<T> load_chunk(const T* p) {
    union { Chunk<T> chunk; uint4 words[sizeof(T) / 2]; } u;
#pragma unroll
    for (int i = 0; i < int(sizeof(T) / 2); ++i) u.words[i] = reinterpret_cast<const uint4*>(p)[i];
    return u.chunk;
}

template <typename T>
__device__ __forceinline__ void store_chunk(T* p, const Chunk<T>& c) {
    union { Chunk<T> chunk; uint4 words[sizeof(T) / 2]; } u;
    u.chunk = c;
#pragma unroll
    for (int i = 0; i < int(sizeof(T) / 2); ++i) reinterpret_cast<uint4*>(p)[i] = u.words[i];
}
