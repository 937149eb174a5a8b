// What the CUDA C++ kernels share: element types and conversions.
//
// The toolkit's fp16 headers are left out on purpose: a kernel here stores types, it does not compute
// in them, so a few conversions suffice and the PTX stays readable.
#pragma once

struct F16 { unsigned short bits; };
struct BF16 { unsigned short bits; };

__device__ __forceinline__ float to_float(F16 v) {
    float f;
    asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(v.bits));
    return f;
}

__device__ __forceinline__ void from_float(float f, F16& v) {
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(v.bits) : "f"(f));
}
__device__ __forceinline__ void from_float(float f, BF16& v) {
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(v.bits) : "f"(f));  // sm_80
}
