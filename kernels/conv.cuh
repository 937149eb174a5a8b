// Convolutions of the denoiser as matrix products on tensor cores (implicit GEMM), with everything that
// lies between two convolutions in their heads and tails.
//
// A block of 256 threads makes a tile of 8 x TW pixels (TW 8 or 16) times BN output channels:
//
//   1. Weights. They do not depend on the frame, so the first stages are on their way into shared memory
//      before the kernel ahead has finished (PDL: tensor_core.cuh, `wait_for_previous`).
//   2. Patch. All input channels of the tile and its border go into shared memory once; the nine taps of a
//      3x3 convolution read it nine times from there. On the way in, HEAD normalises over the channels of
//      each pixel, modulates with the look's scale and shift and applies SiLU: the normalised picture
//      never exists in device memory. A second input (IN1) may follow the first along K: skip connections
//      and the older frames are such inputs, so nothing is ever concatenated or upsampled in memory.
//   3. Products. The eight warps are arranged WM x WN x WK: WM * 64 pixels, WN * 32 channels, and WK slices
//      of the sum over input channels and taps. Each warp makes a 64 x 32 product, which keeps its
//      accumulators at 64 registers and needs 6 matrix loads for 16 matrix instructions.
//   4. Tail. The slices are summed through shared memory; bias, modulation and SiLU, or the residual, are
//      added in fp32, and whole 8-byte groups of channels are written. COMPOSE (compose.cuh) turns the last
//      convolution into the finished uint8 frame on the spot.
//
// Shared memory is read in 16-byte chunks whose place in a row is exchanged with the row's number (XOR),
// so that eight rows of a matrix load lie in different banks.
#pragma once
#include "tensor_core.cuh"

enum Head { AS_IS, NORM_FILM_SILU, NORM };
enum Tail { STORE, FILM_SILU, RESIDUAL, COMPOSE };

// What a launch is given; mirrored in mirage_cli/engine/conv.py.
struct ConvParams {
    const void* in0;        // [height / up * stride, ..., pixel0] first input
    const void* in1;        // second input, at output resolution, pixel1 elements a pixel
    const void* weights;    // packed: [BN tile][K / 16][BN][16], see mirage_cli/engine/conv.py
    const float* bias;      // [N]
    const void* film_in;    // scale [C0], then shift [C0], with a past; film_past_less elements on: without
    const void* film_out;   // the same for the tail, [N] each
    const void* residual;   // [pixels, N]
    void* out;              // [pixels, out_pixel]
    const int* flags;       // flags[0]: there is a past
    const void* rows;       // extra rows after the picture's (the memory bank), [extra, C0]
    const void* null_row;   // [C0], in place of each extra row when there is no past
    int film_past_less;
    int height, width;      // of the output
    int tiles_x, tiles;     // tiles in a row, and of the picture
    int extra;              // extra rows
    int masked0;            // not 0: channels of in0 from here on are zero when there is no past
    int masked1;            // not 0: all of in1 is zero when there is no past
};

template <typename T_, int C0_, int TAPS_, int STRIDE_, int UP_, int C1_, int WM_, int WN_, int S_, int RING_,
          Head HEAD_, Tail TAIL_>
struct Conv {
    using T = T_;
    static constexpr int C0 = C0_, TAPS = TAPS_, STRIDE = STRIDE_, UP = UP_, C1 = C1_, WM = WM_, WN = WN_;
    static constexpr int S = S_, RING = RING_;
    static constexpr Head HEAD = HEAD_;
    static constexpr Tail TAIL = TAIL_;
    static constexpr int WK = 8 / (WM * WN), BM = 64 * WM, BN = 32 * WN;
    static constexpr int TW = WM == 2 ? 16 : 8, TH = 8, PAD = TAPS == 9 ? 1 : 0;
    static constexpr int PW = UP ? TW / 2 : (TW - 1) * STRIDE + 1 + 2 * PAD;
    static constexpr int PH = UP ? TH / 2 : (TH - 1) * STRIDE + 1 + 2 * PAD;
    static constexpr int P0 = PW * PH, P1 = C1 ? BM : 0;            // pixels of the two patches
    static constexpr int ROW0 = (C0 + 63) / 64 * 128;               // bytes of a pixel in shared memory
    static constexpr int ROW1 = (C1 + 63) / 64 * 128;
    static constexpr int KK0 = TAPS * (C0 / 16), KK = KK0 + C1 / 16;  // products of depth 16
    static constexpr int STAGES = (KK + WK * S - 1) / (WK * S);
    static constexpr int BLOCK_BYTES = BN * 32;                     // weights of one product of depth 16
    static constexpr int STAGE_BYTES = S * WK * BLOCK_BYTES;
    static constexpr int SLOTS = RING < STAGES ? RING : STAGES;
    static constexpr int PATCH_BYTES = P0 * ROW0 + P1 * ROW1;
    static constexpr int SUM_ROW = BN + 8;                          // floats; 8 more keep banks apart
    static constexpr int SUM_BYTES = WK * BM * SUM_ROW * 4;
    static constexpr int LOOP_BYTES = PATCH_BYTES + SLOTS * STAGE_BYTES;
    static constexpr int SHARED_BYTES = LOOP_BYTES > SUM_BYTES ? LOOP_BYTES : SUM_BYTES;
    static_assert(!UP || TAPS == 1, "doubling goes before a 1x1 convolution: the taps step through the patch as it is");
    static_assert(TAPS == 1 || C0 / 16 % (8 / (WM_ * WN_)) == 0, "the slices of a 3x3 convolution stay at one tap");
    static_assert(C0 % 16 == 0 && C1 % 16 == 0 && SHARED_BYTES <= 101376, "99 KB is what every card gives");
};

// Which chunk of a pixel's row trades places with chunk 0: decided by the pixel's column in the patch, since the
// eight rows of a matrix load are eight neighbours (every second one where STRIDE is 2) of one line.
template <int STRIDE>
__device__ __forceinline__ int exchange(int column) {
    return (STRIDE == 2 ? column >> 1 : column) & 7;
}

// Weights of one stage: contiguous in memory and already in the order shared memory wants.
template <typename G>
__device__ __forceinline__ void load_stage(unsigned to, const char* weights, int stage) {
    const char* from = weights + size_t(stage) * G::STAGE_BYTES;
#pragma unroll
    for (int i = 0; i < G::STAGE_BYTES / 4096; ++i) {
        const int at = (i * 256 + threadIdx.x) * 16;
        copy_16(to + at, from + at);
    }
}

// The patch as it is, by asynchronous copies; zeros outside of the picture.
template <typename G, int CHANNELS, int ROW, int WIDTH, int PIXELS, int STRIDE, int PAD, int UP>
__device__ __forceinline__ void copy_patch(unsigned to, const void* in, int y0, int x0, int height, int width,
                                           int from_channel_zero) {
    constexpr int CHUNKS = CHANNELS / 8;
    const auto* picture = reinterpret_cast<const typename G::T*>(in);
    for (int i = threadIdx.x; i < PIXELS * CHUNKS; i += 256) {
        const int p = i / CHUNKS, chunk = i % CHUNKS;
        const int y = (UP ? y0 / 2 : y0 * STRIDE - PAD) + p / WIDTH;
        const int x = (UP ? x0 / 2 : x0 * STRIDE - PAD) + p % WIDTH;
        const bool inside = unsigned(y) < unsigned(height) && unsigned(x) < unsigned(width) && chunk * 8 < from_channel_zero;
        const auto* from = inside ? picture + (size_t(y) * width + x) * CHANNELS + chunk * 8 : picture;
        copy_16(to + p * ROW + ((chunk ^ exchange<STRIDE>(p % WIDTH)) << 4), from, inside);
    }
}

// The same, with norm over channels, modulation and SiLU. CHANNELS / 8 neighbouring threads share a pixel,
// each with 8 channels; a thread copies what it will work on itself, so that all its loads are in flight
// at once and no barrier is needed before it goes over them in place.
template <typename G>
__device__ __forceinline__ void normalise_patch(char* to, const ConvParams& p, int y0, int x0, int height, int width,
                                                bool memory) {
    using T = typename G::T;
    constexpr int C = G::C0, LANES = C / 8, AT_ONCE = 256 / LANES;
    static_assert(G::HEAD == AS_IS || (LANES <= 32 && 32 % LANES == 0), "a pixel is shared by part of a warp");
    const int lane = threadIdx.x % LANES, first = threadIdx.x / LANES;
    const unsigned to_at = shared_address(to);
    const bool past = p.flags[0] != 0;
    const auto place = [&](int pixel) { return pixel * G::ROW0 + ((lane ^ exchange<G::STRIDE>(pixel % G::PW)) << 4); };
    const auto is_inside = [&](int pixel, int& y, int& x) {
        y = y0 * G::STRIDE - G::PAD + pixel / G::PW;
        x = x0 * G::STRIDE - G::PAD + pixel % G::PW;
        return memory ? y0 + pixel < p.extra : unsigned(y) < unsigned(height) && unsigned(x) < unsigned(width);
    };
    for (int pixel = first; pixel < G::P0; pixel += AT_ONCE) {
        int y, x;
        if (!is_inside(pixel, y, x)) continue;
        const T* row = reinterpret_cast<const T*>(p.in0) + (size_t(y) * width + x) * C;
        if (memory)  // y0 is the first of the extra rows
            row = past ? reinterpret_cast<const T*>(p.rows) + size_t(y0 + pixel) * C : reinterpret_cast<const T*>(p.null_row);
        copy_16(to_at + place(pixel), row + lane * 8);
    }
    copies_close_group();
    float scale[8], shift[8];
    if (G::HEAD == NORM_FILM_SILU) {
        const T* film = reinterpret_cast<const T*>(p.film_in) + (past ? 0 : p.film_past_less) + lane * 8;
        unpack8<T>(*reinterpret_cast<const uint4*>(film), scale);
        unpack8<T>(*reinterpret_cast<const uint4*>(film + C), shift);
#pragma unroll
        for (int i = 0; i < 8; ++i) {  // half of each: SiLU is made of half its argument
            scale[i] = 0.5f + 0.5f * scale[i];
            shift[i] *= 0.5f;
        }
    }
    copies_wait<0>();
    constexpr int ROUNDS = (G::P0 + AT_ONCE - 1) / AT_ONCE;
#pragma unroll 4
    for (int round = 0; round < ROUNDS; ++round) {
        const int pixel = first + round * AT_ONCE;
        uint4* at = reinterpret_cast<uint4*>(to + place(pixel));
        int y, x;
        const bool inside = pixel < G::P0 && is_inside(pixel, y, x);  // the last round is not whole
        float v[8], sum = 0.f, squares = 0.f;
        unpack8<T>(inside ? *at : make_uint4(0, 0, 0, 0), v);
        // relative to the pixel's first channel, so that a large mean does not swallow the variance
        const float origin = __shfl_sync(0xffffffffu, v[0], 0, LANES);
#pragma unroll
        for (int i = 0; i < 8; ++i) {
            v[i] -= origin;
            sum += v[i];
            squares += v[i] * v[i];
        }
#pragma unroll
        for (int step = 1; step < LANES; step *= 2) {
            sum += __shfl_xor_sync(0xffffffffu, sum, step);
            squares += __shfl_xor_sync(0xffffffffu, squares, step);
        }
        const float mean = sum * (1.f / C);
        const float inverse = rsqrtf(fmaxf(squares * (1.f / C) - mean * mean, 0.f) + 1e-5f), offset = -mean * inverse;
#pragma unroll
        for (int i = 0; i < 8; ++i) {
            v[i] = fmaf(v[i], inverse, offset);
            if (G::HEAD == NORM_FILM_SILU) v[i] = silu_of_twice(fmaf(v[i], scale[i], shift[i]));
        }
        if (pixel >= G::P0) continue;
        uint4 packed = make_uint4(0, 0, 0, 0);  // the convolution pads what is activated, with zeros
        if (inside)
            packed = make_uint4(pack(v[0], v[1], T{}), pack(v[2], v[3], T{}), pack(v[4], v[5], T{}), pack(v[6], v[7], T{}));
        *at = packed;
    }
}

// Line and column in the first patch of row r (0 to 15) of the warp's 16-row group `group`.
template <typename G>
__device__ __forceinline__ int patch_line(int wm, int group, int r) {
    const int y = G::TW == 8 ? wm * 8 + group * 2 + (r >> 3) : wm * 4 + group;
    return G::UP ? y >> 1 : y * G::STRIDE;
}
template <typename G>
__device__ __forceinline__ int patch_column(int r) {
    const int x = G::TW == 8 ? r & 7 : r;
    return G::UP ? x >> 1 : x * G::STRIDE;
}

// Steps 1 to 3 and the first half of 4: the sums of all slices in shared memory, [WK][BM][SUM_ROW] floats.
template <typename G>
__device__ __forceinline__ void products(char* shared, const ConvParams& p, int y0, int x0, int n_tile, bool memory) {
    using T = typename G::T;
    char* ring = shared + G::PATCH_BYTES;
    const unsigned patch_at = shared_address(shared), ring_at = shared_address(ring);
    const char* weights = reinterpret_cast<const char*>(p.weights) + size_t(n_tile) * G::STAGES * G::STAGE_BYTES;

    // stages ahead of the one that is used: all, or one less than the ring holds
    constexpr int AHEAD = G::SLOTS < G::STAGES ? G::SLOTS - 1 : G::SLOTS;
#pragma unroll
    for (int stage = 0; stage < AHEAD; ++stage) {
        load_stage<G>(ring_at + stage * G::STAGE_BYTES, weights, stage);
        copies_close_group();
    }
    let_next_start();
    wait_for_previous();

    const int in_height = G::UP ? p.height / 2 : p.height * G::STRIDE, in_width = G::UP ? p.width / 2 : p.width * G::STRIDE;
    if (G::HEAD == AS_IS) {
        const int from_zero = p.masked0 && p.flags[0] == 0 ? p.masked0 : G::C0;
        copy_patch<G, G::C0, G::ROW0, G::PW, G::P0, G::STRIDE, G::PAD, G::UP>(patch_at, p.in0, y0, x0, in_height, in_width, from_zero);
    }
    if (G::C1 > 0) {
        const int from_zero = p.masked1 && p.flags[0] == 0 ? 0 : G::C1;
        copy_patch<G, G::C1 ? G::C1 : 8, G::ROW1, G::TW, G::P1, 1, 0, 0>(
            patch_at + G::P0 * G::ROW0, p.in1, y0, x0, p.height, p.width, from_zero);
    }
    copies_close_group();
    if (G::HEAD != AS_IS) normalise_patch<G>(shared, p, y0, x0, in_height, in_width, memory);

    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int wk = warp % G::WK, wn = warp / G::WK % G::WN, wm = warp / (G::WK * G::WN);
    const int r = lane & 15, half = lane >> 4;
    const int b_row = wn * 32 + ((lane >> 4) << 3) + (lane & 7);
    const unsigned b_lane = b_row * 32 + ((((lane >> 3) & 1) ^ ((b_row >> 2) & 1)) << 4);

    float sums[4][4][4];  // [16 rows each][8 columns each][a thread's four]
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j)
#pragma unroll
            for (int k = 0; k < 4; ++k) sums[i][j][k] = 0.f;

    // Addresses of the left operands: what depends on the thread is computed here, so that in the loop, which
    // is unrolled, all else is a constant offset to a register. One for each column of taps, and for each of the
    // HALVES of a tap's channels that a warp goes through.
    constexpr int PER_TAP = G::C0 / 16, COLUMNS = G::TAPS == 9 ? 3 : 1;
    constexpr bool EVEN = PER_TAP % G::WK == 0;  // all warps are at the same tap
    constexpr int HALVES = EVEN ? PER_TAP / G::WK : 1;
    unsigned left[COLUMNS][HALVES];
#pragma unroll
    for (int column = 0; column < COLUMNS; ++column)
#pragma unroll
        for (int part = 0; part < HALVES; ++part) {
            const int x = patch_column<G>(r) + column, chunk = 2 * (part * G::WK + wk) + half;
            left[column][part] = patch_at + (patch_line<G>(wm, 0, r) * G::PW + x) * G::ROW0 + ((chunk ^ exchange<G::STRIDE>(x)) << 4);
        }
    const unsigned second = patch_at + G::P0 * G::ROW0 + (wm * 64 + r) * G::ROW1;

#pragma unroll
    for (int stage = 0; stage < G::STAGES; ++stage) {
        if (stage == 0 || AHEAD == G::STAGES) copies_wait<0>();
        else copies_wait<(AHEAD > 1 ? AHEAD - 1 : 0)>();
        if (stage == 0 || AHEAD < G::STAGES) __syncthreads();
        if (AHEAD < G::STAGES) {
            if (stage + AHEAD < G::STAGES)
                load_stage<G>(ring_at + (stage + AHEAD) % G::SLOTS * G::STAGE_BYTES, weights, stage + AHEAD);
            copies_close_group();
        }
#pragma unroll
        for (int step = 0; step < G::S; ++step) {
            const int round = stage * G::S + step;
            if (round * G::WK >= G::KK) break;  // nothing but zeros from here on
            const unsigned b_at = ring_at + b_lane + wk * G::BLOCK_BYTES + stage % G::SLOTS * G::STAGE_BYTES + step * G::WK * G::BLOCK_BYTES;
            unsigned a[4][4], b[2][4];
            load_matrices(b[0], b_at);
            load_matrices(b[1], b_at + 16 * 32);
            int kk = round * G::WK + wk;
            if (G::STAGES * G::S * G::WK > G::KK) kk = min(kk, G::KK - 1);  // the weights there are zero
            if (EVEN && round * G::WK < G::KK0) {
                const int tap = round * G::WK / PER_TAP, part = round % HALVES;
                const unsigned at = left[tap % COLUMNS][part] + tap / COLUMNS * G::PW * G::ROW0;
#pragma unroll
                for (int i = 0; i < 4; ++i)
                    load_matrices(a[i], at + (patch_line<G>(0, i, 0) - patch_line<G>(0, 0, 0)) * G::PW * G::ROW0);
            } else if (!EVEN && kk < G::KK0) {  // a 1x1 convolution whose warps part at the second input
                const int x = patch_column<G>(r), chunk = 2 * kk + half;
#pragma unroll
                for (int i = 0; i < 4; ++i)
                    load_matrices(a[i], patch_at + (patch_line<G>(wm, i, r) * G::PW + x) * G::ROW0 + ((chunk ^ exchange<G::STRIDE>(x)) << 4));
            } else {
                const unsigned at = second + (((2 * (kk - G::KK0) + half) ^ (r & 7)) << 4);
#pragma unroll
                for (int i = 0; i < 4; ++i) load_matrices(a[i], at + i * 16 * G::ROW1);
            }
#pragma unroll
            for (int i = 0; i < 4; ++i)
#pragma unroll
                for (int j = 0; j < 4; ++j) multiply_add(sums[i][j], a[i], b[j >> 1][(j & 1) * 2], b[j >> 1][(j & 1) * 2 + 1], T{});
        }
    }

    copies_wait<0>();
    __syncthreads();  // the patch and the ring are read no more; their place takes the sums
    float* table = reinterpret_cast<float*>(shared) + (wk * G::BM + wm * 64 + lane / 4) * G::SUM_ROW + wn * 32 + lane % 4 * 2;
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j)
#pragma unroll
            for (int upper = 0; upper < 2; ++upper)
                *reinterpret_cast<float2*>(table + (i * 16 + upper * 8) * G::SUM_ROW + j * 8) =
                    make_float2(sums[i][j][2 * upper], sums[i][j][2 * upper + 1]);
    __syncthreads();
}

// Four neighbouring channels of a pixel, all slices added.
template <typename G>
__device__ __forceinline__ float4 total_of(const char* shared, int m, int n) {
    const float* at = reinterpret_cast<const float*>(shared) + m * G::SUM_ROW + n;
    float4 v = *reinterpret_cast<const float4*>(at);
#pragma unroll
    for (int slice = 1; slice < G::WK; ++slice) {
        const float4 more = *reinterpret_cast<const float4*>(at + slice * G::BM * G::SUM_ROW);
        v.x += more.x; v.y += more.y; v.z += more.z; v.w += more.w;
    }
    return v;
}

// A whole layer: blockIdx.x is the tile of pixels, blockIdx.y of channels.
template <typename G>
__device__ __forceinline__ void layer(char* shared, const ConvParams& p) {
    using T = typename G::T;
    const int tile = blockIdx.x, n_tile = blockIdx.y, channels = gridDim.y * G::BN;
    const bool memory = G::HEAD == NORM && tile >= p.tiles;  // a tile of extra rows
    const int y0 = memory ? (tile - p.tiles) * G::BM : tile / p.tiles_x * G::TH;
    const int x0 = memory ? 0 : tile % p.tiles_x * G::TW;
    products<G>(shared, p, y0, x0, n_tile, memory);

    constexpr int GROUPS = G::BN / 4;
    const T* film = reinterpret_cast<const T*>(p.film_out) + (G::TAIL == FILM_SILU && p.flags[0] == 0 ? p.film_past_less : 0);
#pragma unroll 2
    for (int i = threadIdx.x; i < G::BM * GROUPS; i += 256) {
        const int m = i / GROUPS, n = n_tile * G::BN + i % GROUPS * 4;
        const int y = y0 + m / G::TW, x = x0 + m % G::TW;
        size_t pixel = size_t(y) * p.width + x;
        if (memory) {
            if (y0 + m >= p.extra) continue;
            pixel = size_t(p.height) * p.width + y0 + m;
        } else if (y >= p.height || x >= p.width) {
            continue;
        }
        const float4 sum = total_of<G>(shared, m, i % GROUPS * 4), bias = *reinterpret_cast<const float4*>(p.bias + n);
        float v[4] = {sum.x + bias.x, sum.y + bias.y, sum.z + bias.z, sum.w + bias.w};
        if (G::TAIL == FILM_SILU) {
            const uint2 scale = *reinterpret_cast<const uint2*>(film + n), shift = *reinterpret_cast<const uint2*>(film + channels + n);
            const float2 a = unpack(scale.x, T{}), b = unpack(scale.y, T{}), c = unpack(shift.x, T{}), d = unpack(shift.y, T{});
            v[0] = silu_of_twice(0.5f * (v[0] * (1.f + a.x) + c.x));
            v[1] = silu_of_twice(0.5f * (v[1] * (1.f + a.y) + c.y));
            v[2] = silu_of_twice(0.5f * (v[2] * (1.f + b.x) + d.x));
            v[3] = silu_of_twice(0.5f * (v[3] * (1.f + b.y) + d.y));
        }
        if (G::TAIL == RESIDUAL) {
            const uint2 rest = *reinterpret_cast<const uint2*>(reinterpret_cast<const T*>(p.residual) + pixel * channels + n);
            const float2 a = unpack(rest.x, T{}), b = unpack(rest.y, T{});
            v[0] += a.x; v[1] += a.y; v[2] += b.x; v[3] += b.y;
        }
        *reinterpret_cast<uint2*>(reinterpret_cast<T*>(p.out) + pixel * channels + n) =
            make_uint2(pack(v[0], v[1], T{}), pack(v[2], v[3], T{}));
    }
}
