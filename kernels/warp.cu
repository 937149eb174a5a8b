// warp: backward bilinear warp, out(y, x) = frame(y + flow_y, x + flow_x), held at the border. One
// thread an output pixel, all its colours; fp32 arithmetic.
//
// Pictures come as [C, H, W] with any strides, or unshuffled: cells of 4x4 pixels whose channels
// colour * 16 + dy * 4 + dx lie side by side. Reading and writing either way saves the passes that
// would convert, and the moved frame lands in its slice of the network's input.
//
// Launch: block (32, 8), grid (ceil(width / 32), ceil(height / 8)).
#include "common.cuh"

struct Layout {
    int channel, row, column;  // elements to the next colour, row (of cells), column (of cells)
    int cells;                 // 1: unshuffled
};

__device__ __forceinline__ size_t offset(const Layout& l, int c, int y, int x) {
    if (l.cells)
        return size_t(y >> 2) * l.row + size_t(x >> 2) * l.column + size_t(c * 16 + (y & 3) * 4 + (x & 3)) * l.channel;
    return size_t(c) * l.channel + size_t(y) * l.row + size_t(x) * l.column;
}

template <typename T, typename Flow>
__device__ __forceinline__ void warp(
    const T* __restrict__ frame, const Flow* __restrict__ flow, T* __restrict__ out,
    Layout frame_at, Layout flow_at, Layout out_at, int colours, int height, int width) {
    const int x = blockIdx.x * 32 + threadIdx.x;
    const int y = blockIdx.y * 8 + threadIdx.y;
    if (x >= width || y >= height) return;

    // fmaxf(NaN, 0) is 0: a broken flow reads the first row or column, never outside.
    const float fx = fminf(fmaxf(x + to_float(flow[offset(flow_at, 0, y, x)]), 0.f), width - 1.f);
    const float fy = fminf(fmaxf(y + to_float(flow[offset(flow_at, 1, y, x)]), 0.f), height - 1.f);
    const int x0 = int(fx), y0 = int(fy);
    const int x1 = min(x0 + 1, width - 1), y1 = min(y0 + 1, height - 1);
    const float wx = fx - x0, wy = fy - y0;

    for (int c = 0; c < colours; ++c) {
        const float a = to_float(frame[offset(frame_at, c, y0, x0)]);
        const float b = to_float(frame[offset(frame_at, c, y0, x1)]);
        const float d = to_float(frame[offset(frame_at, c, y1, x0)]);
        const float e = to_float(frame[offset(frame_at, c, y1, x1)]);
        const float top = a * (1.f - wx) + b * wx;
        const float bottom = d * (1.f - wx) + e * wx;
        from_float(top * (1.f - wy) + bottom * wy, out[offset(out_at, c, y, x)]);
    }
}

#define ENTRY(name, T, Flow)                                                                      \
    extern "C" __global__ void __launch_bounds__(256) name(                                        \
        const T* frame, const Flow* flow, T* out, int frame_channel, int frame_row,                \
        int frame_column, int frame_cells, int flow_channel, int flow_row, int flow_column,        \
        int out_channel, int out_row, int out_column, int out_cells, int colours, int height,      \
        int width) {                                                                               \
        warp<T, Flow>(frame, flow, out, {frame_channel, frame_row, frame_column, frame_cells},     \
                      {flow_channel, flow_row, flow_column, 0},                                    \
                      {out_channel, out_row, out_column, out_cells}, colours, height, width);      \
    }
ENTRY(mirage_warp_f16, F16, F16)
ENTRY(mirage_warp_bf16, BF16, BF16)
ENTRY(mirage_warp_f32, float, float)
ENTRY(mirage_warp_f16_flow_f32, F16, float)
ENTRY(mirage_warp_bf16_flow_f32, BF16, float)
