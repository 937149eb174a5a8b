// The past warped to the incoming frame, the cut, and what the next frame needs: mirage_cli/lsd/history.py.
#pragma once
#include "compose.cuh"
#include "samples.cuh"

// Has the input cut? Mean error of the warped luma at 1/16 over the mean spread: one block, all cells, in one
// pass; the spreads are relative to the first cell, so that fp32 suffices.
__device__ __forceinline__ void decide_cut(const float* warped, const float* next, int cells, float threshold,
                                           const float* valid, int* flags) {
    __shared__ float scratch[5][8];
    const float origin = next[0];
    float sums[5] = {0.f, 0.f, 0.f, 0.f, 0.f};
    for (int i = threadIdx.x; i < cells; i += 256) {
        const float m = __ldcg(warped + i) - origin, n = next[i] - origin;
        sums[0] += fabsf(m - n);
        sums[1] += m;
        sums[2] += m * m;
        sums[3] += n;
        sums[4] += n * n;
    }
#pragma unroll
    for (int k = 0; k < 5; ++k) {
        for (int step = 16; step; step /= 2) sums[k] += __shfl_xor_sync(0xffffffffu, sums[k], step);
        if (threadIdx.x % 32 == 0) scratch[k][threadIdx.x / 32] = sums[k];
    }
    __syncthreads();
    if (threadIdx.x == 0) {
#pragma unroll
        for (int k = 0; k < 5; ++k) {
            sums[k] = 0.f;
            for (int i = 0; i < 8; ++i) sums[k] += scratch[k][i];
        }
        const float warped_variance = fmaxf(sums[2] - sums[1] * sums[1] / cells, 0.f) / (cells - 1);
        const float next_variance = fmaxf(sums[4] - sums[3] * sums[3] / cells, 0.f) / (cells - 1);
        const float score = sums[0] / cells / (0.5f * (sqrtf(warped_variance) + sqrtf(next_variance)) + motion::CUT_LEAST_SPREAD);
        const int before = *valid > 0.f, cut = before && score > threshold;  // one cell: NaN, no cut
        flags[0] = before && !cut;
        flags[1] = cut;
    }
}

// warp_past: the last frame and the last luma warped to the incoming frame, bicubic, into their channels of the
// network's input, after the incoming frame's; the two older frames at half size, bilinear, into cells of their own;
// fp32 copies for the blend and the history. The block that finishes last decides on the cut. Flow is at half size.
// Launch: block (256), grid (ceil(W / 64), ceil(H / 16)).
template <typename T>
__device__ __forceinline__ void warp_past(
    const float* __restrict__ last, const float* __restrict__ input_luma, const float* __restrict__ older,
    const float* __restrict__ flow, T* __restrict__ cells, T* __restrict__ older_cells, float* __restrict__ warped_last,
    float* __restrict__ warped_older, float* warped_coarse, const float* __restrict__ coarse,
    const float* __restrict__ valid, int* flags, float cut_threshold, int H, int W) {
    __shared__ float rows[4][4];
    __shared__ int is_last;
    let_next_start();
    wait_for_previous();
    const int dy = threadIdx.x % 4, cell_x = blockIdx.x * 16 + threadIdx.x / 4 % 8 + threadIdx.x / 32 % 2 * 8;
    const int cell_y = blockIdx.y * 4 + threadIdx.x / 64;
    const bool inside = cell_x < W / 4 && cell_y < H / 4;
    const size_t plane = size_t(H) * W;
    float luma_sum = 0.f;
    if (inside) {
        const int y = 4 * cell_y + dy, x = 4 * cell_x;
        float v[4][4];
#pragma unroll
        for (int k = 0; k < 4; ++k) {
            const float2 f = flow_at<2>(flow, x + k, y, H, W);
            const CubicSample at = cubic_sample_at(x + k + f.x, y + f.y, H, W);
#pragma unroll
            for (int c = 0; c < 3; ++c) v[c][k] = at.of(last + c * plane);
            v[3][k] = at.of(input_luma);
            luma_sum += v[3][k];
        }
        T* to = cells + (size_t(cell_y) * (W / 4) + cell_x) * lsd::SEEN_CHANNELS + lsd::PICTURE_CHANNELS + dy * 4;
#pragma unroll
        for (int c = 0; c < 4; ++c) {
            *reinterpret_cast<uint2*>(to + c * lsd::CELL_PIXELS) = make_uint2(pack(v[c][0], v[c][1], T{}), pack(v[c][2], v[c][3], T{}));
            if (c < 3) *reinterpret_cast<float4*>(warped_last + c * plane + size_t(y) * W + x) = make_float4(v[c][0], v[c][1], v[c][2], v[c][3]);
        }
        // one of the cell's four pixels of half size each
        const int hy = 2 * cell_y + dy / 2, hx = 2 * cell_x + dy % 2, h = H / 2, w = W / 2;
        const float2 f = flow_at<1>(flow, hx, hy, h, w);
        const Sample at = sample_at(hx + f.x, hy + f.y, h, w);
        T* older_to = older_cells + (size_t(hy / 4) * (w / 4) + hx / 4) * lsd::OLDER_CHANNELS + hy % 4 * 4 + hx % 4;
#pragma unroll
        for (int c = 0; c < 6; ++c) {
            const float value = at.of(older + size_t(c) * h * w);
            from_float(value, older_to[c * lsd::CELL_PIXELS]);
            if (c < 3) warped_older[(size_t(c) * h + hy) * w + hx] = value;
        }
    }
    for (int step = 1; step < 16; step *= 2) luma_sum += __shfl_xor_sync(0xffffffffu, luma_sum, step);
    if (threadIdx.x % 16 == 0) rows[threadIdx.x / 64][threadIdx.x % 64 / 16] = luma_sum;
    __syncthreads();
    if (threadIdx.x == 0) {
        for (int i = 0; i < 4; ++i) {
            const int coarse_x = blockIdx.x * 4 + i;
            if (coarse_x < W / 16)
                warped_coarse[blockIdx.y * (W / 16) + coarse_x] = (rows[0][i] + rows[1][i] + rows[2][i] + rows[3][i]) * (1.f / 256.f);
        }
        __threadfence();
        const int blocks = gridDim.x * gridDim.y;
        is_last = atomicAdd(flags + 3, 1) == blocks - 1;
        if (is_last) flags[3] = 0;  // for the next frame
    }
    __syncthreads();
    if (is_last) {
        __threadfence();
        decide_cut(warped_coarse, coarse, (H / 16) * (W / 16), cut_threshold, valid, flags);
    }
}
#define WARP_PAST(name, T)                                                                                            \
    extern "C" __global__ void __launch_bounds__(256) name(                                                           \
        const float* last, const float* input_luma, const float* older, const float* flow, T* cells, T* older_cells,  \
        float* warped_last, float* warped_older, float* warped_coarse, const float* coarse, const float* valid,          \
        int* flags, float cut_threshold, int H, int W) {                                                              \
        warp_past<T>(last, input_luma, older, flow, cells, older_cells, warped_last, warped_older, warped_coarse, coarse, \
                     valid, flags, cut_threshold, H, W);                                                              \
    }
WARP_PAST(mirage_warp_past_f16, F16)
WARP_PAST(mirage_warp_past_bf16, BF16)

// carry: what the next frame needs of this one besides the picture: the input's luma and its pyramid, and
// the older frames at half size, all warped to where things are now. It runs on the side stream.
// Four threads a cell, a row each. Launch: block (256), grid (ceil(cells / 64)).
extern "C" __global__ void __launch_bounds__(256) mirage_carry(
    const unsigned char* rgb, const float* __restrict__ warped_last, const float* __restrict__ warped_older,
    const float* __restrict__ pyramid, float* __restrict__ older, float* __restrict__ input_luma,
    float* __restrict__ previous_pyramid, const int* flags, int rgb_height, int rgb_width, int H, int W) {
    wait_for_previous();
    const int cell = blockIdx.x * 64 + threadIdx.x / 4, dy = threadIdx.x % 4;
    const int cells_x = W / 4, cell_y = cell / cells_x, cell_x = cell % cells_x;
    const bool inside = cell_y < H / 4, past = flags[0] != 0;
    const int y = 4 * min(cell_y, H / 4 - 1) + dy, x = 4 * cell_x;
    const size_t plane = size_t(H) * W, half_plane = plane / 4, at = size_t(y) * W + x;
    const size_t half_at = size_t(y / 2) * (W / 2) + x / 2;
    float frame[3][4];
    read_pixels(rgb, rgb_height, rgb_width, y, x, frame);
#pragma unroll
    for (int c = 0; c < 3; ++c) {
        const float4 old = *reinterpret_cast<const float4*>(warped_last + c * plane + at);
        const float left = old.x + old.y, right = old.z + old.w;
        const float below_left = __shfl_xor_sync(0xffffffffu, left, 1), below_right = __shfl_xor_sync(0xffffffffu, right, 1);
        if (!inside || dy % 2) continue;
        const float2 moved = *reinterpret_cast<const float2*>(warped_older + c * half_plane + half_at);
        *reinterpret_cast<float2*>(older + c * half_plane + half_at) =
            past ? make_float2(0.25f * (left + below_left), 0.25f * (right + below_right)) : make_float2(0, 0);
        *reinterpret_cast<float2*>(older + (3 + c) * half_plane + half_at) = past ? moved : make_float2(0, 0);
    }
    if (!inside) return;
    float4 luma;
    luma.x = luma_of(frame[0][0], frame[1][0], frame[2][0]);
    luma.y = luma_of(frame[0][1], frame[1][1], frame[2][1]);
    luma.z = luma_of(frame[0][2], frame[1][2], frame[2][2]);
    luma.w = luma_of(frame[0][3], frame[1][3], frame[2][3]);
    *reinterpret_cast<float4*>(input_luma + at) = luma;
    if (dy % 2 == 0)
        *reinterpret_cast<float2*>(previous_pyramid + half_at) = *reinterpret_cast<const float2*>(pyramid + half_at);
    if (dy == 0) {
        size_t lower = half_plane + cell;
        previous_pyramid[lower] = pyramid[lower];
        if (cell_y % 2 == 0 && cell_x % 2 == 0) {
            lower = half_plane + half_plane / 4 + size_t(cell_y / 2) * (W / 8) + cell_x / 2;
            previous_pyramid[lower] = pyramid[lower];
        }
        if (cell_y % 4 == 0 && cell_x % 4 == 0) {
            lower = half_plane + half_plane / 4 + half_plane / 16 + size_t(cell_y / 4) * (W / 16) + cell_x / 4;
            previous_pyramid[lower] = pyramid[lower];
        }
    }
}
