// Before the network: the incoming frame's cells and pyramid, the motion since the last one, and the past
// moved along it. consistency.py and history.py define what is computed; here every step of it is one
// kernel in fp32, tiles in shared memory.
// targets: sm_80 sm_90
#include "compose.cuh"

// ingest: uint8 RGB -> the network's input cells (channels 0 to 47 of 112), luma at 1/2, 1/4, 1/8 and 1/16.
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
        T* to = cells + (size_t(cell_y) * (W / 4) + cell_x) * 112 + dy * 4;
#pragma unroll
        for (int c = 0; c < 3; ++c)
            *reinterpret_cast<uint2*>(to + c * 16) =
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

// block_match: for each cell of 16x16 pixels the displacement of up to 3 cells that fits best, as a soft
// minimum over all 49, then the mean of the 3x3 cells around. A block makes 4x4 cells, and the border of
// one that the mean needs. Launch: block (1024), grid (ceil(w / 4), ceil(h / 4)).
extern "C" __global__ void __launch_bounds__(1024) mirage_block_match(
    const float* __restrict__ previous, const float* __restrict__ following, float* __restrict__ flow, int height, int width) {
    constexpr int REACH = 3, SHIFTS = 49, CELLS = 36, WINDOW = 10, SEARCHED = 16;
    __shared__ float next[WINDOW][WINDOW], past[SEARCHED][SEARCHED], cost[CELLS][SHIFTS], vectors[CELLS][2];
    __shared__ float errors[SHIFTS][WINDOW][WINDOW], across[SHIFTS][WINDOW][6];
    let_next_start();
    wait_for_previous();
    const int y0 = int(blockIdx.y) * 4 - 1, x0 = int(blockIdx.x) * 4 - 1;  // first cell of the 6x6
    for (int i = threadIdx.x; i < WINDOW * WINDOW; i += 1024) {
        const int y = min(max(y0 - 2 + i / WINDOW, 0), height - 1), x = min(max(x0 - 2 + i % WINDOW, 0), width - 1);
        next[i / WINDOW][i % WINDOW] = following[y * width + x];
    }
    for (int i = threadIdx.x; i < SEARCHED * SEARCHED; i += 1024) {
        const int y = min(max(y0 - 2 - REACH + i / SEARCHED, 0), height - 1);
        const int x = min(max(x0 - 2 - REACH + i % SEARCHED, 0), width - 1);
        past[i / SEARCHED][i % SEARCHED] = previous[y * width + x];
    }
    __syncthreads();
    // errors of each cell and shift (none outside of the picture), then sums of five across and five down
    for (int i = threadIdx.x; i < SHIFTS * WINDOW * WINDOW; i += 1024) {
        const int shift = i / (WINDOW * WINDOW), y = i / WINDOW % WINDOW, x = i % WINDOW;
        const bool inside = unsigned(y0 - 2 + y) < unsigned(height) && unsigned(x0 - 2 + x) < unsigned(width);
        errors[shift][y][x] = inside ? fabsf(past[y + shift / 7][x + shift % 7] - next[y][x]) : 0.f;
    }
    __syncthreads();
    for (int i = threadIdx.x; i < SHIFTS * WINDOW * 6; i += 1024) {
        const float* from = &errors[i / (WINDOW * 6)][i / 6 % WINDOW][i % 6];
        across[i / (WINDOW * 6)][i / 6 % WINDOW][i % 6] = from[0] + from[1] + from[2] + from[3] + from[4];
    }
    __syncthreads();
    for (int i = threadIdx.x; i < CELLS * SHIFTS; i += 1024) {
        const int shift = i / CELLS, cell = i % CELLS, cy = cell / 6, cx = cell % 6, sy = shift / 7 - REACH, sx = shift % 7 - REACH;
        const int y = y0 + cy, x = x0 + cx;
        float sum = 0.f;
#pragma unroll
        for (int d = 0; d < 5; ++d) sum += across[shift][cy + d][cx];
        const int rows = min(y + 2, height - 1) - max(y - 2, 0) + 1, columns = min(x + 2, width - 1) - max(x - 2, 0) + 1;
        cost[cell][shift] = sum / max(rows * columns, 1) + 0.004f * sqrtf(float(sx * sx + sy * sy));
    }
    __syncthreads();
    const int lane = threadIdx.x % 32;
    for (int cell = threadIdx.x / 32; cell < CELLS; cell += 32) {
        const float a = cost[cell][lane], b = lane + 32 < SHIFTS ? cost[cell][lane + 32] : 1e30f;
        float least = fminf(a, b);
        for (int step = 16; step; step /= 2) least = fminf(least, __shfl_xor_sync(0xffffffffu, least, step));
        const float wa = __expf((least - a) * 150.f), wb = lane + 32 < SHIFTS ? __expf((least - b) * 150.f) : 0.f;
        float total = wa + wb;
        float x = wa * float(lane % 7 - REACH) + wb * float((lane + 32) % 7 - REACH);
        float y = wa * float(lane / 7 - REACH) + wb * float((lane + 32) / 7 - REACH);
        for (int step = 16; step; step /= 2) {
            total += __shfl_xor_sync(0xffffffffu, total, step);
            x += __shfl_xor_sync(0xffffffffu, x, step);
            y += __shfl_xor_sync(0xffffffffu, y, step);
        }
        if (lane == 0) {
            vectors[cell][0] = x / total;
            vectors[cell][1] = y / total;
        }
    }
    __syncthreads();
    if (threadIdx.x < 32) {
        const int component = threadIdx.x / 16, cy = threadIdx.x % 16 / 4 + 1, cx = threadIdx.x % 4 + 1;
        const int y = y0 + cy, x = x0 + cx;
        if (y < height && x < width) {
            float sum = 0.f;
            int count = 0;
            for (int dy = -1; dy <= 1; ++dy)
                for (int dx = -1; dx <= 1; ++dx)
                    if (unsigned(y + dy) < unsigned(height) && unsigned(x + dx) < unsigned(width)) {
                        sum += vectors[(cy + dy) * 6 + cx + dx][component];
                        ++count;
                    }
            flow[(size_t(component) * height + y) * width + x] = sum / count;
        }
    }
}

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

// Sums over the window of 2 RADIUS + 1 rows and columns around the thread's pixel of a tile of 32 x 8, whose values
// come with a margin of MARGIN pixels, zero outside of the picture; `across` holds sums along the rows. Values must
// be there for all threads (a barrier ahead); before `across` or the values are written again, another one.
template <int KINDS, int RADIUS, int MARGIN>
__device__ __forceinline__ void window_sums(const float (&values)[KINDS][8 + 2 * MARGIN][32 + 2 * MARGIN],
                                            float (&across)[KINDS][8 + 2 * MARGIN][32], float (&sums)[KINDS]) {
    constexpr int ROWS = 8 + 2 * RADIUS, SKIPPED = MARGIN - RADIUS;
    for (int i = threadIdx.x; i < KINDS * ROWS * 32; i += 256) {
        const int k = i / (ROWS * 32), row = i / 32 % ROWS, column = i % 32;
        float sum = 0.f;
#pragma unroll
        for (int d = 0; d <= 2 * RADIUS; ++d) sum += values[k][SKIPPED + row][SKIPPED + column + d];
        across[k][row][column] = sum;
    }
    __syncthreads();
#pragma unroll
    for (int k = 0; k < KINDS; ++k) {
        sums[k] = 0.f;
#pragma unroll
        for (int d = 0; d <= 2 * RADIUS; ++d) sums[k] += across[k][threadIdx.x / 32 + d][threadIdx.x % 32];
    }
}
// One over the number of a window's pixels that lie in the picture.
template <int RADIUS>
__device__ __forceinline__ float window_share(int x, int y, int height, int width) {
    const int rows = min(y + RADIUS, height - 1) - max(y - RADIUS, 0) + 1, columns = min(x + RADIUS, width - 1) - max(x - RADIUS, 0) + 1;
    return 1.f / (rows * columns);
}

// One Gauss-Newton step on a tile of 32 x 8 flow vectors, from a flow FACTOR times as small; covariances over the
// window, so that a change of light is no motion. Leaves the refined vectors times their confidence, and the
// confidence, for spread. Constants as in consistency.py.
// Launch: block (256), grid (ceil(w / 32), ceil(h / 8)).
template <int FACTOR>
__device__ __forceinline__ void lucas_kanade(const float* __restrict__ previous, const float* __restrict__ following,
                                             const float* __restrict__ flow, float* __restrict__ weighted, int height, int width) {
    constexpr int RADIUS = 3, MW = 34 + 2 * RADIUS, MH = 10 + 2 * RADIUS, PW = 32 + 2 * RADIUS, PH = 8 + 2 * RADIUS;
    constexpr float DAMPING = 1e-5f, HALF_CONFIDENT = 1e-3f, LEAST_CONFIDENCE = 1e-3f, LONGEST_STEP = 1.f;
    __shared__ float moved[MH][MW];
    __shared__ float values[8][PH][PW];  // gradients, error, and their products
    __shared__ float across[8][PH][32];
    let_next_start();
    wait_for_previous();
    const int x0 = blockIdx.x * 32, y0 = blockIdx.y * 8;
    for (int i = threadIdx.x; i < MW * MH; i += 256) {
        const int x = min(max(x0 - RADIUS - 1 + i % MW, 0), width - 1), y = min(max(y0 - RADIUS - 1 + i / MW, 0), height - 1);
        const float2 v = flow_at<FACTOR>(flow, x, y, height, width);
        moved[i / MW][i % MW] = sample_at(x + v.x, y + v.y, height, width).of(previous);
    }
    __syncthreads();
    for (int i = threadIdx.x; i < PW * PH; i += 256) {
        const int px = i % PW, py = i / PW, x = x0 - RADIUS + px, y = y0 - RADIUS + py;
        float gx = 0.f, gy = 0.f, error = 0.f;
        if (unsigned(x) < unsigned(width) && unsigned(y) < unsigned(height)) {
            gx = 0.5f * (moved[py + 1][px + 2] - moved[py + 1][px]);
            gy = 0.5f * (moved[py + 2][px + 1] - moved[py][px + 1]);
            error = following[size_t(y) * width + x] - moved[py + 1][px + 1];
        }
        const float v[8] = {gx, gy, error, gx * gx, gx * gy, gy * gy, gx * error, gy * error};
#pragma unroll
        for (int k = 0; k < 8; ++k) values[k][py][px] = v[k];
    }
    __syncthreads();
    float mean[8];
    window_sums<8, RADIUS, RADIUS>(values, across, mean);
    const int x = x0 + threadIdx.x % 32, y = y0 + threadIdx.x / 32;
    if (x >= width || y >= height) return;
    const float share = window_share<RADIUS>(x, y, height, width);
#pragma unroll
    for (int k = 0; k < 8; ++k) mean[k] *= share;
    float xx = mean[3] - mean[0] * mean[0], yy = mean[5] - mean[1] * mean[1];
    const float xy = mean[4] - mean[0] * mean[1], xe = mean[6] - mean[0] * mean[2], ye = mean[7] - mean[1] * mean[2];
    const float half_difference = 0.5f * (xx - yy);
    const float least = fmaxf(0.5f * (xx + yy) - sqrtf(half_difference * half_difference + xy * xy), 0.f);
    const float confidence = least / (least + HALF_CONFIDENT) + LEAST_CONFIDENCE;
    xx += DAMPING;
    yy += DAMPING;
    const float inverse = 1.f / (xx * yy - xy * xy);
    const float step_x = (yy * xe - xy * ye) * inverse, step_y = (xx * ye - xy * xe) * inverse;
    const float2 v = flow_at<FACTOR>(flow, x, y, height, width);
    const size_t plane = size_t(height) * width, at = size_t(y) * width + x;
    weighted[at] = (v.x + fminf(fmaxf(step_x, -LONGEST_STEP), LONGEST_STEP)) * confidence;
    weighted[plane + at] = (v.y + fminf(fmaxf(step_y, -LONGEST_STEP), LONGEST_STEP)) * confidence;
    weighted[2 * plane + at] = confidence;
}
#define LUCAS_KANADE(name, factor)                                                                                \
    extern "C" __global__ void __launch_bounds__(256) name(const float* previous, const float* following,         \
                                                           const float* flow, float* weighted, int height, int width) { \
        lucas_kanade<factor>(previous, following, flow, weighted, height, width);                                 \
    }
LUCAS_KANADE(mirage_refine, 1)
LUCAS_KANADE(mirage_refine_from_coarser, 2)

// spread: the mean of the vectors within 6 pixels, each by its confidence. Launch as lucas_kanade.
extern "C" __global__ void __launch_bounds__(256) mirage_spread(const float* __restrict__ weighted, float* __restrict__ flow,
                                                                int height, int width) {
    constexpr int REACH = 6, PW = 32 + 2 * REACH, PH = 8 + 2 * REACH;
    __shared__ float given[3][PH][PW], across[3][PH][32];
    let_next_start();
    wait_for_previous();
    const int x0 = blockIdx.x * 32, y0 = blockIdx.y * 8;
    const size_t plane = size_t(height) * width;
    for (int i = threadIdx.x; i < PW * PH; i += 256) {
        const int x = x0 - REACH + i % PW, y = y0 - REACH + i / PW;
        const bool inside = unsigned(x) < unsigned(width) && unsigned(y) < unsigned(height);
#pragma unroll
        for (int k = 0; k < 3; ++k) given[k][i / PW][i % PW] = inside ? weighted[k * plane + size_t(y) * width + x] : 0.f;
    }
    __syncthreads();
    float sums[3];
    window_sums<3, REACH, REACH>(given, across, sums);
    const int x = x0 + threadIdx.x % 32, y = y0 + threadIdx.x / 32;
    if (x >= width || y >= height) return;
    flow[size_t(y) * width + x] = sums[0] / sums[2];
    flow[plane + size_t(y) * width + x] = sums[1] / sums[2];
}

// Is one error clearly smaller than another, near by or at least around? Each as its root mean square or, where the
// light may have changed, as its standard deviation. Means of (still, moved, still squared, moved squared).
__device__ __forceinline__ bool moving_is_better(const float (&near)[4], const float (&around)[4], bool light_changes) {
    float size[4];  // near still, near moved, still, moved
#pragma unroll
    for (int k = 0; k < 2; ++k) {
        size[k] = sqrtf(light_changes ? fmaxf(near[2 + k] - near[k] * near[k], 0.f) : near[2 + k]);
        size[2 + k] = sqrtf(light_changes ? fmaxf(around[2 + k] - around[k] * around[k], 0.f) : around[2 + k]);
    }
    const bool clearly = size[1] < 0.8f * size[0] - 0.002f;
    return clearly || (size[3] < 0.8f * size[2] - 0.001f && size[1] <= size[0] + 0.002f);
}

// moves: flow where moving explains the new frame clearly better than standing still, or does so around a place
// that cannot tell; zero elsewhere. Launch as lucas_kanade.
extern "C" __global__ void __launch_bounds__(256) mirage_moves(
    const float* __restrict__ previous, const float* __restrict__ following, const float* __restrict__ flow,
    float* __restrict__ out, int height, int width) {
    constexpr int NEAR = 3, AROUND = 12, PW = 32 + 2 * AROUND, PH = 8 + 2 * AROUND;
    __shared__ float powers[4][PH][PW], across[4][PH][32];  // of the errors of standing still and of moving
    let_next_start();
    wait_for_previous();
    const int x0 = blockIdx.x * 32, y0 = blockIdx.y * 8;
    for (int i = threadIdx.x; i < PW * PH; i += 256) {
        const int x = x0 - AROUND + i % PW, y = y0 - AROUND + i / PW;
        float still = 0.f, moved = 0.f;
        if (unsigned(x) < unsigned(width) && unsigned(y) < unsigned(height)) {
            const float here = following[size_t(y) * width + x];
            const float2 v = flow_at<1>(flow, x, y, height, width);
            still = previous[size_t(y) * width + x] - here;
            moved = sample_at(x + v.x, y + v.y, height, width).of(previous) - here;
        }
        powers[0][i / PW][i % PW] = still;
        powers[1][i / PW][i % PW] = moved;
        powers[2][i / PW][i % PW] = still * still;
        powers[3][i / PW][i % PW] = moved * moved;
    }
    __syncthreads();
    float near[4], around[4];
    window_sums<4, NEAR, AROUND>(powers, across, near);
    __syncthreads();
    window_sums<4, AROUND, AROUND>(powers, across, around);
    const int x = x0 + threadIdx.x % 32, y = y0 + threadIdx.x / 32;
    if (x >= width || y >= height) return;
    const float near_share = window_share<NEAR>(x, y, height, width), share = window_share<AROUND>(x, y, height, width);
#pragma unroll
    for (int k = 0; k < 4; ++k) {
        near[k] *= near_share;
        around[k] *= share;
    }
    const bool moves = moving_is_better(near, around, false) || moving_is_better(near, around, true);
    const float2 v = flow_at<1>(flow, x, y, height, width);
    out[size_t(y) * width + x] = moves ? v.x : 0.f;
    out[size_t(height) * width + size_t(y) * width + x] = moves ? v.y : 0.f;
}

// Has the input cut? Mean error of the moved luma at 1/16 over the mean spread: one block, all cells, in one
// pass; the spreads are relative to the first cell, so that fp32 suffices.
__device__ __forceinline__ void decide_cut(const float* moved, const float* next, int cells, float threshold,
                                           const float* valid, int* flags) {
    __shared__ float scratch[5][8];
    const float origin = next[0];
    float sums[5] = {0.f, 0.f, 0.f, 0.f, 0.f};
    for (int i = threadIdx.x; i < cells; i += 256) {
        const float m = __ldcg(moved + i) - origin, n = next[i] - origin;
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
        const float moved_variance = fmaxf(sums[2] - sums[1] * sums[1] / cells, 0.f) / (cells - 1);
        const float next_variance = fmaxf(sums[4] - sums[3] * sums[3] / cells, 0.f) / (cells - 1);
        const float score = sums[0] / cells / (0.5f * (sqrtf(moved_variance) + sqrtf(next_variance)) + 0.05f);
        const int before = *valid > 0.f, cut = before && score > threshold;  // one cell: NaN, no cut
        flags[0] = before && !cut;
        flags[1] = cut;
    }
}

// warp_past: the last frame and the last luma moved to the incoming frame, bicubic, into their channels (48 to 111)
// of the network's input; the two older frames likewise at half size, bilinear, into cells of their own; fp32 copies
// for the blend and the history. The block that finishes last decides on the cut. Flow is at half size.
// Launch: block (256), grid (ceil(W / 64), ceil(H / 16)).
template <typename T>
__device__ __forceinline__ void warp_past(
    const float* __restrict__ last, const float* __restrict__ input_luma, const float* __restrict__ older,
    const float* __restrict__ flow, T* __restrict__ cells, T* __restrict__ older_cells, float* __restrict__ moved_last,
    float* __restrict__ moved_older, float* moved_coarse, const float* __restrict__ coarse,
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
        T* to = cells + (size_t(cell_y) * (W / 4) + cell_x) * 112 + 48 + dy * 4;
#pragma unroll
        for (int c = 0; c < 4; ++c) {
            *reinterpret_cast<uint2*>(to + c * 16) = make_uint2(pack(v[c][0], v[c][1], T{}), pack(v[c][2], v[c][3], T{}));
            if (c < 3) *reinterpret_cast<float4*>(moved_last + c * plane + size_t(y) * W + x) = make_float4(v[c][0], v[c][1], v[c][2], v[c][3]);
        }
        // one of the cell's four pixels of half size each
        const int hy = 2 * cell_y + dy / 2, hx = 2 * cell_x + dy % 2, h = H / 2, w = W / 2;
        const float2 f = flow_at<1>(flow, hx, hy, h, w);
        const Sample at = sample_at(hx + f.x, hy + f.y, h, w);
        T* older_to = older_cells + (size_t(hy / 4) * (w / 4) + hx / 4) * 96 + hy % 4 * 4 + hx % 4;
#pragma unroll
        for (int c = 0; c < 6; ++c) {
            const float value = at.of(older + size_t(c) * h * w);
            from_float(value, older_to[c * 16]);
            if (c < 3) moved_older[(size_t(c) * h + hy) * w + hx] = value;
        }
    }
    for (int step = 1; step < 16; step *= 2) luma_sum += __shfl_xor_sync(0xffffffffu, luma_sum, step);
    if (threadIdx.x % 16 == 0) rows[threadIdx.x / 64][threadIdx.x % 64 / 16] = luma_sum;
    __syncthreads();
    if (threadIdx.x == 0) {
        for (int i = 0; i < 4; ++i) {
            const int coarse_x = blockIdx.x * 4 + i;
            if (coarse_x < W / 16)
                moved_coarse[blockIdx.y * (W / 16) + coarse_x] = (rows[0][i] + rows[1][i] + rows[2][i] + rows[3][i]) * (1.f / 256.f);
        }
        __threadfence();
        const int blocks = gridDim.x * gridDim.y;
        is_last = atomicAdd(flags + 3, 1) == blocks - 1;
        if (is_last) flags[3] = 0;  // for the next frame
    }
    __syncthreads();
    if (is_last) {
        __threadfence();
        decide_cut(moved_coarse, coarse, (H / 16) * (W / 16), cut_threshold, valid, flags);
    }
}
#define WARP_PAST(name, T)                                                                                            \
    extern "C" __global__ void __launch_bounds__(256) name(                                                           \
        const float* last, const float* input_luma, const float* older, const float* flow, T* cells, T* older_cells,  \
        float* moved_last, float* moved_older, float* moved_coarse, const float* coarse, const float* valid,          \
        int* flags, float cut_threshold, int H, int W) {                                                              \
        warp_past<T>(last, input_luma, older, flow, cells, older_cells, moved_last, moved_older, moved_coarse, coarse, \
                     valid, flags, cut_threshold, H, W);                                                              \
    }
WARP_PAST(mirage_warp_past_f16, F16)
WARP_PAST(mirage_warp_past_bf16, BF16)

// carry: what the next frame needs of this one besides the picture: the input's luma and its pyramid, and
// the older frames at half size, all moved to where things are now. It runs beside the network.
// Four threads a cell, a row each. Launch: block (256), grid (ceil(cells / 64)).
extern "C" __global__ void __launch_bounds__(256) mirage_carry(
    const unsigned char* rgb, const float* __restrict__ moved_last, const float* __restrict__ moved_older,
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
        const float4 old = *reinterpret_cast<const float4*>(moved_last + c * plane + at);
        const float left = old.x + old.y, right = old.z + old.w;
        const float below_left = __shfl_xor_sync(0xffffffffu, left, 1), below_right = __shfl_xor_sync(0xffffffffu, right, 1);
        if (!inside || dy % 2) continue;
        const float2 moved = *reinterpret_cast<const float2*>(moved_older + c * half_plane + half_at);
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
