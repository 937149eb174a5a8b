// The tail of the last convolution: what the network says of a 4x4 cell becomes finished pixels.
//
//   frame = x + input;  frame += keep * (warped last - frame);  clamp;  uint8
//
// and leaves the last frame behind for the next. Before the last of several steps it makes the next x_t
// instead.
#pragma once
#include "constants.cuh"
#include "conv.cuh"

// mirrored in mirage_cli/lsd/plan.py
struct ComposeParams {
    const unsigned char* rgb;     // [rgb_height, rgb_width, 3], the incoming frame
    unsigned char* out;           // the same for the generated one
    const float* warped_last;      // [3, H, W]; H = 4 * cells
    float* last;                  // [3, H, W]
    float* valid;                 // [1], set to 1: there is a past now
    int* flags;                   // [2]: cleared where the frame has a NaN
    const float* x_t;             // [3, H, W], before the last of several steps
    float* next_x_t;              // [3, H, W], null in the last step
    void* next_x_t_cells;         // [cells, PICTURE_CHANNELS]
    int rgb_height, rgb_width;
    float keep_limit;
    float coefficient;            // d / (1 - t)
};

// Four neighbouring pixels of the incoming frame in [-1, 1], [colour][pixel]; beyond the picture its edge.
__device__ __forceinline__ void read_pixels(const unsigned char* rgb, int height, int width, int y, int x, float (&v)[3][4]) {
    const unsigned char* row = rgb + size_t(min(y, height - 1)) * width * 3;
    unsigned char bytes[12];
    if (width % 4 == 0 && x + 4 <= width) {
        const unsigned* words = reinterpret_cast<const unsigned*>(row + x * 3);
#pragma unroll
        for (int i = 0; i < 3; ++i) {
            const unsigned word = words[i];
#pragma unroll
            for (int j = 0; j < 4; ++j) bytes[4 * i + j] = word >> (8 * j);
        }
    } else {
#pragma unroll
        for (int i = 0; i < 4; ++i)
#pragma unroll
            for (int c = 0; c < 3; ++c) bytes[3 * i + c] = row[min(x + i, width - 1) * 3 + c];
    }
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int c = 0; c < 3; ++c) v[c][i] = __fadd_rn(__fmul_rn(float(bytes[3 * i + c]), 1.f / 127.5f), -1.f);
}

__device__ __forceinline__ float luma_of(float r, float g, float b) {  // BT.601, rounded as torch rounds it
    return __fadd_rn(__fadd_rn(__fmul_rn(lsd::LUMA_RED, r), __fmul_rn(lsd::LUMA_GREEN, g)), __fmul_rn(lsd::LUMA_BLUE, b));
}

#ifdef CONV_COMPOSE
template <typename G>
__device__ __forceinline__ void compose_layer(char* shared, const ConvParams& p, const ComposeParams& q) {
    using T = typename G::T;
    const int y0 = blockIdx.x / p.tiles_x * G::TH, x0 = blockIdx.x % p.tiles_x * G::TW;
    products<G>(shared, p, y0, x0, 0, false);
    const bool past = p.flags[0] != 0;
    const int H = 4 * p.height, W = 4 * p.width;
    const size_t plane = size_t(H) * W;
    bool finite = true;

#pragma unroll 1
    for (int i = threadIdx.x; i < 4 * G::BM; i += 256) {  // four threads a cell, a row of pixels each
        const int m = i / 4, dy = i % 4;
        const int cell_y = y0 + m / G::TW, cell_x = x0 + m % G::TW;
        const bool inside = cell_y < p.height && cell_x < p.width;
        const int y = 4 * min(cell_y, p.height - 1) + dy, x = 4 * min(cell_x, p.width - 1);
        const size_t at = size_t(y) * W + x;
        float frame[3][4];
        read_pixels(q.rgb, q.rgb_height, q.rgb_width, y, x, frame);

        if (q.next_x_t != nullptr) {
#pragma unroll
            for (int c = 0; c < 3; ++c) {
                const float4 sum = total_of<G>(shared, m, c * lsd::CELL_PIXELS + dy * 4);
                const float4 bias = *reinterpret_cast<const float4*>(p.bias + c * lsd::CELL_PIXELS + dy * 4);
                const float4 from = *reinterpret_cast<const float4*>(q.x_t + c * plane + at);
                float4 to;
                to.x = from.x + q.coefficient * (sum.x + bias.x + frame[c][0] - from.x);
                to.y = from.y + q.coefficient * (sum.y + bias.y + frame[c][1] - from.y);
                to.z = from.z + q.coefficient * (sum.z + bias.z + frame[c][2] - from.z);
                to.w = from.w + q.coefficient * (sum.w + bias.w + frame[c][3] - from.w);
                if (!inside) continue;
                *reinterpret_cast<float4*>(q.next_x_t + c * plane + at) = to;
                T* cells = reinterpret_cast<T*>(q.next_x_t_cells) + (size_t(cell_y) * p.width + cell_x) * lsd::PICTURE_CHANNELS;
                *reinterpret_cast<uint2*>(cells + c * lsd::CELL_PIXELS + dy * 4) = make_uint2(pack(to.x, to.y, T{}), pack(to.z, to.w, T{}));
            }
            continue;
        }

        float keep[4];
        {
            const float4 sum = total_of<G>(shared, m, lsd::PICTURE_CHANNELS + dy * 4);
            const float4 bias = *reinterpret_cast<const float4*>(p.bias + lsd::PICTURE_CHANNELS + dy * 4);
            const float raw[4] = {sum.x + bias.x, sum.y + bias.y, sum.z + bias.z, sum.w + bias.w};
#pragma unroll
            for (int k = 0; k < 4; ++k)
                keep[k] = past ? q.keep_limit * reciprocal(1.f + exp2_fast(-1.4426950408889634f * (raw[k] - lsd::KEEP_OFFSET))) : 0.f;
        }
        unsigned char levels[12];
#pragma unroll
        for (int c = 0; c < 3; ++c) {
            const float4 sum = total_of<G>(shared, m, c * lsd::CELL_PIXELS + dy * 4);
            const float4 bias = *reinterpret_cast<const float4*>(p.bias + c * lsd::CELL_PIXELS + dy * 4);
            const float4 kept = past ? *reinterpret_cast<const float4*>(q.warped_last + c * plane + at) : make_float4(0, 0, 0, 0);
            const float x_hat[4] = {sum.x + bias.x, sum.y + bias.y, sum.z + bias.z, sum.w + bias.w};
            const float old[4] = {kept.x, kept.y, kept.z, kept.w};
            float made[4];
#pragma unroll
            for (int k = 0; k < 4; ++k) {
                const float clean = x_hat[k] + frame[c][k];
                float value = clean + keep[k] * (old[k] - clean);
                finite = finite && (value == value || !inside);
                value = value == value ? fminf(fmaxf(value, -1.f), 1.f) : value;  // a NaN stays one
                made[k] = value;
                levels[3 * k + c] = (unsigned char)__float2int_rn(fminf(fmaxf(__fadd_rn(__fmul_rn(value, 127.5f), 127.5f), 0.f), 255.f));
            }
            if (inside) *reinterpret_cast<float4*>(q.last + c * plane + at) = make_float4(made[0], made[1], made[2], made[3]);
        }
        if (inside && y < q.rgb_height && x < q.rgb_width) {
            unsigned char* to = q.out + (size_t(y) * q.rgb_width + x) * 3;
            if (q.rgb_width % 4 == 0) {
#pragma unroll
                for (int k = 0; k < 3; ++k)
                    reinterpret_cast<unsigned*>(to)[k] = unsigned(levels[4 * k]) | unsigned(levels[4 * k + 1]) << 8 |
                                                         unsigned(levels[4 * k + 2]) << 16 | unsigned(levels[4 * k + 3]) << 24;
            } else {
#pragma unroll
                for (int k = 0; k < 12; ++k)
                    if (x + k / 3 < q.rgb_width) to[k] = levels[k];
            }
        }
    }
    if (q.next_x_t == nullptr) {
        if (!finite) q.flags[2] = 0;
        if (blockIdx.x == 0 && threadIdx.x == 0) *q.valid = 1.f;
    }
}
#endif
