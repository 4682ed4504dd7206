// D = alpha * A B^T * scales + beta * C: persistent, warp-specialised, one kernel text for every
// configuration.
//
//   producer warp      TMA of A, B and their scales into a ring of STAGES, IN_FLIGHT K blocks each
//   announcing warp    where the next tile lies, and its 128x128 scales of B, up to a tile ahead
//   moving warp        TMA of C before and of D after the epilogue of a tile
//   math warpgroups    WAVES x 64 rows each and all BLOCK_N columns: 4 wgmma, wait, promote; on
//                      narrow tiles for several K blocks at once
//
// Arithmetic (the contract that fp8gemm-sim models), per output:
//
//   per 128 of K       x = chain of four k32 steps from zero
//   SCALES_1D2D, 1D1D  acc = fma(fl(sa * sb), x, acc)
//   SCALES_AT_END      acc = fl(acc + x), or no promotion at all (CHAIN)
//   then               the epilogue
//
// No other order, whatever the tile, so that every configuration gives the same bits. Every float
// operation is an explicit intrinsic: no compiler flag can contract or reorder it.

constexpr u32 MATH_THREADS = 128 * MATH_GROUPS;
constexpr u32 THREADS = MATH_THREADS + 128;

// Cooperating, the math warpgroups share each tile; in ping-pong they take turns, so that one
// stores its tile while the other computes. wgmma has 64 rows: of a tile of fewer the others are
// computed from whatever lies behind its rows of A, and left out when D is stored.
constexpr u32 GROUPS_PER_TILE = PING_PONG ? 1 : MATH_GROUPS;
constexpr u32 WAVES = BLOCK_M < 64 ? 1 : BLOCK_M / (64 * GROUPS_PER_TILE);

// Tiles start, and 128x128 scales of B end, at multiples of this many columns: columns of one such
// group share a scale. The announcing warp spreads the scales out to groups, so that one loop serves
// every place at which a scale can end inside a tile.
constexpr u32 gcd(u32 a, u32 b) { return b == 0 ? a : gcd(b, a % b); }
constexpr u32 GROUP_COLUMNS = gcd(BLOCK_N, 128);
static_assert(SCALES_B == (SCALES == SCALES_1D2D ? BLOCK_N / GROUP_COLUMNS : 1), "groups of columns in a tile");

// Shared memory, from a 1024-byte boundary. Operands first: their swizzle repeats every 1024 bytes.
// BYTES_ are those of a K block, STRIDE_ from stage to stage.
constexpr u32 BYTES_A = BLOCK_M * BLOCK_K;
constexpr u32 BYTES_B = BLOCK_N * BLOCK_K;
constexpr u32 STRIDE_A = IN_FLIGHT * BYTES_A, STRIDE_B = IN_FLIGHT * BYTES_B;
constexpr u32 BYTES_SCALE_A = SCALES == SCALES_AT_END ? 0 : BLOCK_M * 4;
constexpr u32 STRIDE_SCALE_A = (IN_FLIGHT * BYTES_SCALE_A + 127) / 128 * 128;
constexpr u32 BYTES_SCALE_B = SCALES == SCALES_1D1D ? BLOCK_N * 4 : 0;
constexpr u32 STRIDE_SCALE_B = (IN_FLIGHT * BYTES_SCALE_B + 127) / 128 * 128;
constexpr u32 BYTES_SLOT = 16 + (SCALES == SCALES_1D2D ? (SCALES_B * MAX_K_BLOCKS + 3) / 4 * 16 : 0);
constexpr u32 AT_A = 0;
constexpr u32 AT_B = AT_A + STAGES * STRIDE_A;
constexpr u32 AT_STAGING = AT_B + STAGES * STRIDE_B;
constexpr u32 GROUP_STAGING = STORE_TMA ? WAVES * WAVE_BYTES : 4 * STAGING;
constexpr u32 AT_SCALE_A = AT_STAGING + MATH_GROUPS * GROUP_STAGING;
constexpr u32 AT_SCALE_B = AT_SCALE_A + STAGES * STRIDE_SCALE_A;
constexpr u32 AT_SLOTS = AT_SCALE_B + STAGES * STRIDE_SCALE_B;
constexpr u32 AT_BARRIERS = AT_SLOTS + 2 * BYTES_SLOT;
constexpr u32 SHARED_BYTES = AT_BARRIERS + (2 * STAGES + 4 + 2 * MATH_GROUPS) * 8;

static_assert(MATH_GROUPS == (BLOCK_M <= 64 && !PING_PONG ? 1 : 2), "named barriers and turns are for two");
static_assert(BLOCK_M < 64 ? BLOCK_M % 8 == 0 : BLOCK_M % (64 * GROUPS_PER_TILE) == 0, "each math warpgroup has whole 64-row waves");
static_assert(BLOCK_M >= 64 || STRIDE_B * STAGES >= (64 - BLOCK_M) * BLOCK_K, "what is read behind the last rows of A is in shared memory");
static_assert(IN_FLIGHT == 1 || (WAVES == 1 && !CHAIN && !STREAM_K && CLUSTER == 1), "blocks in flight are of one wave");
static_assert(BLOCK_M <= 256 && BLOCK_N <= 256, "a TMA box has at most 256 elements a side");
static_assert(BLOCK_N % (8 * CLUSTER_M) == 0, "wgmma has multiples of 8 columns; shared parts start at 1024 bytes");
static_assert(SHARED_BYTES + 1024 == SHARED_BYTES_EXPECTED, "the host and the kernel agree on shared memory");
static_assert(CLUSTER == CLUSTER_M * CLUSTER_N && CLUSTER <= 2, "clusters of two share A or B");
static_assert(!CHAIN || SCALES == SCALES_AT_END, "block scales need promotion");
static_assert(!STREAM_K || (!PING_PONG && BLOCK_M >= 128), "a partial tile is handed over by two warpgroups");

struct Shared {
    u32 base;
    MEMBER u32 a(u32 stage) const { return base + AT_A + stage * STRIDE_A; }
    MEMBER u32 b(u32 stage) const { return base + AT_B + stage * STRIDE_B; }
    MEMBER u32 staging(u32 group) const { return base + AT_STAGING + group * GROUP_STAGING; }
    MEMBER u32 scale_a(u32 stage) const { return base + AT_SCALE_A + stage * STRIDE_SCALE_A; }
    MEMBER u32 scale_b(u32 stage) const { return base + AT_SCALE_B + stage * STRIDE_SCALE_B; }
    MEMBER u32 slot(u32 slot) const { return base + AT_SLOTS + slot * BYTES_SLOT; }
    MEMBER u32 full(u32 stage) const { return base + AT_BARRIERS + stage * 8; }
    MEMBER u32 empty(u32 stage) const { return base + AT_BARRIERS + (STAGES + stage) * 8; }
    MEMBER u32 slot_full(u32 slot) const { return base + AT_BARRIERS + (2 * STAGES + slot) * 8; }
    MEMBER u32 slot_empty(u32 slot) const { return base + AT_BARRIERS + (2 * STAGES + 2 + slot) * 8; }
    MEMBER u32 staging_ready(u32 group) const { return base + AT_BARRIERS + (2 * STAGES + 4 + group) * 8; }
    MEMBER u32 staging_done(u32 group) const { return base + AT_BARRIERS + (2 * STAGES + 4 + MATH_GROUPS + group) * 8; }
};

// Scales of a slot follow the tile's coordinates.
constexpr u32 SLOT_SCALES = 16;

// Every item starts at stage 0 of the ring: going on where the item before ended would need a jump
// into the unrolled loop, and testing for it in every stage costs more than it gains (measured;
// docs/performance.md). So a number of stages that divides the number of blocks is best.
struct Ring {
    u32 phases;  // one bit for each stage, flipped with each use

    MEMBER u32 phase(u32 stage) const { return phases >> stage & 1; }
    MEMBER void use(u32 stage) { phases ^= 1u << stage; }

    // An item that another warpgroup computes.
    MEMBER void skip(u32 blocks) {
        u32 stages = (blocks + IN_FLIGHT - 1) / IN_FLIGHT;
        u32 rest = (1u << stages % STAGES) - 1;
        phases ^= stages / STAGES % 2 ? ~rest : rest;
    }
};

using Accumulator = float[BLOCK_N / 2];

// What a math thread knows for the whole kernel. In a 64-row wave it holds, for each 8 columns,
// elements 4i and 4i+1 of row() and 4i+2 and 4i+3 of row() + 8, at columns column() and one after.
struct Math {
    Shared shared;
    u32 group, warp, lane;
    Ring ring;

    MEMBER u32 row() const { return warp * 16 + lane / 4; }
    MEMBER u32 column() const { return lane % 4 * 2; }
    MEMBER u32 wave_row(u32 wave) const { return ((PING_PONG ? 0 : group * WAVES) + wave) * 64; }

    // Scales of the thread's two rows of a wave, in one of the blocks of a stage.
    MEMBER void read_rows(float (&sa)[2], u32 stage, u32 wave, u32 block = 0) const {
        u32 rows = shared.scale_a(stage) + block * BYTES_SCALE_A + (wave_row(wave) + row()) * 4;
        sa[0] = shared_load(rows);
        sa[1] = shared_load(rows + 8 * 4);
    }

    // 1D1D: of each of the thread's elements, its row's scale times its column's.
    MEMBER void read_elements(float (&scales)[BLOCK_N / 2], u32 stage, u32 wave, u32 block = 0) const {
        float sa[2];
        read_rows(sa, stage, wave, block);
        #pragma unroll
        for (u32 i = 0; i < BLOCK_N / 2; i += 4) {
            float sb[2];
            shared_load(shared.scale_b(stage) + block * BYTES_SCALE_B + (i * 2 + column()) * 4, sb[0], sb[1]);
            #pragma unroll
            for (u32 j = 0; j < 4; j++) scales[i + j] = __fmul_rn(sa[j / 2], sb[j % 2]);
        }
    }

    // To the producers of every CTA whose loads fill this stage.
    MEMBER void release(u32 stage) const {
        if constexpr (CLUSTER == 1) {
            if (lane == 0) barrier_arrive(shared.empty(stage));
        } else {
            if (lane < CLUSTER) barrier_arrive_remote(shared.empty(stage), lane);
        }
    }
};

// 1D2D: the columns of a group share a scale.
DEVICE void promote(Accumulator& acc, const Accumulator& chain, const float (&low)[SCALES_B], const float (&high)[SCALES_B]) {
    #pragma unroll
    for (u32 i = 0; i < BLOCK_N / 2; i++) {
        u32 group = i / 4 * 8 / GROUP_COLUMNS;
        acc[i] = __fmaf_rn(i % 4 < 2 ? low[group] : high[group], chain[i], acc[i]);
    }
}

// 1D1D: every element has its own scale.
DEVICE void promote(Accumulator& acc, const Accumulator& chain, const float (&scales)[BLOCK_N / 2]) {
    #pragma unroll
    for (u32 i = 0; i < BLOCK_N / 2; i++) acc[i] = __fmaf_rn(scales[i], chain[i], acc[i]);
}

// Blocks k_begin to k_end of one tile. Stages are unrolled, so that their addresses are immediates.
DEVICE void main_loop(Math& math, Accumulator (&acc)[WAVES], u32 k_begin, u32 k_end, u32 slot) {
    const Shared& shared = math.shared;
    u32 descriptor_a = descriptor(shared.a(0) + math.wave_row(0) * BLOCK_K);
    u32 descriptor_b = descriptor(shared.b(0));
    Accumulator chain;
    bool ready = barrier_try_wait(shared.full(0), math.ring.phase(0));
    #pragma unroll 1
    for (u32 first = k_begin; first < k_end; first += STAGES) {
        #pragma unroll
        for (u32 stage = 0; stage < STAGES; stage++) {
            u32 block = first + stage;
            if (block >= k_end) break;
            float slot_b[SCALES_B];
            if constexpr (SCALES == SCALES_1D2D) {
                #pragma unroll
                for (u32 i = 0; i < SCALES_B; i++) slot_b[i] = shared_load(slot + SLOT_SCALES + (i * MAX_K_BLOCKS + block) * 4);
            }
            if (!ready) barrier_wait(shared.full(stage), math.ring.phase(stage));
            math.ring.use(stage);
            #pragma unroll
            for (u32 wave = 0; wave < WAVES; wave++) {
                // The few scales of 1D2D before the wgmma: in their shadow was 0.5 to 2 % slower.
                float sa[2];
                if constexpr (SCALES == SCALES_1D2D) math.read_rows(sa, stage, wave);
                Accumulator& target = CHAIN ? acc[wave] : chain;
                wgmma_fence();
                #pragma unroll
                for (u32 step = 0; step < BLOCK_K / 32; step++) {
                    wgmma(target, descriptor_a + (stage * BYTES_A + wave * 64 * BLOCK_K + step * 32) / 16,
                          descriptor_b + (stage * BYTES_B + step * 32) / 16, step > 0 || (CHAIN && block > 0));
                }
                wgmma_commit();
                // In the shadow of the tensor cores, and before the stage is released.
                float low[SCALES_B], high[SCALES_B], scales[BLOCK_N / 2];
                if constexpr (SCALES == SCALES_1D2D) {
                    #pragma unroll
                    for (u32 i = 0; i < SCALES_B; i++) {
                        low[i] = __fmul_rn(sa[0], slot_b[i]);
                        high[i] = __fmul_rn(sa[1], slot_b[i]);
                    }
                } else if constexpr (SCALES == SCALES_1D1D) {
                    math.read_elements(scales, stage, wave);
                }
                wgmma_wait();
                if (wave + 1 == WAVES) {
                    math.release(stage);
                    // Asked before the multiplications and needed after them.
                    u32 next = (stage + 1) % STAGES;
                    ready = block + 1 >= k_end || barrier_try_wait(shared.full(next), math.ring.phase(next));
                }
                if constexpr (SCALES == SCALES_1D2D) {
                    promote(acc[wave], chain, low, high);
                } else if constexpr (SCALES == SCALES_1D1D) {
                    promote(acc[wave], chain, scales);
                } else if constexpr (!CHAIN) {
                    #pragma unroll
                    for (u32 i = 0; i < BLOCK_N / 2; i++) acc[wave][i] = __fadd_rn(acc[wave][i], chain[i]);
                }
            }
        }
    }
}

// Calls `promote` for each of BLOCKS groups of wgmma when it is done.
template <u32 BLOCKS, u32 DONE = 0, class F>
DEVICE void in_order(const F& promote) {
    if constexpr (DONE < BLOCKS) {
        wgmma_wait<BLOCKS - 1 - DONE>();
        promote(DONE);
        in_order<BLOCKS, DONE + 1>(promote);
    }
}

// BLOCKS blocks at once, from the `first` of a stage on, which is the `block`th of K: their wgmma are all
// under way before the first is promoted. `done` is called when they no longer need the stage.
template <u32 BLOCKS, class F>
DEVICE void multiply_at_once(const Math& math, Accumulator& acc, u32 stage, u32 first, u32 block, u32 slot, const F& done) {
    const Shared& shared = math.shared;
    Accumulator chain[BLOCKS];
    u32 a = descriptor(shared.a(stage) + first * BYTES_A + math.wave_row(0) * BLOCK_K), b = descriptor(shared.b(stage) + first * BYTES_B);
    wgmma_fence();
    #pragma unroll
    for (u32 i = 0; i < BLOCKS; i++) {
        #pragma unroll
        for (u32 step = 0; step < BLOCK_K / 32; step++) {
            wgmma(chain[i], a + (i * BYTES_A + step * 32) / 16, b + (i * BYTES_B + step * 32) / 16, step > 0);
        }
        wgmma_commit();
    }
    // In the shadow of the tensor cores, and before the stage is released.
    float low[BLOCKS][SCALES_B], high[BLOCKS][SCALES_B];
    if constexpr (SCALES == SCALES_1D2D) {
        #pragma unroll
        for (u32 i = 0; i < BLOCKS; i++) {
            float sa[2];
            math.read_rows(sa, stage, 0, first + i);
            #pragma unroll
            for (u32 j = 0; j < SCALES_B; j++) {
                float sb = shared_load(slot + SLOT_SCALES + (j * MAX_K_BLOCKS + block + i) * 4);
                low[i][j] = __fmul_rn(sa[0], sb);
                high[i][j] = __fmul_rn(sa[1], sb);
            }
        }
    }
    in_order<BLOCKS>([&](u32 i) {
        float scales[BLOCK_N / 2];
        if constexpr (SCALES == SCALES_1D1D) math.read_elements(scales, stage, 0, first + i);
        if (i + 1 == BLOCKS) done();
        if constexpr (SCALES == SCALES_1D2D) {
            promote(acc, chain[i], low[i], high[i]);
        } else if constexpr (SCALES == SCALES_1D1D) {
            promote(acc, chain[i], scales);
        } else {
            #pragma unroll
            for (u32 j = 0; j < BLOCK_N / 2; j++) acc[j] = __fadd_rn(acc[j], chain[i][j]);
        }
    });
}

// A tile so narrow that the tensor cores would mostly wait for the round of barrier, wgmma and
// promotion: the blocks of a stage at once. They are chains of their own, and promoted in order.
DEVICE void main_loop_in_flight(Math& math, Accumulator& acc, u32 k_begin, u32 k_end, u32 slot) {
    const Shared& shared = math.shared;
    u32 stage = 0;
    bool ready = barrier_try_wait(shared.full(0), math.ring.phase(0));
    #pragma unroll 1
    for (u32 block = k_begin; block < k_end; block += IN_FLIGHT) {
        if (!ready) barrier_wait(shared.full(stage), math.ring.phase(stage));
        math.ring.use(stage);
        u32 next = stage + 1 == STAGES ? 0 : stage + 1;
        auto done = [&] {
            math.release(stage);
            // Asked before the multiplications and needed after them.
            ready = block + IN_FLIGHT >= k_end || barrier_try_wait(shared.full(next), math.ring.phase(next));
        };
        if (block + IN_FLIGHT <= k_end) {
            multiply_at_once<IN_FLIGHT>(math, acc, stage, 0, block, slot, done);
        } else {
            #pragma unroll 1
            for (u32 i = 0; block + i < k_end; i++) multiply_at_once<1>(math, acc, stage, i, block + i, slot, [] {});
            done();
        }
        stage = next;
    }
}

// Stream-K: accumulators of an unfinished tile, from one CTA to the next. 16 bytes of a thread lie
// beside those of its neighbour. The taker spins: it relies on CTAs of lower number having been
// started before it, as all known GPUs do.
struct Handover {
    static constexpr u32 BYTES = BLOCK_M * BLOCK_N * 4;
    float4* accumulators;
    u32* flag;
    u32 group;

    MEMBER Handover(const Arguments& arguments, u32 cta, u32 group) : group(group) {
        u8* base = arguments.workspace + gridDim.x * u64(MATH_GROUPS * 4);
        base += (128 - gridDim.x * (MATH_GROUPS * 4) % 128) % 128;
        accumulators = reinterpret_cast<float4*>(base + u64(cta) * BYTES) + threadIdx.x;
        flag = reinterpret_cast<u32*>(arguments.workspace) + cta * MATH_GROUPS + group;
    }

    MEMBER void give(const Accumulator (&acc)[WAVES], u32 thread) const {
        #pragma unroll
        for (u32 i = 0; i < WAVES * BLOCK_N / 8; i++) {
            const float* r = acc[i / (BLOCK_N / 8)] + i % (BLOCK_N / 8) * 4;
            accumulators[i * MATH_THREADS] = make_float4(r[1], r[0], r[3], r[2]);
        }
        fence_gpu();
        warpgroup_sync(group);
        if (thread == 0) flag_raise(flag);
    }

    // Lowers the flag again, for the next launch. Neighbours change places on the way: in their
    // natural order the compiler would give accumulators registers that meet those of the chain in
    // the same bank.
    MEMBER void take(Accumulator (&acc)[WAVES], u32 thread) const {
        if (thread == 0) {
            while (!flag_is_up(flag)) {
            }
        }
        warpgroup_sync(group);
        #pragma unroll
        for (u32 i = 0; i < WAVES * BLOCK_N / 8; i++) {
            float* r = acc[i / (BLOCK_N / 8)] + i % (BLOCK_N / 8) * 4;
            load_4_swapped(&accumulators[i * MATH_THREADS].x, r);
        }
        if (thread == 0) flag_lower(flag);
    }
};

// ---- one function for each role --------------------------------------------------------------

// One thread: keeps the ring full.
DEVICE void produce(const Arguments& arguments, const Shared& shared, Schedule schedule, u32 rank) {
    // A shared operand comes in parts, one loaded by each CTA of the cluster for all of them.
    constexpr u32 PART_A = BLOCK_M / CLUSTER_N, PART_B = BLOCK_N / CLUSTER_M;
    constexpr u16 ALL = (1 << CLUSTER) - 1;
    // Where K is whole blocks, maps have a third dimension for them, and one load brings a stage.
    bool whole_blocks = arguments.k % BLOCK_K == 0;
    Grid grid(arguments);
    Ring ring{0};
    #pragma unroll 1
    while (schedule.next()) {
        Tile tile = grid.at(schedule.index, rank);
        u32 row = tile.row + rank % CLUSTER_N * PART_A, column = tile.column + rank % CLUSTER_M * PART_B;
        u32 stage = 0;
        #pragma unroll 1
        for (u32 block = schedule.k_begin; block < schedule.k_end; block += IN_FLIGHT) {
            barrier_wait(shared.empty(stage), ring.phase(stage) ^ 1);
            ring.use(stage);
            u32 full = shared.full(stage);
            u32 a = shared.a(stage) + rank % CLUSTER_N * PART_A * BLOCK_K;
            u32 b = shared.b(stage) + rank % CLUSTER_M * PART_B * BLOCK_K;
            barrier_arrive_expect(full, IN_FLIGHT * (BYTES_A + BYTES_B + BYTES_SCALE_A + BYTES_SCALE_B));
            if (IN_FLIGHT > 1 && whole_blocks) {
                tma_load_3d(a, &arguments.a, 0, row, block, full);
                tma_load_3d(b, &arguments.b, 0, column, block, full);
            } else {
                #pragma unroll 1
                for (u32 i = 0; i < IN_FLIGHT; i++) {
                    u32 k = (block + i) * BLOCK_K;
                    if constexpr (CLUSTER_N == 1) tma_load(a + i * BYTES_A, &arguments.a, k, row, full);
                    else tma_load_multicast(a, &arguments.a, k, row, full, ALL);
                    if constexpr (CLUSTER_M == 1) tma_load(b + i * BYTES_B, &arguments.b, k, column, full);
                    else tma_load_multicast(b, &arguments.b, k, column, full, ALL);
                }
            }
            if constexpr (SCALES != SCALES_AT_END) tma_load(shared.scale_a(stage), &arguments.scale_a, tile.row, block, full);
            if constexpr (SCALES == SCALES_1D1D) tma_load(shared.scale_b(stage), &arguments.scale_b, tile.column, block, full);
            stage = stage + 1 == STAGES ? 0 : stage + 1;
        }
    }
    grid_launch_dependents();
}

// One warp: tells the math warpgroups where the next tile lies, and brings its 128x128 scales. All loads
// of a round are under way together: one after another they would take longer than a narrow tile.
DEVICE void announce(const Arguments& arguments, const Shared& shared, Schedule schedule, u32 rank, u32 lane) {
    // 128x128 scales beside each other that a tile can touch, and blocks of K of one lane in a round.
    constexpr u32 ROWS = (BLOCK_N - GROUP_COLUMNS + 127) / 128 + 1, BLOCKS = 2;
    Grid grid(arguments);
    u32 last = (arguments.n + 127) / 128 - 1;
    #pragma unroll 1
    for (u32 turn = 0; schedule.next(); turn++) {
        u32 slot = shared.slot(turn % 2);
        Tile tile = grid.at(schedule.index, rank);
        barrier_wait(shared.slot_empty(turn % 2), turn / 2 % 2 ^ 1);
        if (lane == 0) shared_store(slot, tile.row, tile.column);
        if constexpr (SCALES == SCALES_1D2D) {
            #pragma unroll 1
            for (u32 first = schedule.k_begin + lane; first < schedule.k_end; first += 32 * BLOCKS) {
                float scales[BLOCKS][ROWS];
                #pragma unroll
                for (u32 b = 0; b < BLOCKS; b++) {
                    #pragma unroll
                    for (u32 row = 0; row < ROWS; row++) {
                        // A scale beyond N belongs to columns that are clipped; it only must exist.
                        u64 at = u64(min(tile.column / 128 + row, last)) * schedule.k_blocks + first + b * 32;
                        if (first + b * 32 < schedule.k_end) scales[b][row] = __ldg(arguments.scales_b + at);
                    }
                }
                #pragma unroll
                for (u32 b = 0; b < BLOCKS; b++) {
                    if (first + b * 32 >= schedule.k_end) break;
                    #pragma unroll
                    for (u32 i = 0; i < SCALES_B; i++) {
                        float scale = scales[b][0];
                        #pragma unroll
                        for (u32 row = 1; row < ROWS; row++) {
                            if (tile.column % 128 + i * GROUP_COLUMNS >= row * 128) scale = scales[b][row];
                        }
                        shared_store(slot + SLOT_SCALES + (i * MAX_K_BLOCKS + first + b * 32) * 4, scale);
                    }
                }
            }
        }
        // Every lane for what it has stored.
        barrier_arrive(shared.slot_full(turn % 2));
    }
}

// One thread: C to the staging tiles before the epilogue, D from there after it.
DEVICE void move_tiles(const Arguments& arguments, const Shared& shared, Schedule schedule, u32 rank) {
    Grid grid(arguments);
    #pragma unroll 1
    for (u32 turn = 0, finished = 0; schedule.next(); turn++) {
        if (!schedule.finishes()) continue;
        Tile tile = grid.at(schedule.index, rank);
        // In ping-pong a tile is one warpgroup's, else each has its part.
        u32 begin = PING_PONG ? turn % MATH_GROUPS : 0, end = begin + GROUPS_PER_TILE;
        auto part = [&](u32 group, u32 wave) {
            return WaveOfD{arguments, shared.staging(group) + wave * WAVE_BYTES, tile.row + ((group - begin) * WAVES + wave) * 64, tile.column};
        };
        #pragma unroll 1
        for (u32 group = begin; group < end; group++) {
            u32 ready = shared.staging_ready(group);
            if constexpr (C == OUTPUT_NONE) {
                barrier_arrive(ready);
            } else {
                barrier_arrive_expect(ready, WAVES * ATOMS * BOX_ROWS * 128);
                for (u32 wave = 0; wave < WAVES; wave++) part(group, wave).load(ready);
            }
        }
        #pragma unroll 1
        for (u32 group = begin; group < end; group++) {
            barrier_wait(shared.staging_done(group), (PING_PONG ? finished / MATH_GROUPS : finished) % 2);
            for (u32 wave = 0; wave < WAVES; wave++) part(group, wave).store();
            tma_store_commit();
        }
        tma_store_wait_read();
        finished++;
    }
}

// A math warpgroup.
DEVICE void multiply(const Arguments& arguments, Math& math, Schedule schedule) {
    const Shared& shared = math.shared;
    Accumulator acc[WAVES];
    #pragma unroll 1
    for (u32 turn = 0, finished = 0; schedule.next(); turn++) {
        if (PING_PONG && turn % MATH_GROUPS != math.group) {
            math.ring.skip(schedule.blocks());
            continue;
        }
        u32 slot = shared.slot(turn % 2);
        barrier_wait(shared.slot_full(turn % 2), turn / 2 % 2);
        if (STREAM_K && schedule.k_begin > 0) {
            Handover(arguments, blockIdx.x - CLUSTER, math.group).take(acc, threadIdx.x % 128);
        } else {
            #pragma unroll
            for (u32 wave = 0; wave < WAVES; wave++)
                #pragma unroll
                for (u32 i = 0; i < BLOCK_N / 2; i++) acc[wave][i] = 0.0f;
        }
        // A barrier tells one phase from the next only: the stages of a tile may be waited for when
        // those of the tile before are used up.
        if (PING_PONG && turn > 0) turn_await(math.group);
        if constexpr (IN_FLIGHT > 1) main_loop_in_flight(math, acc[0], schedule.k_begin, schedule.k_end, slot);
        else main_loop(math, acc, schedule.k_begin, schedule.k_end, slot);
        if (PING_PONG && schedule.more()) turn_pass(1 - math.group);
        if (!schedule.finishes()) {
            Handover(arguments, blockIdx.x, math.group).give(acc, threadIdx.x % 128);
        } else {
            Tile tile;
            shared_load(slot, tile.row, tile.column);
            u32 row = tile.row + math.wave_row(0);
            if constexpr (STORE_TMA) {
                TmaEpilogue epilogue{arguments, math.warp, math.lane};
                barrier_wait(shared.staging_ready(math.group), finished % 2);
                #pragma unroll
                for (u32 wave = 0; wave < WAVES; wave++) {
                    epilogue.wave(shared.staging(math.group) + wave * WAVE_BYTES, acc[wave], row + wave * 64, tile.column);
                }
                fence_async_proxy();
                __syncwarp();
                if (math.lane == 0) barrier_arrive(shared.staging_done(math.group));
            } else {
                DirectEpilogue epilogue(arguments, shared.staging(math.group) + math.warp * STAGING, math.lane);
                #pragma unroll
                for (u32 wave = 0; wave < WAVES; wave++) epilogue.rows(acc[wave], row + wave * 64 + math.warp * 16, tile.column, min(tile.row + BLOCK_M, arguments.m));
            }
            finished++;
        }
        // Every lane for what it has read.
        barrier_arrive(shared.slot_empty(turn % 2));
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, 1) fp8gemm(const __grid_constant__ Arguments arguments) {
    extern __shared__ u8 raw[];
    Shared shared{(shared_address(raw) + 1023) & ~1023u};
    u32 warp = __shfl_sync(0xFFFFFFFF, threadIdx.x / 32, 0);
    u32 group = warp / 4;
    u32 lane = threadIdx.x % 32;
    u32 rank = CLUSTER == 1 ? 0 : cluster_rank();
    Schedule schedule(arguments);

    if (warp == 0 && elect()) {
        for (u32 stage = 0; stage < STAGES; stage++) {
            barrier_init(shared.full(stage), 1);
            barrier_init(shared.empty(stage), GROUPS_PER_TILE * 4 * CLUSTER);
        }
        for (u32 slot = 0; slot < 2; slot++) {
            barrier_init(shared.slot_full(slot), 32);
            barrier_init(shared.slot_empty(slot), GROUPS_PER_TILE * 128);
        }
        for (u32 i = 0; i < MATH_GROUPS; i++) {
            barrier_init(shared.staging_ready(i), 1);
            barrier_init(shared.staging_done(i), 4);
        }
        barrier_init_fence();
        tma_prefetch(&arguments.a);
        tma_prefetch(&arguments.b);
    }
    if constexpr (CLUSTER > 1) cluster_sync();
    else __syncthreads();
    // Everything above may overlap the previous kernel; nothing below may read before it is done.
    grid_wait();

    if (group == MATH_GROUPS) {
        // One math warpgroup has all the registers it can use without taking any.
        if constexpr (MATH_GROUPS > 1) registers_shrink<PRODUCER_REGISTERS>();
        u32 role = warp % 4;
        if (role == 0 && elect()) produce(arguments, shared, schedule, rank);
        else if (role == 1) announce(arguments, shared, schedule, rank, lane);
        else if (STORE_TMA && role == 2 && elect()) move_tiles(arguments, shared, schedule, rank);
    } else {
        if constexpr (MATH_GROUPS > 1) registers_grow<MATH_REGISTERS>();
        Math math{shared, group, warp % 4, lane, {0}};
        multiply(arguments, math, schedule);
    }
    // The other CTA may still signal barriers in this one's shared memory.
    if constexpr (CLUSTER > 1) {
        __syncwarp();
        cluster_sync();
    }
}
