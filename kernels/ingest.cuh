// The incoming frame on its way into the network.
#pragma once
#include "compose.cuh"

// ingest: uint8 RGB -> the network's input cells (the first PICTURE_CHANNELS of SEEN_CHANNELS), luma at 1/2, 1/4, 1/8 and 1/16.
// Four threads a cell of 4x4 pixels, a row each. Launch: block (256), grid (ceil(W / 64), ceil(H / 16)).
template <typename T>
__device__ __forceinline__ void ingest(const unsigned char* rgb, T* cells, float* pyramid, int* flags, int rgb_height,
                                       int rgb_width, int H, int W) {
    let_next_start();
    wait_for_previous();
    if (blockIdx.x + blockIdx.y == 0 && threadIdx.x == 0) flags[2] = 1;  // finite until shown otherwise
    const int dy = threadIdx.x % 4, cell_x = blockIdx.x * 16 + threadIdx.x / 4 % 8 + threadIdx.x / 32 % 2 * 8;
    const int cell_y = blockIdx.y * 4 + threadIdx.x / 64;
    const bool inside = cell_x < W / 4 && cell_y < H / 4;
    const int y = 4 * cell_y + dy, x = 4 * cell_x;
    float frame[3][4];
    read_pixels(rgb, rgb_height, rgb_width, y, min(x, W - 4), frame);
    float luma[4];
#pragma unroll
    for (int k = 0; k < 4; ++k) luma[k] = luma_of(frame[0][k], frame[1][k], frame[2][k]);
    if (inside) {
        T* to = cells + (size_t(cell_y) * (W / 4) + cell_x) * lsd::SEEN_CHANNELS + dy * 4;
#pragma unroll
        for (int c = 0; c < 3; ++c)
            *reinterpret_cast<uint2*>(to + c * lsd::CELL_PIXELS) =
                make_uint2(pack(frame[c][0], frame[c][1], T{}), pack(frame[c][2], frame[c][3], T{}));
    }
    const float left = luma[0] + luma[1], right = luma[2] + luma[3];
    const float half_left = 0.25f * (left + __shfl_xor_sync(0xffffffffu, left, 1));
    const float half_right = 0.25f * (right + __shfl_xor_sync(0xffffffffu, right, 1));
    const float pair = half_left + half_right;
    const float quarter = 0.25f * (pair + __shfl_xor_sync(0xffffffffu, pair, 2));
    const size_t halves = size_t(H / 2) * (W / 2), quarters = halves / 4;
    if (inside && dy % 2 == 0)
        *reinterpret_cast<float2*>(pyramid + size_t(y / 2) * (W / 2) + x / 2) = make_float2(half_left, half_right);
    if (inside && dy == 0) pyramid[halves + size_t(cell_y) * (W / 4) + cell_x] = quarter;
    // a value at 1/8 is the mean of 2x2 cells, at 1/16 of 4x4: neighbours in a row by lanes, then the four rows
    const float pair_of_cells = quarter + __shfl_xor_sync(0xffffffffu, quarter, 4);
    const float four_cells = pair_of_cells + __shfl_xor_sync(0xffffffffu, pair_of_cells, 8);
    __shared__ float pairs[4][8], rows[4][4];
    if (threadIdx.x % 8 == 0) pairs[threadIdx.x / 64][threadIdx.x % 64 / 8] = pair_of_cells;
    if (threadIdx.x % 16 == 0) rows[threadIdx.x / 64][threadIdx.x % 64 / 16] = four_cells;
    __syncthreads();
    if (threadIdx.x < 16) {
        const int row = threadIdx.x / 8, column = threadIdx.x % 8;
        const int eighth_y = blockIdx.y * 2 + row, eighth_x = blockIdx.x * 8 + column;
        if (eighth_x < W / 8 && eighth_y < H / 8)
            pyramid[halves + quarters + size_t(eighth_y) * (W / 8) + eighth_x] =
                (pairs[2 * row][column] + pairs[2 * row + 1][column]) * 0.25f;
    }
    if (threadIdx.x < 4) {
        const int coarse_x = blockIdx.x * 4 + threadIdx.x;
        if (coarse_x < W / 16 && int(blockIdx.y) < H / 16)
            pyramid[halves + quarters + quarters / 4 + size_t(blockIdx.y) * (W / 16) + coarse_x] =
                (rows[0][threadIdx.x] + rows[1][threadIdx.x] + rows[2][threadIdx.x] + rows[3][threadIdx.x]) * (1.f / 16.f);
    }
}
extern "C" __global__ void __launch_bounds__(256) mirage_ingest_f16(
    const unsigned char* rgb, F16* cells, float* pyramid, int* flags, int rgb_height, int rgb_width, int H, int W) {
    ingest<F16>(rgb, cells, pyramid, flags, rgb_height, rgb_width, H, W);
}
extern "C" __global__ void __launch_bounds__(256) mirage_ingest_bf16(
    const unsigned char* rgb, BF16* cells, float* pyramid, int* flags, int rgb_height, int rgb_width, int H, int W) {
    ingest<BF16>(rgb, cells, pyramid, flags, rgb_height, rgb_width, H, W);
}
