// FP8 codes [rows, K] of any address and any distance between rows -> rows of multiples of 16 bytes.
//
// A warp takes 512 bytes of 4 rows. A thread reads the two aligned 16-byte pieces that its 16 bytes
// lie in (the second is the next thread's first, so it comes from L1), and shifts them into place by
// the number of bytes that the row is off. Pieces that are not wholly inside the row are read byte by
// byte: nothing outside the matrix is touched.

constexpr u32 PIECE = 512;   // bytes of a row that a warp takes
constexpr u32 PASSES = 4;    // rows of a warp
constexpr u32 WARPS = THREADS / 32;

// Bytes [first, first + 16) of a row of k, zeros where it has none.
DEVICE Vector load_inside(const u8* pointer, int first, u32 k) {
    if (first >= 0 && u32(first) + 16 <= k) return load_vector(pointer);
    Vector v = {};
#pragma unroll
    for (int i = 0; i < 16; ++i) {
        if (first + i >= 0 && first + i < int(k)) v.word[i / 4] |= u32(pointer[i]) << (8 * (i % 4));
    }
    return v;
}

// The 16 bytes that start at byte `shift` (below 16) of the 32.
DEVICE Vector shifted(const Vector& low, const Vector& high, u32 shift) {
    u32 w[8];
#pragma unroll
    for (u32 i = 0; i < 4; ++i) {
        w[i] = low.word[i];
        w[i + 4] = high.word[i];
    }
    // By two words, by one, then by bytes: registers cannot be indexed by a number known late.
#pragma unroll
    for (u32 i = 0; i < 6; ++i) w[i] = shift & 8 ? w[i + 2] : w[i];
#pragma unroll
    for (u32 i = 0; i < 5; ++i) w[i] = shift & 4 ? w[i + 1] : w[i];
    Vector v;
#pragma unroll
    for (u32 i = 0; i < 4; ++i) v.word[i] = __funnelshift_r(w[i], w[i + 1], shift % 4 * 8);
    return v;
}

extern "C" __global__ void __launch_bounds__(THREADS) fp8gemm_repack(const Arguments arguments) {
    const u32 rows = arguments.rows, k = arguments.k;
    const u32 pieces = ceil_div(k, PIECE);
    const u32 task = blockIdx.x * WARPS + threadIdx.x / 32;
    const u32 first_row = task / pieces * PASSES, column = task % pieces * PIECE + threadIdx.x % 32 * 16;
    if (first_row >= rows || column >= k) return;

    const u8* input = arguments.input + first_row * arguments.input_stride + column;
    Vector v[PASSES];
    const bool whole = first_row + PASSES <= rows && column + 32 <= k;
    if (arguments.aligned && whole) {
#pragma unroll
        for (u32 pass = 0; pass < PASSES; ++pass) v[pass] = load_vector(input + pass * arguments.input_stride);
    } else {
        Vector high[PASSES];
        u32 shift[PASSES];
#pragma unroll
        for (u32 pass = 0; pass < PASSES; ++pass) shift[pass] = u64(input + pass * arguments.input_stride) % 16;
        if (whole && column >= 16) {
#pragma unroll
            for (u32 pass = 0; pass < PASSES; ++pass) {
                const u8* from = input + pass * arguments.input_stride - shift[pass];
                v[pass] = load_vector(from);
                high[pass] = load_vector(from + 16);
            }
        } else {
#pragma unroll
            for (u32 pass = 0; pass < PASSES; ++pass) {
                const u8* from = input + pass * arguments.input_stride - shift[pass];
                const int first = int(column) - int(shift[pass]);
                const u32 present = first_row + pass < rows ? k : 0;
                v[pass] = load_inside(from, first, present);
                high[pass] = load_inside(from + 16, first + 16, present);
            }
        }
#pragma unroll
        for (u32 pass = 0; pass < PASSES; ++pass) v[pass] = shifted(v[pass], high[pass], shift[pass]);
    }

    u8* codes = arguments.codes + first_row * arguments.codes_stride + column;
#pragma unroll
    for (u32 pass = 0; pass < PASSES; ++pass) {
        if (first_row + pass < rows) {
            if (column + 16 <= k) {
                store_vector(codes, v[pass]);
            } else {
#pragma unroll
                for (u32 i = 0; i < 16; ++i) {
                    if (column + i < k) codes[i] = u8(v[pass].word[i / 4] >> (8 * (i % 4)));
                }
            }
        }
        codes += arguments.codes_stride;
    }
}
