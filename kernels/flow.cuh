// Motion between two luma pyramids: estimate_motion in mirage_cli/stream/motion.py.
#pragma once
#include "constants.cuh"
#include "samples.cuh"

// block_match: for each cell of 16x16 pixels the displacement of up to SEARCH cells that fits best, as a soft
// minimum over all, then the mean of the 3x3 cells around. A block makes 4x4 cells, and the border of
// one that the mean needs. Launch: block (1024), grid (ceil(w / 4), ceil(h / 4)).
extern "C" __global__ void __launch_bounds__(1024) mirage_block_match(
    const float* __restrict__ previous, const float* __restrict__ following, float* __restrict__ flow, int height, int width) {
    constexpr int REACH = motion::SEARCH, SIDE = 2 * REACH + 1, SHIFTS = SIDE * SIDE, RADIUS = motion::MATCH_WINDOW;
    constexpr int CELLS = 36, WINDOW = 6 + 2 * RADIUS, SEARCHED = WINDOW + 2 * REACH;
    static_assert(SHIFTS <= 64, "a lane takes two");
    __shared__ float next[WINDOW][WINDOW], past[SEARCHED][SEARCHED], cost[CELLS][SHIFTS], vectors[CELLS][2];
    __shared__ float errors[SHIFTS][WINDOW][WINDOW], across[SHIFTS][WINDOW][6];
    let_next_start();
    wait_for_previous();
    const int y0 = int(blockIdx.y) * 4 - 1, x0 = int(blockIdx.x) * 4 - 1;  // first cell of the 6x6
    for (int i = threadIdx.x; i < WINDOW * WINDOW; i += 1024) {
        const int y = min(max(y0 - RADIUS + i / WINDOW, 0), height - 1), x = min(max(x0 - RADIUS + i % WINDOW, 0), width - 1);
        next[i / WINDOW][i % WINDOW] = following[y * width + x];
    }
    for (int i = threadIdx.x; i < SEARCHED * SEARCHED; i += 1024) {
        const int y = min(max(y0 - RADIUS - REACH + i / SEARCHED, 0), height - 1);
        const int x = min(max(x0 - RADIUS - REACH + i % SEARCHED, 0), width - 1);
        past[i / SEARCHED][i % SEARCHED] = previous[y * width + x];
    }
    __syncthreads();
    // errors of each cell and shift (none outside of the picture), then sums over a window's rows and columns
    for (int i = threadIdx.x; i < SHIFTS * WINDOW * WINDOW; i += 1024) {
        const int shift = i / (WINDOW * WINDOW), y = i / WINDOW % WINDOW, x = i % WINDOW;
        const bool inside = unsigned(y0 - RADIUS + y) < unsigned(height) && unsigned(x0 - RADIUS + x) < unsigned(width);
        errors[shift][y][x] = inside ? fabsf(past[y + shift / SIDE][x + shift % SIDE] - next[y][x]) : 0.f;
    }
    __syncthreads();
    for (int i = threadIdx.x; i < SHIFTS * WINDOW * 6; i += 1024) {
        const float* from = &errors[i / (WINDOW * 6)][i / 6 % WINDOW][i % 6];
        float sum = from[0];
#pragma unroll
        for (int d = 1; d <= 2 * RADIUS; ++d) sum += from[d];
        across[i / (WINDOW * 6)][i / 6 % WINDOW][i % 6] = sum;
    }
    __syncthreads();
    for (int i = threadIdx.x; i < CELLS * SHIFTS; i += 1024) {
        const int shift = i / CELLS, cell = i % CELLS, cy = cell / 6, cx = cell % 6, sy = shift / SIDE - REACH, sx = shift % SIDE - REACH;
        const int y = y0 + cy, x = x0 + cx;
        float sum = 0.f;
#pragma unroll
        for (int d = 0; d <= 2 * RADIUS; ++d) sum += across[shift][cy + d][cx];
        const int rows = min(y + RADIUS, height - 1) - max(y - RADIUS, 0) + 1;
        const int columns = min(x + RADIUS, width - 1) - max(x - RADIUS, 0) + 1;
        cost[cell][shift] = sum / max(rows * columns, 1) + motion::MATCH_STAY * sqrtf(float(sx * sx + sy * sy));
    }
    __syncthreads();
    const int lane = threadIdx.x % 32;
    for (int cell = threadIdx.x / 32; cell < CELLS; cell += 32) {
        const float a = cost[cell][lane], b = lane + 32 < SHIFTS ? cost[cell][lane + 32] : 1e30f;
        float least = fminf(a, b);
        for (int step = 16; step; step /= 2) least = fminf(least, __shfl_xor_sync(0xffffffffu, least, step));
        const float wa = __expf((least - a) * motion::MATCH_SHARPNESS);
        const float wb = lane + 32 < SHIFTS ? __expf((least - b) * motion::MATCH_SHARPNESS) : 0.f;
        float total = wa + wb;
        float x = wa * float(lane % SIDE - REACH) + wb * float((lane + 32) % SIDE - REACH);
        float y = wa * float(lane / SIDE - REACH) + wb * float((lane + 32) / SIDE - REACH);
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
// window, so that a change of light is not taken for motion. Leaves the refined vectors times their confidence, and the
// confidence, for spread.
// Launch: block (256), grid (ceil(w / 32), ceil(h / 8)).
template <int FACTOR>
__device__ __forceinline__ void lucas_kanade(const float* __restrict__ previous, const float* __restrict__ following,
                                             const float* __restrict__ flow, float* __restrict__ weighted, int height, int width) {
    constexpr int RADIUS = motion::WINDOW, MW = 34 + 2 * RADIUS, MH = 10 + 2 * RADIUS, PW = 32 + 2 * RADIUS, PH = 8 + 2 * RADIUS;
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
    const float confidence = least / (least + motion::HALF_CONFIDENT) + motion::LEAST_CONFIDENCE;
    xx += motion::DAMPING;
    yy += motion::DAMPING;
    const float inverse = 1.f / (xx * yy - xy * xy);
    const float step_x = (yy * xe - xy * ye) * inverse, step_y = (xx * ye - xy * xe) * inverse;
    const float2 v = flow_at<FACTOR>(flow, x, y, height, width);
    const size_t plane = size_t(height) * width, at = size_t(y) * width + x;
    constexpr float LONGEST_STEP = motion::LONGEST_STEP;
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

// spread: the mean of the vectors within REACH pixels, each by its confidence. Launch as lucas_kanade.
extern "C" __global__ void __launch_bounds__(256) mirage_spread(const float* __restrict__ weighted, float* __restrict__ flow,
                                                                int height, int width) {
    constexpr int REACH = motion::REACH, PW = 32 + 2 * REACH, PH = 8 + 2 * REACH;
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
    const bool clearly = size[1] < motion::MOVES_RATIO * size[0] - motion::MOVES_MARGIN;
    return clearly || (size[3] < motion::MOVES_RATIO * size[2] - motion::MOVES_MARGIN_AROUND &&
                       size[1] <= size[0] + motion::MOVES_MARGIN);
}

// moves: flow where moving explains the new frame clearly better than standing still, or does so around a place
// that cannot tell; zero elsewhere. Launch as lucas_kanade.
extern "C" __global__ void __launch_bounds__(256) mirage_moves(
    const float* __restrict__ previous, const float* __restrict__ following, const float* __restrict__ flow,
    float* __restrict__ out, int height, int width) {
    constexpr int NEAR = motion::NEAR, AROUND = motion::AROUND, PW = 32 + 2 * AROUND, PH = 8 + 2 * AROUND;
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
