// D = alpha * A B^T * scales + beta * C: persistent, warp-specialised, one kernel text for every
// configuration.
//
//   producer warp      TMA of A, B and their per-stage scales into a ring of STAGES
//   scale warp         128x128 scales of B, up to a whole tile ahead
//   math warpgroups    WAVES x 64 rows each and all BLOCK_N columns: 4 wgmma, wait, promote
//
// Arithmetic (the contract that fp8gemm-sim models), per output:
//
//   per 128 of K       x = chain of four k32 steps from zero
//   SCALES_1D2D, 1D1D  acc = fma(fl(sa * sb), x, acc)
//   SCALES_AT_END      acc = fl(acc + x), or no promotion at all (CHAIN); then fl(fl(sa * sb) * acc)
//   epilogue           r = acc; r = fl(alpha * r) if alpha != 1; r = fma(beta, c, r) if beta != 0;
//                      one cast to nearest even
//
// No other order, whatever the tile, so that every configuration gives the same bits. Every float
// operation is an explicit intrinsic: no compiler flag can contract or reorder it.

constexpr u32 BLOCK_K = 128;
constexpr u32 WAVES = BLOCK_M / (64 * MATH_GROUPS);
constexpr u32 MATH_THREADS = 128 * MATH_GROUPS;
constexpr u32 THREADS = MATH_THREADS + 128;

// Tiles start, and 128x128 scales of B end, at multiples of this many columns: columns of one such
// group share a scale. The scale warp spreads the scales out to groups, so that one loop serves
// every place at which a scale can end inside a tile.
constexpr u32 gcd(u32 a, u32 b) { return b == 0 ? a : gcd(b, a % b); }
constexpr u32 GROUP_COLUMNS = gcd(BLOCK_N, 128);
static_assert(SCALES_B == (SCALES == SCALES_1D2D ? BLOCK_N / GROUP_COLUMNS : 1), "groups of columns in a tile");

// Shared memory, from a 1024-byte boundary. Operands first: their swizzle repeats every 1024 bytes.
// D is kept in atoms of 64 rows and 128 bytes, the widest box that TMA swizzles.
constexpr u32 D_SIZE = OUTPUT == OUTPUT_F32 ? 4 : 2;
constexpr u32 D_ATOM = 64 * 128;
constexpr u32 D_ATOM_COLUMNS = 128 / D_SIZE;
constexpr u32 D_ATOMS = (BLOCK_N + D_ATOM_COLUMNS - 1) / D_ATOM_COLUMNS;
constexpr u32 D_WAVE = D_ATOMS * D_ATOM;
constexpr u32 BYTES_A = BLOCK_M * BLOCK_K;
constexpr u32 BYTES_B = BLOCK_N * BLOCK_K;
constexpr u32 BYTES_SCALE_A = SCALES == SCALES_AT_END ? 0 : BLOCK_M * 4;
constexpr u32 BYTES_SCALE_B = SCALES == SCALES_1D1D ? BLOCK_N * 4 : 0;
constexpr u32 STRIDE_SCALE_B = (BYTES_SCALE_B + 127) / 128 * 128;
constexpr u32 SLOT_SCALE_B = SCALES == SCALES_1D2D ? SCALES_B * MAX_K_BLOCKS * 4 : 0;
constexpr u32 AT_A = 0;
constexpr u32 AT_B = AT_A + STAGES * BYTES_A;
constexpr u32 AT_D = AT_B + STAGES * BYTES_B;
constexpr u32 AT_SCALE_A = AT_D + BLOCK_M / 64 * D_WAVE;
constexpr u32 AT_SCALE_B = AT_SCALE_A + STAGES * BYTES_SCALE_A;
constexpr u32 AT_SLOTS = AT_SCALE_B + STAGES * STRIDE_SCALE_B;
constexpr u32 AT_BARRIERS = AT_SLOTS + 2 * SLOT_SCALE_B;
constexpr u32 SHARED_BYTES = AT_BARRIERS + (2 * STAGES + 4) * 8;

static_assert(BLOCK_M % (64 * MATH_GROUPS) == 0, "each math warpgroup has whole 64-row waves");
static_assert(BLOCK_M <= 256 && BLOCK_N <= 256, "a TMA box has at most 256 elements a side");
static_assert(BLOCK_N % 16 == 0, "stmatrix stores pairs of 8 columns");
static_assert(SHARED_BYTES + 1024 == SHARED_BYTES_EXPECTED, "the host and the kernel agree on shared memory");
static_assert(CLUSTER == 1 || CLUSTER == 2, "clusters of two share A");
static_assert(!CHAIN || SCALES == SCALES_AT_END, "block scales need promotion");

struct Shared {
    u32 base;
    MEMBER u32 a(u32 stage) const { return base + AT_A + stage * BYTES_A; }
    MEMBER u32 b(u32 stage) const { return base + AT_B + stage * BYTES_B; }
    MEMBER u32 d() const { return base + AT_D; }
    MEMBER u32 scale_a(u32 stage) const { return base + AT_SCALE_A + stage * BYTES_SCALE_A; }
    MEMBER u32 scale_b(u32 stage) const { return base + AT_SCALE_B + stage * STRIDE_SCALE_B; }
    MEMBER u32 slot(u32 slot) const { return base + AT_SLOTS + slot * SLOT_SCALE_B; }
    MEMBER u32 full(u32 stage) const { return base + AT_BARRIERS + stage * 8; }
    MEMBER u32 empty(u32 stage) const { return base + AT_BARRIERS + (STAGES + stage) * 8; }
    MEMBER u32 slot_full(u32 slot) const { return base + AT_BARRIERS + (2 * STAGES + slot) * 8; }
    MEMBER u32 slot_empty(u32 slot) const { return base + AT_BARRIERS + (2 * STAGES + 2 + slot) * 8; }
};

// Everything that changes from launch to launch. Unused parts may be null.
struct Arguments {
    TensorMap a, b, scale_a, scale_b;
    TensorMap d;        // 2D, for the last column of tiles: clipped at N
    TensorMap d_tiles;  // 3D {BLOCK_N, tiles, M}: a partial atom is clipped at the end of its tile
    const float* scales_a;  // at the end: [M] or one; 1D2D: unused
    const float* scales_b;  // at the end: [N] or one; 1D2D: [ceil(N/128), ceil(K/128)]
    const void* c;
    u64 c_stride;
    u32 m, n, k;
    u32 scales_a_step, scales_b_step;  // 0 for a tensor scale, 1 for row scales
    float alpha, beta;
};

// Where a tile lies, and which come next. Tiles go in groups of GROUP rows of tiles, so that CTAs
// that run together share operands in L2; the CTAs of a cluster take neighbours along N.
struct Schedule {
    u32 tiles_m, columns, index, step, count, rank;
    u32 tile_m, tile_n;

    MEMBER Schedule(u32 m, u32 n) {
        tiles_m = (m + BLOCK_M - 1) / BLOCK_M;
        columns = ((n + BLOCK_N - 1) / BLOCK_N + CLUSTER - 1) / CLUSTER;
        rank = CLUSTER == 1 ? 0 : cluster_rank();
        count = tiles_m * columns;
        index = blockIdx.x / CLUSTER;
        step = gridDim.x / CLUSTER;
    }

    MEMBER bool next() {
        if (index >= count) return false;
        u32 per_group = GROUP * columns;
        u32 first = index / per_group * GROUP;
        u32 height = min(GROUP, tiles_m - first);
        u32 within = index % per_group;
        tile_m = first + within % height;
        tile_n = within / height * CLUSTER + rank;
        index += step;
        return true;
    }
};

// What a math thread knows for the whole kernel. In a 64-row wave it holds, for each 8 columns,
// elements 4i and 4i+1 of row() and 4i+2 and 4i+3 of row() + 8, at columns column() and one after.
struct Math {
    Shared shared;
    u32 group, warp, lane;
    u32 phases;  // one bit for each stage, flipped with each use

    MEMBER u32 row() const { return warp * 16 + lane / 4; }
    MEMBER u32 column() const { return lane % 4 * 2; }
    MEMBER u32 wave_row(u32 wave) const { return (group * WAVES + wave) * 64; }
};

using Accumulator = float[BLOCK_N / 2];

// 1D2D: the columns of a group share a scale.
DEVICE void promote(Accumulator& acc, const Accumulator& chain, const float (&low)[SCALES_B], const float (&high)[SCALES_B]) {
    #pragma unroll
    for (u32 i = 0; i < BLOCK_N / 2; i++) {
        u32 group = i / 4 * 8 / GROUP_COLUMNS;
        acc[i] = __fmaf_rn(i % 4 < 2 ? low[group] : high[group], chain[i], acc[i]);
    }
}

// 1D1D: every column has its own scale.
DEVICE void promote(Accumulator& acc, const Accumulator& chain, float sa_low, float sa_high, const float (&sb)[BLOCK_N / 4]) {
    #pragma unroll
    for (u32 i = 0; i < BLOCK_N / 2; i++) {
        float scale = __fmul_rn(i % 4 < 2 ? sa_low : sa_high, sb[i / 4 * 2 + i % 2]);
        acc[i] = __fmaf_rn(scale, chain[i], acc[i]);
    }
}

// All of K of one tile. Stages are unrolled, so that their addresses are immediates.
DEVICE void main_loop(Math& math, Accumulator (&acc)[WAVES], u32 k_blocks, u32 slot, u32 rank) {
    const Shared& shared = math.shared;
    u32 descriptor_a = descriptor(shared.a(0) + math.wave_row(0) * BLOCK_K);
    u32 descriptor_b = descriptor(shared.b(0));
    Accumulator chain;
    bool ready = barrier_try_wait(shared.full(0), math.phases & 1);
    #pragma unroll 1
    for (u32 first = 0; first < k_blocks; first += STAGES) {
        #pragma unroll
        for (u32 stage = 0; stage < STAGES; stage++) {
            u32 block = first + stage;
            if (block >= k_blocks) break;
            float slot_b[SCALES_B];
            if constexpr (SCALES == SCALES_1D2D) {
                #pragma unroll
                for (u32 i = 0; i < SCALES_B; i++) slot_b[i] = shared_load(slot + (i * MAX_K_BLOCKS + block) * 4);
            }
            if (!ready) barrier_wait(shared.full(stage), math.phases >> stage & 1);
            math.phases ^= 1u << stage;
            #pragma unroll
            for (u32 wave = 0; wave < WAVES; wave++) {
                // Scales are read before the stage is released.
                float sa_low, sa_high, stage_b[BLOCK_N / 4];
                if constexpr (SCALES != SCALES_AT_END) {
                    u32 rows = shared.scale_a(stage) + (math.wave_row(wave) + math.row()) * 4;
                    sa_low = shared_load(rows);
                    sa_high = shared_load(rows + 8 * 4);
                }
                if constexpr (SCALES == SCALES_1D1D) {
                    #pragma unroll
                    for (u32 i = 0; i < BLOCK_N / 4; i += 2) {
                        shared_load(shared.scale_b(stage) + (i * 4 + math.column()) * 4, stage_b[i], stage_b[i + 1]);
                    }
                }
                Accumulator& target = CHAIN ? acc[wave] : chain;
                wgmma_fence();
                #pragma unroll
                for (u32 step = 0; step < BLOCK_K / 32; step++) {
                    wgmma(target, descriptor_a + (stage * BYTES_A + wave * 64 * BLOCK_K + step * 32) / 16,
                          descriptor_b + (stage * BYTES_B + step * 32) / 16, step > 0 || (CHAIN && block > 0));
                }
                wgmma_commit();
                // In the shadow of the tensor cores.
                float low[SCALES_B], high[SCALES_B];
                if constexpr (SCALES == SCALES_1D2D) {
                    #pragma unroll
                    for (u32 i = 0; i < SCALES_B; i++) {
                        low[i] = __fmul_rn(sa_low, slot_b[i]);
                        high[i] = __fmul_rn(sa_high, slot_b[i]);
                    }
                }
                wgmma_wait();
                if (wave + 1 == WAVES) {
                    if (math.lane == 0) {
                        barrier_arrive(shared.empty(stage));
                        if (CLUSTER == 2 && rank == 1) barrier_arrive_remote(shared.empty(stage), 0);
                    }
                    // Asked before the multiplications and needed after them.
                    u32 next = (stage + 1) % STAGES;
                    ready = block + 1 >= k_blocks || barrier_try_wait(shared.full(next), math.phases >> next & 1);
                }
                if constexpr (SCALES == SCALES_1D2D) {
                    promote(acc[wave], chain, low, high);
                } else if constexpr (SCALES == SCALES_1D1D) {
                    promote(acc[wave], chain, sa_low, sa_high, stage_b);
                } else if constexpr (!CHAIN) {
                    #pragma unroll
                    for (u32 i = 0; i < BLOCK_N / 2; i++) acc[wave][i] = __fadd_rn(acc[wave][i], chain[i]);
                }
            }
        }
    }
}

DEVICE float load_c(const void* c, u64 index) {
    if constexpr (C == OUTPUT_F32) return load_f32(static_cast<const float*>(c) + index);
    else if constexpr (C == OUTPUT_BF16) return load_bf16(static_cast<const u16*>(c) + index);
    else return load_f16(static_cast<const u16*>(c) + index);
}

// Scales at the end, alpha, beta and C, on the accumulators in place. Rows and columns outside D
// are left alone: their scales and their C do not exist.
DEVICE void epilogue(const Math& math, Accumulator (&acc)[WAVES], const Arguments& arguments, u32 tile_row, u32 tile_column) {
    #pragma unroll
    for (u32 wave = 0; wave < WAVES; wave++) {
        #pragma unroll
        for (u32 half = 0; half < 2; half++) {
            u32 row = tile_row + math.wave_row(wave) + math.row() + half * 8;
            bool inside = row < arguments.m;
            float sa = 0.0f;
            if constexpr (SCALES == SCALES_AT_END) {
                if (inside) sa = __ldg(arguments.scales_a + u64(row) * arguments.scales_a_step);
            }
            #pragma unroll
            for (u32 pair = 0; pair < BLOCK_N / 8; pair++) {
                u32 column = tile_column + pair * 8 + math.column();
                #pragma unroll
                for (u32 i = 0; i < 2; i++) {
                    float& r = acc[wave][pair * 4 + half * 2 + i];
                    if (inside && column + i < arguments.n) {
                        if constexpr (SCALES == SCALES_AT_END) {
                            float sb = __ldg(arguments.scales_b + u64(column + i) * arguments.scales_b_step);
                            r = __fmul_rn(__fmul_rn(sa, sb), r);
                        }
                        if (arguments.alpha != 1.0f) r = __fmul_rn(arguments.alpha, r);
                        if constexpr (C != OUTPUT_NONE) {
                            r = __fmaf_rn(arguments.beta, load_c(arguments.c, row * arguments.c_stride + column + i), r);
                        }
                    }
                }
            }
        }
    }
}

// acc -> shared memory -> D; what lies outside D is clipped by the TMA.
DEVICE void store_tile(const Math& math, const Accumulator (&acc)[WAVES], const Arguments& arguments, u32 tile_m, u32 tile_n) {
    u32 d = math.shared.d() + math.wave_row(0) / 64 * D_WAVE;
    // The previous tile's store must have left shared memory.
    if (math.warp == 0 && elect()) tma_store_wait_read();
    warpgroup_sync(math.group);
    #pragma unroll
    for (u32 wave = 0; wave < WAVES; wave++) {
        const float* r = acc[wave];
        if constexpr (OUTPUT == OUTPUT_F32) {
            #pragma unroll
            for (u32 i = 0; i < BLOCK_N / 2; i += 2) {
                u32 line = math.row() + i % 4 / 2 * 8;
                u32 column = i / 4 * 8 + math.column();
                u32 atom = d + wave * D_WAVE + column / 32 * D_ATOM;
                shared_store(atom + line * 128 + (column % 32 / 4 ^ line % 8) * 16 + column % 4 * 4, r[i], r[i + 1]);
            }
        } else {
            auto pack = [](float low, float high) { return OUTPUT == OUTPUT_BF16 ? pack_bf16(low, high) : pack_f16(low, high); };
            #pragma unroll
            for (u32 i = 0; i < BLOCK_N / 2; i += 8) {
                u32 line = math.warp * 16 + math.lane % 16;
                u32 chunk = i / 4 + math.lane / 16;
                u32 atom = d + wave * D_WAVE + chunk / 8 * D_ATOM;
                store_matrix(atom + line * 128 + (chunk % 8 ^ line % 8) * 16, pack(r[i], r[i + 1]), pack(r[i + 2], r[i + 3]),
                             pack(r[i + 4], r[i + 5]), pack(r[i + 6], r[i + 7]));
            }
        }
    }
    fence_async_proxy();
    warpgroup_sync(math.group);
    if (math.warp == 0 && elect()) {
        bool whole = (tile_n + 1) * BLOCK_N <= arguments.n;
        #pragma unroll
        for (u32 wave = 0; wave < WAVES; wave++) {
            #pragma unroll
            for (u32 atom = 0; atom < D_ATOMS; atom++) {
                u32 row = tile_m * BLOCK_M + math.wave_row(wave);
                u32 from = d + wave * D_WAVE + atom * D_ATOM;
                if (BLOCK_N % D_ATOM_COLUMNS != 0 && whole) {
                    tma_store_3d(&arguments.d_tiles, atom * D_ATOM_COLUMNS, tile_n, row, from);
                } else {
                    tma_store(&arguments.d, tile_n * BLOCK_N + atom * D_ATOM_COLUMNS, row, from);
                }
            }
        }
        tma_store_commit();
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, 1) fp8gemm(const __grid_constant__ Arguments arguments) {
    extern __shared__ u8 raw[];
    Shared shared{(shared_address(raw) + 1023) & ~1023u};
    u32 warp = __shfl_sync(0xFFFFFFFF, threadIdx.x / 32, 0);
    u32 group = warp / 4;
    u32 lane = threadIdx.x % 32;
    u32 k_blocks = (arguments.k + BLOCK_K - 1) / BLOCK_K;
    Schedule schedule(arguments.m, arguments.n);

    if (warp == 0 && elect()) {
        // Rank 0 also writes into the other CTA's stages, so both CTAs must have released them.
        u32 releases = MATH_THREADS / 32 * (CLUSTER == 2 && schedule.rank == 0 ? 2 : 1);
        for (u32 stage = 0; stage < STAGES; stage++) {
            barrier_init(shared.full(stage), 1);
            barrier_init(shared.empty(stage), releases);
        }
        for (u32 slot = 0; slot < 2; slot++) {
            barrier_init(shared.slot_full(slot), 1);
            barrier_init(shared.slot_empty(slot), MATH_THREADS / 32);
        }
        barrier_init_fence();
        tma_prefetch(&arguments.a);
        tma_prefetch(&arguments.b);
        tma_prefetch(&arguments.d);
    }
    if constexpr (CLUSTER > 1) cluster_sync();
    else __syncthreads();
    // Everything above may overlap the previous kernel; nothing below may read before it is done.
    grid_wait();

    if (group == MATH_GROUPS) {
        registers_shrink<PRODUCER_REGISTERS>();
        if (warp == MATH_GROUPS * 4 && elect()) {
            u32 phases = 0;
            #pragma unroll 1
            while (schedule.next()) {
                u32 row = schedule.tile_m * BLOCK_M, column = schedule.tile_n * BLOCK_N;
                #pragma unroll 1
                for (u32 first = 0; first < k_blocks; first += STAGES) {
                    #pragma unroll
                    for (u32 stage = 0; stage < STAGES; stage++) {
                        u32 block = first + stage;
                        if (block >= k_blocks) break;
                        barrier_wait(shared.empty(stage), (phases >> stage & 1) ^ 1);
                        phases ^= 1u << stage;
                        u32 full = shared.full(stage);
                        barrier_arrive_expect(full, BYTES_A + BYTES_B + BYTES_SCALE_A + BYTES_SCALE_B);
                        if constexpr (CLUSTER == 1) tma_load(shared.a(stage), &arguments.a, block * BLOCK_K, row, full);
                        else if (schedule.rank == 0) tma_load_multicast(shared.a(stage), &arguments.a, block * BLOCK_K, row, full, 3);
                        tma_load(shared.b(stage), &arguments.b, block * BLOCK_K, column, full);
                        if constexpr (SCALES != SCALES_AT_END) tma_load(shared.scale_a(stage), &arguments.scale_a, row, block, full);
                        if constexpr (SCALES == SCALES_1D1D) tma_load(shared.scale_b(stage), &arguments.scale_b, column, block, full);
                    }
                }
            }
            grid_launch_dependents();
        } else if (SCALES == SCALES_1D2D && warp == MATH_GROUPS * 4 + 1) {
            u32 slot = 0, phase = 1;
            u32 rows = (arguments.n + 127) / 128;
            #pragma unroll 1
            while (schedule.next()) {
                u32 column = schedule.tile_n * BLOCK_N;
                barrier_wait(shared.slot_empty(slot), phase);
                #pragma unroll 4
                for (u32 i = lane; i < SCALES_B * k_blocks; i += 32) {
                    u32 group = i / k_blocks, block = i % k_blocks;
                    // A scale beyond N belongs to columns that are clipped; it only must exist.
                    u32 row = min((column + group * GROUP_COLUMNS) / 128, rows - 1);
                    float scale = __ldg(arguments.scales_b + u64(row) * k_blocks + block);
                    shared_store(shared.slot(slot) + (group * MAX_K_BLOCKS + block) * 4, scale);
                }
                __syncwarp();
                if (lane == 0) barrier_arrive(shared.slot_full(slot));
                slot ^= 1;
                if (slot == 0) phase ^= 1;
            }
        }
    } else {
        registers_grow<MATH_REGISTERS>();
        Math math{shared, group, warp % 4, lane, 0};
        u32 slot = 0, phase = 0;
        Accumulator acc[WAVES];
        #pragma unroll 1
        while (schedule.next()) {
            #pragma unroll
            for (u32 wave = 0; wave < WAVES; wave++)
                #pragma unroll
                for (u32 i = 0; i < BLOCK_N / 2; i++) acc[wave][i] = 0.0f;
            u32 row = schedule.tile_m * BLOCK_M, column = schedule.tile_n * BLOCK_N;
            if constexpr (SCALES == SCALES_1D2D) barrier_wait(shared.slot_full(slot), phase);
            main_loop(math, acc, k_blocks, shared.slot(slot), schedule.rank);
            if constexpr (SCALES == SCALES_1D2D) {
                if (lane == 0) barrier_arrive(shared.slot_empty(slot));
                slot ^= 1;
                if (slot == 0) phase ^= 1;
            }
            if (SCALES == SCALES_AT_END || C != OUTPUT_NONE || arguments.alpha != 1.0f) {
                epilogue(math, acc, arguments, row, column);
            }
            store_tile(math, acc, arguments, schedule.tile_m, schedule.tile_n);
        }
        if (math.warp == 0 && elect()) tma_store_wait_read();
    }
    // The other CTA may still signal barriers in this one's shared memory.
    if constexpr (CLUSTER > 1) cluster_sync();
}
