// [rows, K] of bf16, f16 or f32 -> FP8 codes [rows, K] and their scales, one for 1x128 or 128x128.
//
// A warp takes 8 rows of one block of K: every load of a thread is under way before the first is
// looked at, and the 8 scales of the 1x128 kind, which lie side by side, are one 32-byte sector, so
// nothing has to pass through shared memory. Neighbouring warps take neighbouring blocks of K, so
// that a CTA reads long pieces of its rows. A 128x128 scale takes the 16 warps of a CTA.

constexpr u32 SIZE = size_of(INPUT);
constexpr u32 VECTOR = 16 / SIZE;                  // elements of one load
constexpr u32 LANES = BLOCK / VECTOR;              // threads that share a row: 16 or 32
constexpr u32 WARP_ROWS = 8;                       // rows of a warp
constexpr u32 PASSES = WARP_ROWS * LANES / 32;     // rows of a thread
constexpr u32 WARPS = THREADS / 32;
static_assert(INPUT != INPUT_FP8 && (!SQUARES || WARPS * WARP_ROWS == BLOCK));

extern "C" __global__ void __launch_bounds__(THREADS) fp8gemm_quantize(const Arguments arguments) {
    const u32 rows = arguments.rows, k = arguments.k;
    const u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const u32 blocks = ceil_div(k, BLOCK);
    u32 block, first_row;
    if (SQUARES) {
        block = blockIdx.x % blocks;
        first_row = blockIdx.x / blocks * BLOCK + warp * WARP_ROWS;
    } else {
        const u32 task = blockIdx.x * WARPS + warp;
        block = task % blocks;
        first_row = task / blocks * WARP_ROWS;
        if (first_row >= rows) return;
    }
    const u32 my_row = first_row + lane / LANES * PASSES;
    const u32 column = block * BLOCK + lane % LANES * VECTOR;
    const u32 valid = column < k ? k - column : 0;
    const bool whole = first_row + WARP_ROWS <= rows && (block + 1) * BLOCK <= k;

    Vector v[PASSES];
    const u8* input = arguments.input + (my_row * arguments.input_stride + column) * SIZE;
    if (whole && arguments.aligned) {
#pragma unroll
        for (u32 pass = 0; pass < PASSES; ++pass) v[pass] = load_vector(input + pass * arguments.input_stride * SIZE);
    } else {
#pragma unroll
        for (u32 pass = 0; pass < PASSES; ++pass) {
            // Elements that are not there count for nothing: zero.
            v[pass] = load<INPUT>(input + pass * arguments.input_stride * SIZE, my_row + pass < rows ? valid : 0,
                                  arguments.aligned);
        }
    }

    u32 largest[PASSES];
#pragma unroll
    for (u32 pass = 0; pass < PASSES; ++pass) {
        largest[pass] = 0;
#pragma unroll
        for (u32 i = 0; i < 4; ++i) {
            largest[pass] = larger<INPUT>(largest[pass], magnitudes<INPUT>(v[pass].word[i]));
        }
    }
    Scale scale[PASSES];
    if constexpr (SQUARES) {
        __shared__ u32 of_warp[WARPS];
        u32 all = largest[0];
#pragma unroll
        for (u32 pass = 1; pass < PASSES; ++pass) all = larger<INPUT>(all, largest[pass]);
#pragma unroll
        for (u32 step = 16; step > 0; step /= 2) {
            all = larger<INPUT>(all, __shfl_xor_sync(0xFFFFFFFF, all, step));
        }
        if (lane == 0) of_warp[warp] = all;
        __syncthreads();
#pragma unroll
        for (u32 i = 0; i < WARPS; ++i) all = larger<INPUT>(all, of_warp[i]);
        const Scale square = scale_of<CODES, POW2>(largest_of_word<INPUT>(all));
#pragma unroll
        for (u32 pass = 0; pass < PASSES; ++pass) scale[pass] = square;
        if (threadIdx.x == 0) arguments.scales[first_row / BLOCK * arguments.scales_stride + block] = square.stored;
    } else {
        float mine = 0;
#pragma unroll
        for (u32 pass = 0; pass < PASSES; ++pass) {
#pragma unroll
            for (u32 step = LANES / 2; step > 0; step /= 2) {
                largest[pass] = larger<INPUT>(largest[pass], __shfl_xor_sync(0xFFFFFFFF, largest[pass], step));
            }
            scale[pass] = scale_of<CODES, POW2>(largest_of_word<INPUT>(largest[pass]));
            if (lane % LANES == pass) mine = scale[pass].stored;
        }
        const u32 row = my_row + lane % LANES;
        if (lane % LANES < PASSES && row < rows) arguments.scales[block * arguments.scales_stride + row] = mine;
    }

    u8* codes = arguments.codes + my_row * arguments.codes_stride + column;
#pragma unroll
    for (u32 pass = 0; pass < PASSES; ++pass) {
        u32 word[VECTOR / 4];
#pragma unroll
        for (u32 i = 0; i < VECTOR / 4; ++i) {
            float x[4];
#pragma unroll
            for (u32 j = 0; j < 4; ++j) {
                const u32 element = 4 * i + j;
                x[j] = __fmul_rn(widen<INPUT>(v[pass].word[element * SIZE / 4], element * SIZE / 2 % 2),
                                 scale[pass].factor);
            }
            word[i] = cast4<CODES>(x[0], x[1], x[2], x[3]);
        }
        // Codes pointer and stride are multiples of 16.
        if (whole || (my_row + pass < rows && valid >= VECTOR)) {
            if constexpr (VECTOR == 8) {
                asm volatile("st.global.v2.u32 [%0], {%1, %2};" ::"l"(codes), "r"(word[0]), "r"(word[1]) : "memory");
            } else {
                *reinterpret_cast<u32*>(codes) = word[0];
            }
        } else if (my_row + pass < rows) {
#pragma unroll
            for (u32 i = 0; i < VECTOR; ++i) {
                if (i < valid) codes[i] = u8(word[i / 4] >> (8 * (i % 4)));
            }
        }
        codes += arguments.codes_stride;
    }
}
