// upsample_concat: nearest-neighbour doubling of x, and the skip connection, into one NHWC buffer.
// One pass instead of two kernels and a buffer between. Nothing is computed, so types do not matter:
// everything is moved as vectors of 16 bytes, and one entry serves fp16, bf16 and fp32.
//
// Launch: block (256), grid (ceil(height * width * vectors / 256)), height and width of the output.

extern "C" __global__ void __launch_bounds__(256) mirage_upsample_concat(
    const uint4* __restrict__ x, const uint4* __restrict__ skip, uint4* __restrict__ out,
    unsigned x_pixel, unsigned skip_pixel, unsigned out_pixel,  // vectors from a pixel to the next
    unsigned x_vectors,                                         // vectors of x's channels
    unsigned vectors,                                           // of the output's
    unsigned width, unsigned total) {
    const unsigned index = blockIdx.x * 256u + threadIdx.x;
    if (index >= total) return;
    const unsigned pixel = index / vectors;
    const unsigned vector = index % vectors;
    uint4 value;
    if (vector < x_vectors) {
        const unsigned row = pixel / width;
        const unsigned column = pixel % width;
        const size_t source = size_t(row / 2) * (width / 2) + column / 2;
        value = x[source * x_pixel + vector];
    } else {
        value = skip[size_t(pixel) * skip_pixel + (vector - x_vectors)];
    }
    out[size_t(pixel) * out_pixel + vector] = value;
}
