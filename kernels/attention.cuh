// Attention of the picture's tokens over themselves and the memory bank, without the matrix of scores ever
// leaving the registers (online softmax; Dao et al., arXiv 2205.14135). Heads are 64 wide.
//
// A block makes 16 * GROUPS queries of one head. Its eight warps are GROUPS groups of 16 queries times SLICES
// slices of the keys: 128 keys and values at a time come into shared memory, and each slice takes its part
// of them, 32 at a time. The slices' sums, each relative to its own greatest score, are brought together at
// the end. Many queries a block save reading keys from the L2 cache again and again; few fill the chip when
// the picture is small.
//
// Launch: block (256), grid (ceil(queries / (16 GROUPS)), heads), shared memory as
// attention_shared_bytes in shapes.py.
#pragma once
#include "constants.cuh"
#include "tensor_core.cuh"

constexpr int KEYS = shapes::ATTENTION_KEYS, HEAD_WIDTH = shapes::HEAD_WIDTH, KEY_BYTES = HEAD_WIDTH * 2;
constexpr int BUFFER_BYTES = 2 * KEYS * KEY_BYTES;  // keys and values; two of them, and the queries

// 128 keys and values of a head: eight threads a row, 32 rows at a time, so that a thread's chunk and its
// place stay the same and only constants are added.
template <typename T>
__device__ __forceinline__ void load_keys(unsigned to, const T* packed, int first, int keys, int pitch, int head, int channels) {
    const int row = threadIdx.x / 8, chunk = threadIdx.x % 8;
    const T* from = packed + size_t(first + row) * pitch + channels + head * HEAD_WIDTH + chunk * 8;
    to += row * KEY_BYTES + ((chunk ^ (row & 7)) << 4);
#pragma unroll
    for (int i = 0; i < KEYS / 32; ++i) {
        const bool inside = first + row + i * 32 < keys;
        const T* key = inside ? from : packed;
        copy_16(to + i * 32 * KEY_BYTES, key, inside);
        copy_16(to + (KEYS + i * 32) * KEY_BYTES, key + channels, inside);
        from += 32 * pitch;
    }
}

// packed: [queries + memory, 3 * channels], each row query, key, value; the keys are all rows.
template <typename T, int GROUPS>
__device__ __forceinline__ void attention(char* shared, const T* packed, T* out, int queries, int keys, int channels) {
    constexpr int QUERIES = 16 * GROUPS, SLICES = 8 / GROUPS, PART = KEYS / SLICES;
    const int head = blockIdx.y, q0 = blockIdx.x * QUERIES, pitch = 3 * channels;
    const unsigned query_at = shared_address(shared), keys_at = query_at + QUERIES * KEY_BYTES;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, group = warp % GROUPS, slice = warp / GROUPS;
    let_next_start();
    wait_for_previous();
#pragma unroll
    for (int row = threadIdx.x / 8; row < QUERIES; row += 32) {
        const int chunk = threadIdx.x % 8;
        const bool inside = q0 + row < queries;
        const T* from = inside ? packed + size_t(q0 + row) * pitch + head * HEAD_WIDTH + chunk * 8 : packed;
        copy_16(query_at + row * KEY_BYTES + ((chunk ^ (row & 7)) << 4), from, inside);
    }
    load_keys(keys_at, packed, 0, keys, pitch, head, channels);
    copies_close_group();

    float sums[8][4], greatest[2] = {-1e30f, -1e30f}, total[2] = {0.f, 0.f};
#pragma unroll
    for (int i = 0; i < 8; ++i)
#pragma unroll
        for (int k = 0; k < 4; ++k) sums[i][k] = 0.f;

    // Every row that a thread addresses is l % 8 plus a multiple of 8, so a chunk's place depends on the chunk
    // and the thread alone; the rest are constant offsets to a register.
    unsigned query_place[4], key_place[4], value_place[4];
#pragma unroll
    for (int k = 0; k < 4; ++k) {
        query_place[k] = query_at + (group * 16 + (lane & 15)) * KEY_BYTES + (((2 * k + (lane >> 4)) ^ (lane & 7)) << 4);
        key_place[k] = keys_at + (((lane >> 4) << 3) + (lane & 7)) * KEY_BYTES + (((2 * k + ((lane >> 3) & 1)) ^ (lane & 7)) << 4);
        value_place[k] = keys_at + KEYS * KEY_BYTES + (lane & 15) * KEY_BYTES + (((2 * k + (lane >> 4)) ^ (lane & 7)) << 4);
    }
    constexpr float SCALE = 0.18033688011112042f;  // log2(e) / sqrt(64): softmax in powers of two
    constexpr int BLOCK = 32;

    const int rounds = (keys + KEYS - 1) / KEYS;
    for (int round = 0; round < rounds; ++round) {
        copies_wait<0>();
        __syncthreads();
        if (round + 1 < rounds)
            load_keys(keys_at + (round + 1) % 2 * BUFFER_BYTES, packed, (round + 1) * KEYS, keys, pitch, head, channels);
        copies_close_group();
#pragma unroll 1
        for (int part = slice * PART; part < (slice + 1) * PART; part += BLOCK) {
            const int left = keys - round * KEYS - part;  // keys from here on
            if (left <= 0) break;
            const unsigned shift = round % 2 * BUFFER_BYTES + part * KEY_BYTES;
            float s[BLOCK / 8][4];  // scores: 16 queries x 32 keys
#pragma unroll
            for (int j = 0; j < BLOCK / 8; ++j)
#pragma unroll
                for (int k = 0; k < 4; ++k) s[j][k] = 0.f;
#pragma unroll
            for (int k = 0; k < 4; ++k) {
                unsigned q[4];  // read again each time: registers are dearer than shared memory here
                load_matrices(q, query_place[k]);
#pragma unroll
                for (int pair = 0; pair < BLOCK / 16; ++pair) {
                    unsigned b[4];
                    load_matrices(b, key_place[k] + shift + pair * 16 * KEY_BYTES);
                    multiply_add(s[2 * pair], q, b[0], b[1], T{});
                    multiply_add(s[2 * pair + 1], q, b[2], b[3], T{});
                }
            }
            if (left < BLOCK) {
#pragma unroll
                for (int j = 0; j < BLOCK / 8; ++j)
#pragma unroll
                    for (int k = 0; k < 4; ++k)
                        if (j * 8 + lane % 4 * 2 + (k & 1) >= left) s[j][k] = -1e30f;
            }
#pragma unroll
            for (int row = 0; row < 2; ++row) {
                float high = fmaxf(s[0][2 * row], s[0][2 * row + 1]);
#pragma unroll
                for (int j = 1; j < BLOCK / 8; ++j) high = fmaxf(high, fmaxf(s[j][2 * row], s[j][2 * row + 1]));
                high = fmaxf(high, __shfl_xor_sync(0xffffffffu, high, 1));
                high = fmaxf(high, __shfl_xor_sync(0xffffffffu, high, 2));
                high *= SCALE;
                if (high > greatest[row]) {  // most blocks hold no new greatest score
                    const float shrink = exp2_fast(greatest[row] - high);
                    greatest[row] = high;
                    total[row] *= shrink;
#pragma unroll
                    for (int i = 0; i < 8; ++i) {
                        sums[i][2 * row] *= shrink;
                        sums[i][2 * row + 1] *= shrink;
                    }
                }
#pragma unroll
                for (int j = 0; j < BLOCK / 8; ++j)
#pragma unroll
                    for (int k = 2 * row; k < 2 * row + 2; ++k) {
                        s[j][k] = exp2_fast(fmaf(s[j][k], SCALE, -greatest[row]));
                        total[row] += s[j][k];
                    }
            }
#pragma unroll
            for (int k = 0; k < BLOCK / 16; ++k) {  // 16 keys at a time: the scores' layout is that of a left operand
                const unsigned a[4] = {pack(s[2 * k][0], s[2 * k][1], T{}), pack(s[2 * k][2], s[2 * k][3], T{}),
                                       pack(s[2 * k + 1][0], s[2 * k + 1][1], T{}), pack(s[2 * k + 1][2], s[2 * k + 1][3], T{})};
#pragma unroll
                for (int pair = 0; pair < 4; ++pair) {
                    unsigned b[4];
                    load_matrices_transposed(b, value_place[pair] + shift + k * 16 * KEY_BYTES);
                    multiply_add(sums[2 * pair], a, b[0], b[1], T{});
                    multiply_add(sums[2 * pair + 1], a, b[2], b[3], T{});
                }
            }
        }
    }
    copies_wait<0>();
    __syncthreads();
#pragma unroll
    for (int row = 0; row < 2; ++row) {
        total[row] += __shfl_xor_sync(0xffffffffu, total[row], 1);
        total[row] += __shfl_xor_sync(0xffffffffu, total[row], 2);
    }
    // [slice][query][66]: 64 sums, the greatest score, the total
    float* table = reinterpret_cast<float*>(shared);
#pragma unroll
    for (int row = 0; row < 2; ++row) {
        float* at = table + (slice * QUERIES + group * 16 + row * 8 + lane / 4) * 66;
#pragma unroll
        for (int i = 0; i < 8; ++i)
            *reinterpret_cast<float2*>(at + i * 8 + lane % 4 * 2) = make_float2(sums[i][2 * row], sums[i][2 * row + 1]);
        if (lane % 4 == 0) *reinterpret_cast<float2*>(at + 64) = make_float2(greatest[row], total[row]);
    }
    __syncthreads();
    const int chunk = threadIdx.x % 8;  // 8 channels a thread
#pragma unroll
    for (int query = threadIdx.x / 8; query < QUERIES; query += 32) {
        if (q0 + query >= queries) return;
        float top = -1e30f, whole = 0.f, v[8] = {0.f, 0.f, 0.f, 0.f, 0.f, 0.f, 0.f, 0.f};
#pragma unroll
        for (int i = 0; i < SLICES; ++i) top = fmaxf(top, table[(i * QUERIES + query) * 66 + 64]);
#pragma unroll
        for (int i = 0; i < SLICES; ++i) {
            const float* at = table + (i * QUERIES + query) * 66;
            const float share = exp2_fast(at[64] - top);
            whole += share * at[65];
#pragma unroll
            for (int k = 0; k < 8; ++k) v[k] += share * at[chunk * 8 + k];
        }
        const float inverse = 1.f / whole;
        *reinterpret_cast<uint4*>(out + size_t(q0 + query) * channels + head * HEAD_WIDTH + chunk * 8) =
            make_uint4(pack(v[0] * inverse, v[1] * inverse, T{}), pack(v[2] * inverse, v[3] * inverse, T{}),
                       pack(v[4] * inverse, v[5] * inverse, T{}), pack(v[6] * inverse, v[7] * inverse, T{}));
    }
}
#define ATTENTION(groups, queries, suffix) ATTENTION_(groups, queries, suffix)
#define ATTENTION_(groups, queries_, suffix)                                                                    \
    extern "C" __global__ void __launch_bounds__(256, 2) mirage_attention##queries_##_##suffix(                  \
        const ELEMENT* packed, ELEMENT* out, int queries, int keys, int channels) {                             \
        extern __shared__ __align__(128) char shared[];                                                         \
        attention<ELEMENT, groups>(shared, packed, out, queries, keys, channels);                               \
    }
ATTENTION(2, 32, SUFFIX)
ATTENTION(4, 64, SUFFIX)

// pool_tokens: the mean of each cell of a rows x columns grid (adaptive average pooling) of the lowest
// level, for the memory bank. Launch: block (channels / 2), grid (columns, rows).
#define POOL(suffix) POOL_(suffix)
#define POOL_(suffix)                                                                                              \
    extern "C" __global__ void __launch_bounds__(256) mirage_pool_tokens_##suffix(const unsigned* in, unsigned* out, \
                                                                                  int height, int width) {         \
        wait_for_previous();                                                                                       \
        const int row = blockIdx.y, column = blockIdx.x, pairs = blockDim.x;                                       \
        const int y0 = row * height / gridDim.y, y1 = ((row + 1) * height + gridDim.y - 1) / gridDim.y;            \
        const int x0 = column * width / gridDim.x, x1 = ((column + 1) * width + gridDim.x - 1) / gridDim.x;        \
        float2 sum = make_float2(0.f, 0.f);                                                                        \
        for (int y = y0; y < y1; ++y)                                                                              \
            for (int x = x0; x < x1; ++x) {                                                                        \
                const float2 v = unpack(in[size_t(y * width + x) * pairs + threadIdx.x], ELEMENT{});               \
                sum.x += v.x;                                                                                      \
                sum.y += v.y;                                                                                      \
            }                                                                                                      \
        const float share = 1.f / ((y1 - y0) * (x1 - x0));                                                         \
        out[(row * gridDim.x + column) * pairs + threadIdx.x] = pack(sum.x * share, sum.y * share, ELEMENT{});     \
    }
POOL(SUFFIX)
