// Reading flow and pictures between their pixels.
#pragma once
#include "tensor_core.cuh"

// Flow at (x, y) from a field that is FACTOR times as small: bilinear, centres aligned, vectors scaled.
template <int FACTOR>
__device__ __forceinline__ float2 flow_at(const float* __restrict__ flow, int x, int y, int height, int width) {
    const int h = height / FACTOR, w = width / FACTOR;
    if (FACTOR == 1) return make_float2(flow[size_t(y) * w + x], flow[size_t(h) * w + size_t(y) * w + x]);
    const float sx = fmaxf((x + 0.5f) * (1.f / FACTOR) - 0.5f, 0.f), sy = fmaxf((y + 0.5f) * (1.f / FACTOR) - 0.5f, 0.f);
    const int x0 = int(sx), y0 = int(sy), x1 = min(x0 + 1, w - 1), y1 = min(y0 + 1, h - 1);
    const float wx = sx - x0, wy = sy - y0;
    float v[2];
#pragma unroll
    for (int c = 0; c < 2; ++c) {
        const float* plane = flow + size_t(c) * h * w;
        const float top = plane[y0 * w + x0] * (1.f - wx) + plane[y0 * w + x1] * wx;
        const float bottom = plane[y1 * w + x0] * (1.f - wx) + plane[y1 * w + x1] * wx;
        v[c] = FACTOR * (top * (1.f - wy) + bottom * wy);
    }
    return make_float2(v[0], v[1]);
}

struct Sample {  // a bilinear sample's place: four neighbours and two weights
    int a, b, c, d;
    float wx, wy;
    __device__ __forceinline__ float of(const float* __restrict__ plane) const {
        const float top = plane[a] * (1.f - wx) + plane[b] * wx, bottom = plane[c] * (1.f - wx) + plane[d] * wx;
        return top * (1.f - wy) + bottom * wy;
    }
};
__device__ __forceinline__ Sample sample_at(float x, float y, int height, int width) {
    // fmaxf(NaN, 0) is 0: a broken flow reads the first row or column, never outside
    x = fminf(fmaxf(x, 0.f), width - 1.f);
    y = fminf(fmaxf(y, 0.f), height - 1.f);
    const int x0 = int(x), y0 = int(y), x1 = min(x0 + 1, width - 1), y1 = min(y0 + 1, height - 1);
    return {y0 * width + x0, y0 * width + x1, y1 * width + x0, y1 * width + x1, x - x0, y - y0};
}

struct CubicSample {  // a bicubic sample's place (Keys 1981, a = -0.75): four rows and columns, and their weights
    int row[4], column[4];
    float down[4], across[4];
    __device__ __forceinline__ float of(const float* __restrict__ plane) const {
        float sum = 0.f;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const float* line = plane + row[i];
            sum += down[i] * (line[column[0]] * across[0] + line[column[1]] * across[1] + line[column[2]] * across[2] +
                              line[column[3]] * across[3]);
        }
        return fminf(fmaxf(sum, -1.f), 1.f);  // it may overshoot
    }
};
__device__ __forceinline__ void cubic_weights(float t, float (&weights)[4]) {
    constexpr float A = -0.75f;
    const float s = 1.f - t;
    weights[0] = A * t * s * s;
    weights[1] = ((A + 2.f) * t - (A + 3.f)) * t * t + 1.f;
    weights[2] = ((A + 2.f) * s - (A + 3.f)) * s * s + 1.f;
    weights[3] = A * s * t * t;
}
__device__ __forceinline__ CubicSample cubic_sample_at(float x, float y, int height, int width) {
    // Beyond one pixel outside nothing changes any more; fmaxf(NaN, -1) is -1.
    x = fminf(fmaxf(x, -1.f), float(width));
    y = fminf(fmaxf(y, -1.f), float(height));
    const float left = floorf(x), top = floorf(y);
    CubicSample at;
    cubic_weights(x - left, at.across);
    cubic_weights(y - top, at.down);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        at.row[i] = min(max(int(top) + i - 1, 0), height - 1) * width;
        at.column[i] = min(max(int(left) + i - 1, 0), width - 1);
    }
    return at;
}
