// The same product for few rows of A (tokens), with the operands changing sides: D^T = B A^T. A CTA has
// ROWS rows of B (weights) on the 64 rows of wgmma, TOKENS rows of A as its columns, and all of K. CTAs are
// small and several fit an SM, so that one's beginning and end are behind another's loads.
//
//   producer warp     TMA of weights and tokens into a ring of STAGES
//   math warpgroup    4 wgmma for each BLOCKS blocks of K
//   promoting warps   scales, promotion in the order of K, D; where ROWS is 64 the math warpgroup does it
//
// Few tiles would leave SMs idle, so tiles have fewer than 64 rows where N is small. wgmma has 64 all the same;
// they take 64 / ROWS blocks of K below each other, and its columns the same blocks of the tokens side
// by side:
//
//              block 0  1  2  3  of the tokens
//   block 0          x
//         1             x                          x is wanted. The rest is weights of one block times
//         2                x                       tokens of another, and nobody looks at it; tensor
//         3                   x   of the weights   cores have time for it.
//
// So one wgmma does a step of k32 of several blocks, each a chain of its own. What is on the diagonal goes through
// shared memory to the thread that promotes it, in the order of K: the bits are those of gemm.cu's kernel.
//
// Policy split<SPLIT>: SPLIT CTAs of a cluster have a range of K each, and the first adds their sums in order.

constexpr bool DIAGONAL = ROWS < 64;
constexpr u32 THREADS = 128 + (DIAGONAL ? 128 : 0) + 32;
constexpr u32 BLOCKS = 64 / ROWS;                // of K, on the diagonal of a wgmma
constexpr u32 STAGE_BLOCKS = IN_FLIGHT * BLOCKS; // that are multiplied at once
constexpr u32 COLUMNS = BLOCKS * TOKENS;         // of a wgmma
constexpr u32 OUTPUTS = ROWS * TOKENS;
constexpr u32 EACH = (OUTPUTS + 127) / 128;      // of a promoting thread

constexpr u32 BYTES_WEIGHTS = STAGE_BLOCKS * ROWS * BLOCK_K, BYTES_TOKENS = STAGE_BLOCKS * TOKENS * BLOCK_K;
constexpr u32 BUFFERS = DIAGONAL ? 2 : 0;        // for results of a stage
constexpr u32 BYTES_RESULTS = STAGE_BLOCKS * OUTPUTS * 4;
constexpr u32 BYTES_SCALES = (MAX_K_BLOCKS + 3) / 4 * 16;  // of a token
constexpr u32 AT_WEIGHTS = 0;
constexpr u32 AT_TOKENS = AT_WEIGHTS + STAGES * BYTES_WEIGHTS;
constexpr u32 AT_RESULTS = AT_TOKENS + STAGES * BYTES_TOKENS;
constexpr u32 AT_SCALES = AT_RESULTS + BUFFERS * BYTES_RESULTS;
constexpr u32 AT_SCALES_B = AT_SCALES + TOKENS * BYTES_SCALES;
constexpr u32 AT_SUMS = AT_SCALES_B + BYTES_SCALES;
constexpr u32 AT_BARRIERS = AT_SUMS + (SPLIT - 1) * EACH * 512;
constexpr u32 SHARED_BYTES = AT_BARRIERS + 2 * STAGES * 8;
static_assert(SHARED_BYTES + 1024 == SHARED_BYTES_EXPECTED, "the host and the kernel agree on shared memory");
static_assert(ROWS % 8 == 0 && 64 % ROWS == 0, "whole swizzled groups of rows; one 128x128 scale for all rows");
static_assert(MAX_K_BLOCKS % STAGE_BLOCKS == 0, "scales of a whole stage are read");
static_assert(TOKENS % 8 == 0 && COLUMNS <= 256, "wgmma has multiples of 8 columns");
static_assert(STAGE_BLOCKS % 4 == 0 && (DIAGONAL || STAGE_BLOCKS == 4), "scales and results are read by four");

struct Shared {
    u32 base;
    MEMBER u32 weights(u32 stage) const { return base + AT_WEIGHTS + stage * BYTES_WEIGHTS; }
    MEMBER u32 tokens(u32 stage) const { return base + AT_TOKENS + stage * BYTES_TOKENS; }
    // Four blocks side by side, of one output or token after the other.
    MEMBER u32 results(u32 buffer, u32 block, u32 output) const {
        return base + AT_RESULTS + buffer * BYTES_RESULTS + (block / 4 * OUTPUTS + output) * 16 + block % 4 * 4;
    }
    MEMBER u32 scale(u32 block, u32 token) const { return base + AT_SCALES + (block / 4 * TOKENS + token) * 16 + block % 4 * 4; }
    MEMBER u32 scale_b(u32 block) const { return base + AT_SCALES_B + block * 4; }
    // Of a thread of another CTA, its ith.
    MEMBER u32 sum(u32 rank, u32 i, u32 thread) const { return base + AT_SUMS + ((rank - 1) * EACH + i) * 512 + thread * 4; }
    MEMBER u32 full(u32 stage) const { return base + AT_BARRIERS + stage * 8; }
    MEMBER u32 empty(u32 stage) const { return base + AT_BARRIERS + (STAGES + stage) * 8; }
};

// The tile of a CTA, by its first column and row of D, and its blocks of K: of a split the first CTAs have one
// more where they cannot have the same number.
struct Place {
    u32 column, row, k_blocks, rank, begin, end;

    MEMBER Place(const Arguments& arguments) : k_blocks((arguments.k + BLOCK_K - 1) / BLOCK_K), rank(SPLIT > 1 ? cluster_rank() : 0) {
        u32 columns = (arguments.n + ROWS - 1) / ROWS;
        column = blockIdx.x / SPLIT % columns * ROWS;
        row = blockIdx.x / SPLIT / columns * TOKENS;
        begin = first(rank);
        end = first(rank + 1);
    }

    MEMBER u32 first(u32 of_rank) const { return of_rank * (k_blocks / SPLIT) + min(of_rank, k_blocks % SPLIT); }
    MEMBER bool empty(u32 of_rank) const { return first(of_rank) == first(of_rank + 1); }
};

// One thread: keeps the ring full. Boxes are those of the host's tensor maps (fp8gemm-hopper, arguments.rs, decides by
// the same two conditions). Where K is whole blocks, one load brings what a stage has of an operand. Rows of
// tokens that do not exist are not loaded, since TMA writes its zeros more slowly than data: then tokens
// come block by block.
struct Producer {
    const Arguments& arguments;
    const Shared& shared;
    const Place& place;
    bool whole_blocks, all_tokens;

    MEMBER Producer(const Arguments& arguments, const Shared& shared, const Place& place)
        : arguments(arguments), shared(shared), place(place), whole_blocks(arguments.k % BLOCK_K == 0), all_tokens(arguments.m >= TOKENS) {}

    MEMBER u32 blocks(u32 block) const { return min(STAGE_BLOCKS, place.end - block); }

    MEMBER void weights(u32 stage, u32 block) const {
        u32 full = shared.full(stage);
        u32 bytes_weights = (whole_blocks ? STAGE_BLOCKS : blocks(block)) * ROWS * BLOCK_K;
        u32 bytes_tokens = (whole_blocks && all_tokens ? STAGE_BLOCKS : blocks(block)) * min(arguments.m, TOKENS) * BLOCK_K;
        barrier_arrive_expect(full, bytes_weights + bytes_tokens);
        if (whole_blocks) {
            tma_load_3d(shared.weights(stage), &arguments.b, 0, place.column, block, full, arguments.policy_b);
        } else {
            #pragma unroll 1
            for (u32 i = 0; i < blocks(block); i++) tma_load(shared.weights(stage) + i * ROWS * BLOCK_K, &arguments.b, (block + i) * BLOCK_K, place.column, full, arguments.policy_b);
        }
    }

    MEMBER void tokens(u32 stage, u32 block) const {
        u32 full = shared.full(stage);
        if (whole_blocks && all_tokens) {
            tma_load_3d(shared.tokens(stage), &arguments.a, 0, place.row, block, full);
        } else {
            const TensorMap* map = all_tokens ? &arguments.a : &arguments.a_rest;
            #pragma unroll 1
            for (u32 i = 0; i < blocks(block); i++) tma_load(shared.tokens(stage) + i * TOKENS * BLOCK_K, map, (block + i) * BLOCK_K, place.row, full);
        }
    }

    MEMBER void run() const {
        u32 first = min(place.begin + STAGES * STAGE_BLOCKS, place.end);
        if (!arguments.weights_constant) grid_wait();
        #pragma unroll 1
        for (u32 block = place.begin, stage = 0; block < first; block += STAGE_BLOCKS, stage++) weights(stage, block);
        if (arguments.weights_constant) grid_wait();
        #pragma unroll 1
        for (u32 block = place.begin, stage = 0; block < first; block += STAGE_BLOCKS, stage++) tokens(stage, block);
        // The kernel behind this one may take what room there is, and waits for its end all the same.
        grid_launch_dependents();
        #pragma unroll 1
        for (u32 block = place.begin + STAGES * STAGE_BLOCKS, stage = 0, phase = 0; block < place.end; block += STAGE_BLOCKS) {
            barrier_wait(shared.empty(stage), phase);
            weights(stage, block);
            tokens(stage, block);
            if (++stage == STAGES) stage = 0, phase ^= 1;
        }
    }
};

// What the 128 threads that promote do with scales. Of one block all rows of weights have the same.
struct Scales {
    const Arguments& arguments;
    const Shared& shared;
    const Place& place;
    u32 thread;

    MEMBER u32 blocks() const { return place.end - place.begin; }

    // All under way at once.
    MEMBER void fetch() const {
        const float* of_tokens = arguments.scales_a + place.begin * arguments.scales_a_stride;
        #pragma unroll 1
        for (u32 i = thread; i < blocks() * TOKENS; i += 128) {
            u32 block = i / TOKENS, token = i % TOKENS;
            copy_word(shared.scale(block, token), of_tokens + block * arguments.scales_a_stride + min(place.row + token, arguments.m - 1));
        }
        const float* of_weights = arguments.scales_b + u64(place.column / 128) * place.k_blocks + place.begin;
        #pragma unroll 1
        for (u32 block = thread; block < blocks(); block += 128) copy_word(shared.scale_b(block), of_weights + block);
    }

    // fl(sa * sb) in the place of sa.
    MEMBER void multiply() const {
        copy_wait();
        warpgroup_sync(0);
        #pragma unroll 4
        for (u32 i = thread; i < blocks() * TOKENS; i += 128) {
            u32 block = i / TOKENS, at = shared.scale(block, i % TOKENS);
            shared_store(at, __fmul_rn(shared_load(at), shared_load(shared.scale_b(block))));
        }
        warpgroup_sync(0);
    }
};

// Of a split, the sum over all CTAs in the first one; whether the caller is that. Every thread of the cluster
// takes part in its barrier.
DEVICE bool add_up(const Shared& shared, const Place& place, u32 thread, float (&acc)[EACH]) {
    if constexpr (SPLIT > 1) {
        if (place.rank > 0) {
            #pragma unroll
            for (u32 i = 0; i < EACH; i++) store_remote(remote(shared.sum(place.rank, i, thread), 0), acc[i]);
        }
        cluster_sync();
        if (place.rank > 0) return false;
        #pragma unroll 1
        for (u32 rank = 1; rank < SPLIT && !place.empty(rank); rank++) {
            #pragma unroll
            for (u32 i = 0; i < EACH; i++) acc[i] = __fadd_rn(acc[i], shared_load(shared.sum(rank, i, thread)));
        }
    }
    return true;
}

// Threads that follow each other have columns that do.
DEVICE void store(const Arguments& arguments, u32 row, u32 column, float value) {
    if (row >= arguments.m || column >= arguments.n) return;
    if (arguments.alpha != 1.0f) value = __fmul_rn(arguments.alpha, value);
    u64 at = row * arguments.d_stride + column;
    if constexpr (OUTPUT == OUTPUT_F32) static_cast<float*>(arguments.d_elements)[at] = value;
    else static_cast<u16*>(arguments.d_elements)[at] = u16(OUTPUT == OUTPUT_F16 ? pack_f16(value, value) : pack_bf16(value, value));
}

// Between the math warpgroup and the promoting warps, for each buffer: results are there, and have been taken. The
// last that are taken nobody waits for.
constexpr u32 READY = 2, TAKEN = READY + BUFFERS;

// The promoting warps: output number token * ROWS + row is a thread's.
DEVICE void promote(const Arguments& arguments, const Shared& shared, const Place& place, u32 thread) {
    float acc[EACH];
    #pragma unroll
    for (u32 i = 0; i < EACH; i++) acc[i] = 0.0f;
    #pragma unroll 1
    for (u32 block = place.begin, buffer = 0; block < place.end; block += STAGE_BLOCKS) {
        results_await(READY + buffer);
        #pragma unroll
        for (u32 i = 0; i < EACH; i++) {
            u32 output = thread + i * 128;
            if (OUTPUTS % 128 != 0 && output >= OUTPUTS) break;
            float results[STAGE_BLOCKS / 4][4], scales[STAGE_BLOCKS / 4][4];
            #pragma unroll
            for (u32 j = 0; j < STAGE_BLOCKS / 4; j++) {
                shared_load(shared.results(buffer, j * 4, output), results[j]);
                shared_load(shared.scale(block - place.begin + j * 4, output / ROWS), scales[j]);
            }
            // Beyond the end of K there is nothing to promote.
            #pragma unroll
            for (u32 j = 0; j < STAGE_BLOCKS; j++) {
                if (block + j < place.end) acc[i] = __fmaf_rn(scales[j / 4][j % 4], results[j / 4][j % 4], acc[i]);
            }
        }
        if (block + BUFFERS * STAGE_BLOCKS < place.end) results_pass(TAKEN + buffer);
        if (++buffer == BUFFERS) buffer = 0;
    }
    if (!add_up(shared, place, thread, acc)) return;
    #pragma unroll
    for (u32 i = 0; i < EACH; i++) {
        u32 output = thread + i * 128;
        if (output < OUTPUTS) store(arguments, place.row + output / ROWS, place.column + output % ROWS, acc[i]);
    }
}

// A thread of the math warpgroup. Of each 8 columns it has elements 0 and 1 in row(0) and 2 and 3 in the row 8 below,
// in columns column() and one more. Beyond the end of K it multiplies what is there.
struct Math {
    using Chain = float[COLUMNS / 2];
    const Arguments& arguments;
    const Shared& shared;
    const Place& place;
    u32 warp, lane;

    MEMBER u32 row(u32 half) const { return warp * 16 + half * 8 + lane / 4; }
    MEMBER u32 column() const { return lane % 4 * 2; }

    // Calls `done` for each wgmma of a stage, in order, with its number.
    template <class F>
    MEMBER void multiply(u32 stage, u32 phase, Chain (&chain)[IN_FLIGHT], const F& done) const {
        u32 weights = descriptor(shared.weights(stage)), tokens = descriptor(shared.tokens(stage));
        barrier_wait(shared.full(stage), phase);
        wgmma_fence();
        #pragma unroll
        for (u32 i = 0; i < IN_FLIGHT; i++) {
            #pragma unroll
            for (u32 step = 0; step < BLOCK_K / 32; step++) {
                wgmma(chain[i], weights + (i * 64 * BLOCK_K + step * 32) / 16, tokens + (i * COLUMNS * BLOCK_K + step * 32) / 16, step > 0);
            }
            wgmma_commit();
        }
        in_order<IN_FLIGHT>([&](u32 i) {
            if (i + 1 == IN_FLIGHT && lane == 0) barrier_arrive(shared.empty(stage));
            done(i);
        });
    }

    // What is on the diagonal, to the place of its output.
    MEMBER void hand_over(const Chain& chain, u32 buffer, u32 first) const {
        #pragma unroll
        for (u32 half = 0; half < 2; half++) {
            u32 mine = row(half) / ROWS;
            #pragma unroll
            for (u32 i = 0; i < TOKENS / 4; i++) {
                float value = 0.0f;
                #pragma unroll
                for (u32 block = 0; block < BLOCKS; block++) {
                    if (mine == block) value = chain[(block * TOKENS / 8 + i / 2) * 4 + half * 2 + i % 2];
                }
                u32 token = i / 2 * 8 + column() + i % 2;
                shared_store(shared.results(buffer, first + mine, token * ROWS + row(half) % ROWS), value);
            }
        }
    }

    MEMBER void run_diagonal() const {
        #pragma unroll 1
        for (u32 block = place.begin, stage = 0, phase = 0, buffer = 0; block < place.end; block += STAGE_BLOCKS) {
            Chain chain[IN_FLIGHT];
            multiply(stage, phase, chain, [&](u32 i) {
                if (i == 0 && block >= place.begin + BUFFERS * STAGE_BLOCKS) results_await(TAKEN + buffer);
                hand_over(chain[i], buffer, i * BLOCKS);
            });
            results_pass(READY + buffer);
            if (++stage == STAGES) stage = 0, phase ^= 1;
            if (++buffer == BUFFERS) buffer = 0;
        }
    }

    // 64 rows of weights: each thread promotes what it has.
    MEMBER void run() const {
        float acc[EACH];
        #pragma unroll
        for (u32 i = 0; i < EACH; i++) acc[i] = 0.0f;
        #pragma unroll 1
        for (u32 block = place.begin, stage = 0, phase = 0; block < place.end; block += STAGE_BLOCKS) {
            Chain chain[IN_FLIGHT];
            float scales[TOKENS / 4][4];
            #pragma unroll
            for (u32 i = 0; i < TOKENS / 4; i++) shared_load(shared.scale(block - place.begin, i / 2 * 8 + column() + i % 2), scales[i]);
            multiply(stage, phase, chain, [&](u32 i) {
                if (block + i < place.end) {
                    #pragma unroll
                    for (u32 j = 0; j < EACH; j++) acc[j] = __fmaf_rn(scales[j / 4 * 2 + j % 2][i], chain[i][j], acc[j]);
                }
            });
            if (++stage == STAGES) stage = 0, phase ^= 1;
        }
        if (!add_up(shared, place, threadIdx.x, acc)) return;
        if (OUTPUT != OUTPUT_F32 && (u64(arguments.d_elements) | arguments.d_stride * 2) % 16 == 0 && place.column + 64 <= arguments.n) {
            store_lines(acc);
        } else {
            #pragma unroll
            for (u32 i = 0; i < EACH; i++) {
                store(arguments, place.row + i / 4 * 8 + column() + i % 2, place.column + row(i / 2 % 2), acc[i]);
            }
        }
    }

    // 16 columns of D of each token are a warp's; 16 bytes at a time, by way of the first stage, which nobody needs any
    // more.
    MEMBER void store_lines(const float (&acc)[EACH]) const {
        warpgroup_sync(0);
        u32 lines = shared.weights(0) + warp * TOKENS * 32;
        #pragma unroll
        for (u32 i = 0; i < EACH; i += 2) {
            float pair[2] = {acc[i], acc[i + 1]};
            if (arguments.alpha != 1.0f) {
                pair[0] = __fmul_rn(arguments.alpha, pair[0]);
                pair[1] = __fmul_rn(arguments.alpha, pair[1]);
            }
            u32 packed = OUTPUT == OUTPUT_F16 ? pack_f16(pair[0], pair[1]) : pack_bf16(pair[0], pair[1]);
            shared_store_word(lines + (i / 4 * 8 + lane / 4) * 32 + i / 2 % 2 * 16 + lane % 4 * 4, transpose(packed));
        }
        __syncwarp();
        #pragma unroll 1
        for (u32 i = lane; i < TOKENS * 2; i += 32) {
            u32 words[4], token = place.row + i / 2;
            shared_load(lines + i * 16, words);
            if (token < arguments.m) store_16(static_cast<u16*>(arguments.d_elements) + token * arguments.d_stride + place.column + warp * 16 + i % 2 * 8, words);
        }
    }
};

extern "C" __global__ void __launch_bounds__(THREADS) fp8gemm(const __grid_constant__ Arguments arguments) {
    extern __shared__ u8 raw[];
    Shared shared{(shared_address(raw) + 1023) & ~1023u};
    Place place(arguments);
    u32 warp = __shfl_sync(0xFFFFFFFF, threadIdx.x / 32, 0);
    // Sums go to a CTA that has begun.
    if constexpr (SPLIT > 1) cluster_sync();
    // The others wait for the producer's barriers, and it for nobody: data is under way within 200 cycles.
    if (warp == THREADS / 32 - 1) {
        if (elect()) {
            for (u32 stage = 0; stage < STAGES; stage++) {
                barrier_init(shared.full(stage), 1);
                barrier_init(shared.empty(stage), 4);
            }
            barrier_init_fence();
        }
        __syncwarp();
        all_pass<THREADS>();
        if (elect()) Producer(arguments, shared, place).run();
        __syncwarp();
        if constexpr (SPLIT > 1) cluster_sync();
        return;
    }
    bool promotes = !DIAGONAL || warp >= 4;
    Scales scales{arguments, shared, place, threadIdx.x % 128};
    if (promotes) {
        grid_wait();
        scales.fetch();
    }
    all_await<THREADS>();
    if (promotes) scales.multiply();
    Math math{arguments, shared, place, warp, threadIdx.x % 32};
    if constexpr (!DIAGONAL) math.run();
    else if (promotes) promote(arguments, shared, place, threadIdx.x % 128);
    else math.run_diagonal();
    if constexpr (SPLIT > 1 && DIAGONAL) {
        if (!promotes) cluster_sync();
    }
}
