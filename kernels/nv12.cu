// nv12: NV12, the layout of hardware decoders and encoders, to uint8 RGB and back.
//
// A luma plane [height, width], then half as many rows of chroma, U and V side by side. One thread makes a block
// of 2x2 pixels, which share one U and one V. All arithmetic is of integers (coefficients are in 1/65536, made
// in mirage_cli/engine/reference.py), so every device gives the same bytes.
//
// Rows may lie further apart than they are wide (a decoder's pitch). Sides may be odd: the last row or column
// then has chroma of its own, made from its pixels doubled.
//
// Launch: block (32, 8), grid (ceil(width / 64), ceil(height / 16)).

__device__ __forceinline__ unsigned char level(int value) { return (unsigned char)min(max(value, 0), 255); }

extern "C" __global__ void __launch_bounds__(256) mirage_nv12_to_rgb(
    const unsigned char* __restrict__ luma, const unsigned char* __restrict__ chroma, unsigned char* __restrict__ rgb,
    int height, int width, int luma_pitch, int chroma_pitch,  // bytes from a row to the next
    int offset, int scale, int red_v, int green_u, int green_v, int blue_u) {
    const int x = 2 * (blockIdx.x * 32 + threadIdx.x), y = 2 * (blockIdx.y * 8 + threadIdx.y);
    if (x >= width || y >= height) return;
    const unsigned char* pair = chroma + size_t(y / 2) * chroma_pitch + x;
    const int u = int(pair[0]) - 128, v = int(pair[1]) - 128;
    const int red = red_v * v + 32768, green = green_u * u + green_v * v + 32768, blue = blue_u * u + 32768;
#pragma unroll
    for (int dy = 0; dy < 2; ++dy)
#pragma unroll
        for (int dx = 0; dx < 2; ++dx) {
            if (y + dy >= height || x + dx >= width) continue;
            const int grey = scale * (int(luma[size_t(y + dy) * luma_pitch + x + dx]) - offset);
            unsigned char* to = rgb + (size_t(y + dy) * width + x + dx) * 3;
            to[0] = level((grey + red) >> 16);
            to[1] = level((grey + green) >> 16);
            to[2] = level((grey + blue) >> 16);
        }
}

extern "C" __global__ void __launch_bounds__(256) mirage_rgb_to_nv12(
    const unsigned char* __restrict__ rgb, unsigned char* __restrict__ luma, unsigned char* __restrict__ chroma,
    int height, int width, int luma_pitch, int chroma_pitch,
    int offset, int luma_red, int luma_green, int luma_blue,
    int u_red, int u_green, int u_blue, int v_red, int v_green, int v_blue) {
    const int x = 2 * (blockIdx.x * 32 + threadIdx.x), y = 2 * (blockIdx.y * 8 + threadIdx.y);
    if (x >= width || y >= height) return;
    int red = 0, green = 0, blue = 0;  // of four pixels
#pragma unroll
    for (int dy = 0; dy < 2; ++dy)
#pragma unroll
        for (int dx = 0; dx < 2; ++dx) {
            const int row = min(y + dy, height - 1), column = min(x + dx, width - 1);
            const unsigned char* from = rgb + (size_t(row) * width + column) * 3;
            const int r = from[0], g = from[1], b = from[2];
            red += r, green += g, blue += b;
            // where a side is odd, the doubled pixel is written twice, with the same value
            luma[size_t(row) * luma_pitch + column] = level(offset + ((luma_red * r + luma_green * g + luma_blue * b + 32768) >> 16));
        }
    unsigned char* pair = chroma + size_t(y / 2) * chroma_pitch + x;
    pair[0] = level(128 + ((u_red * red + u_green * green + u_blue * blue + (1 << 17)) >> 18));
    pair[1] = level(128 + ((v_red * red + v_green * green + v_blue * blue + (1 << 17)) >> 18));
}
