// [K, rows] -> FP8 codes [rows, K]: quantised on the way (bf16, f16, f32; scales 1x128 or 128x128
// along the K of the result), or FP8 bytes moved as they are.
//
// A CTA takes 128 of K and 128 rows. A thread reads 16 bytes of 8 (FP8: 4) neighbouring lines of K, so
// that it holds whole words of the result; they change places in shared memory, where 16-byte chunks
// are permuted by row so that columns are written, and rows read, with few bank conflicts.

constexpr u32 SIZE = size_of(INPUT);
constexpr u32 VECTOR = 16 / SIZE;                   // elements of one load
constexpr u32 LANES = BLOCK / VECTOR;               // threads that share a line of K
constexpr u32 LINES = INPUT == INPUT_FP8 ? 4 : 8;   // lines of a thread
constexpr u32 WARPS = THREADS / 32;
static_assert(THREADS == LANES * BLOCK / LINES && THREADS >= BLOCK);

// The one factor of a square, from what each thread has seen; stores its scale.
DEVICE float factor_of_square(const u32 (&largest)[4], const Arguments& arguments, u64 at) {
    __shared__ u32 of_warp[WARPS];
    u32 all = larger<INPUT>(larger<INPUT>(largest[0], largest[1]), larger<INPUT>(largest[2], largest[3]));
#pragma unroll
    for (u32 other = 16; other > 0; other /= 2) {
        all = larger<INPUT>(all, __shfl_xor_sync(0xFFFFFFFF, all, other));
    }
    if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = all;
    __syncthreads();
#pragma unroll
    for (u32 i = 0; i < WARPS; ++i) all = larger<INPUT>(all, of_warp[i]);
    const Scale scale = scale_of<CODES, POW2>(largest_of_word<INPUT>(all));
    if (threadIdx.x == 0) arguments.scales[at] = scale.stored;
    return scale.factor;
}

extern "C" __global__ void __launch_bounds__(THREADS) fp8gemm_transpose(const Arguments arguments) {
    // Pieces of 16 codes: 128 rows of 8.
    __shared__ Vector tile[BLOCK * 8];
    const u32 rows = arguments.rows, k = arguments.k;
    const u32 blocks = ceil_div(k, BLOCK);
    const u32 block = blockIdx.x % blocks, first_row = blockIdx.x / blocks * BLOCK;
    const u32 vector = threadIdx.x % LANES, group = threadIdx.x / LANES;
    const u32 row = first_row + vector * VECTOR, line = block * BLOCK + group * LINES;

    Vector v[LINES];
    const u8* input = arguments.input + (line * arguments.input_stride + row) * SIZE;
    const u64 step = arguments.input_stride * SIZE;
    if (first_row + BLOCK <= rows && (block + 1) * BLOCK <= k && arguments.aligned) {
#pragma unroll
        for (u32 i = 0; i < LINES; ++i) v[i] = load_vector(input + i * step);
    } else {
        const u32 valid = row < rows ? rows - row : 0;
#pragma unroll
        for (u32 i = 0; i < LINES; ++i) {
            v[i] = load<INPUT>(input + i * step, line + i < k ? valid : 0, arguments.aligned);
        }
    }

    // Word `w` of the thread's K in row `r` of the thread.
    const auto put = [&](u32 r, u32 w, u32 word) {
        const u32 q = group * (LINES / 4) + w;
        tile[(vector * VECTOR + r) * 8 + (q / 4 ^ vector % 8)].word[q % 4] = word;
    };
    if constexpr (INPUT == INPUT_FP8) {
#pragma unroll
        for (u32 c = 0; c < 4; ++c) {
            const u32 a = v[0].word[c], b = v[1].word[c], d = v[2].word[c], e = v[3].word[c];
            const u32 ab = __byte_perm(a, b, 0x5140), de = __byte_perm(d, e, 0x5140);
            put(4 * c + 0, 0, __byte_perm(ab, de, 0x5410));
            put(4 * c + 1, 0, __byte_perm(ab, de, 0x7632));
            const u32 ab_high = __byte_perm(a, b, 0x7362), de_high = __byte_perm(d, e, 0x7362);
            put(4 * c + 2, 0, __byte_perm(ab_high, de_high, 0x5410));
            put(4 * c + 3, 0, __byte_perm(ab_high, de_high, 0x7632));
        }
    } else {
        // Magnitudes of the thread's rows (two to a word where elements have 16 bits) over its lines.
        u32 largest[4];
#pragma unroll
        for (u32 w = 0; w < 4; ++w) {
            largest[w] = magnitudes<INPUT>(v[0].word[w]);
#pragma unroll
            for (u32 i = 1; i < LINES; ++i) largest[w] = larger<INPUT>(largest[w], magnitudes<INPUT>(v[i].word[w]));
        }
        __shared__ float factors[BLOCK];
        float square = 0;
        if constexpr (SQUARES) {
            square = factor_of_square(largest, arguments, first_row / BLOCK * arguments.scales_stride + block);
        } else {
            // Over the lines of the warp, then over the warps.
            __shared__ u32 of_warp[WARPS][LANES * 4];
#pragma unroll
            for (u32 w = 0; w < 4; ++w) {
#pragma unroll
                for (u32 other = 16; other >= LANES; other /= 2) {
                    largest[w] = larger<INPUT>(largest[w], __shfl_xor_sync(0xFFFFFFFF, largest[w], other));
                }
                if (threadIdx.x % 32 < LANES) of_warp[threadIdx.x / 32][vector * 4 + w] = largest[w];
            }
            __syncthreads();
            if (threadIdx.x < BLOCK) {
                constexpr u32 PER_WORD = 4 / SIZE;
                const u32 word = threadIdx.x / PER_WORD;
                u32 all = of_warp[0][word];
#pragma unroll
                for (u32 i = 1; i < WARPS; ++i) all = larger<INPUT>(all, of_warp[i][word]);
                const Scale scale = scale_of<CODES, POW2>(widen<INPUT>(all, threadIdx.x % PER_WORD));
                factors[threadIdx.x] = scale.factor;
                const u32 at = first_row + threadIdx.x;
                if (at < rows) arguments.scales[block * arguments.scales_stride + at] = scale.stored;
            }
            __syncthreads();
        }
#pragma unroll
        for (u32 r = 0; r < VECTOR; ++r) {
            const float factor = SQUARES ? square : factors[vector * VECTOR + r];
#pragma unroll
            for (u32 w = 0; w < LINES / 4; ++w) {
                float x[4];
#pragma unroll
                for (u32 i = 0; i < 4; ++i) {
                    x[i] = __fmul_rn(widen<INPUT>(v[4 * w + i].word[r * SIZE / 4], r * SIZE / 2 % 2), factor);
                }
                put(r, w, cast4<CODES>(x[0], x[1], x[2], x[3]));
            }
        }
    }
    __syncthreads();

#pragma unroll
    for (u32 n = threadIdx.x; n < BLOCK * 8; n += THREADS) {
        const u32 r = n / 8, c = n % 8, column = block * BLOCK + c * 16;
        if (first_row + r >= rows || column >= k) continue;
        const Vector chunk = tile[r * 8 + (c ^ r / VECTOR % 8)];
        u8* codes = arguments.codes + (first_row + r) * arguments.codes_stride + column;
        if (column + 16 <= k) {
            store_vector(codes, chunk);
        } else {
#pragma unroll
            for (u32 i = 0; i < 16; ++i) {
                if (column + i < k) codes[i] = u8(chunk.word[i / 4] >> (8 * (i % 4)));
            }
        }
    }
}
