// What a CTA has in shared memory, and the K loop of a math warpgroup, in two forms: one K block after the
// other with its promotion behind the other warpgroup's wgmma, or, on narrow tiles, the blocks of a stage
// at once.

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
static_assert(!IN_TURNS || (GROUPS_PER_TILE == 2 && IN_FLIGHT == 1), "warpgroups that have the same blocks take turns");
static_assert(IN_FLIGHT > 1 || !AHEAD, "stages that are multiplied at once");
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

// Blocks k_begin to k_end of one tile. Stages are unrolled, so that their addresses are immediates. IN_TURNS the
// warpgroups issue one after the other: else their wgmma mix, end together, and both promote while the tensor cores wait.
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
                if constexpr (IN_TURNS) turn_await(math.group);
                wgmma_fence();
                #pragma unroll
                for (u32 step = 0; step < BLOCK_K / 32; step++) {
                    wgmma(target, descriptor_a + (stage * BYTES_A + wave * 64 * BLOCK_K + step * 32) / 16,
                          descriptor_b + (stage * BYTES_B + step * 32) / 16, step > 0 || (CHAIN && block > 0));
                }
                wgmma_commit();
                if constexpr (IN_TURNS) turn_pass(1 - math.group);
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

// ---- narrow tiles: the blocks of a stage at once ---------------------------------------------

// wgmma of BLOCKS blocks of a stage, from the `first` on, a group for each.
template <u32 BLOCKS>
DEVICE void issue(const Math& math, Accumulator (&chain)[BLOCKS], u32 stage, u32 first) {
    u32 a = descriptor(math.shared.a(stage) + first * BYTES_A + math.wave_row(0) * BLOCK_K), b = descriptor(math.shared.b(stage) + first * BYTES_B);
    wgmma_fence();
    #pragma unroll
    for (u32 i = 0; i < BLOCKS; i++) {
        #pragma unroll
        for (u32 step = 0; step < BLOCK_K / 32; step++) {
            wgmma(chain[i], a + (i * BYTES_A + step * 32) / 16, b + (i * BYTES_B + step * 32) / 16, step > 0);
        }
        wgmma_commit();
    }
}

// Promotes them in order, each when it is done: they are chains of their own. The first is the `block`th of K; those from
// `k_end` on, that only the LAST can be, are not promoted. LATER groups have been issued since. `done` is called when
// the blocks are no longer needed.
template <bool LAST, u32 LATER, u32 BLOCKS, class F>
DEVICE void promote_blocks(const Math& math, Accumulator& acc, const Accumulator (&chain)[BLOCKS], u32 stage, u32 first, u32 block, u32 k_end, u32 slot, const F& done) {
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
    in_order<BLOCKS, LATER>([&](u32 i) {
        float scales[BLOCK_N / 2];
        if constexpr (SCALES == SCALES_1D1D) math.read_elements(scales, stage, 0, first + i);
        if (i + 1 == BLOCKS) done();
        if (LAST && block + i >= k_end) return;
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

// Tiles so narrow that the tensor cores would mostly wait for the round of barrier, wgmma and promotion. Where the
// products of two stages fit the registers, those of the next are under way (AHEAD) before one is promoted.
DEVICE void main_loop_in_flight(Math& math, Accumulator& acc, u32 k_begin, u32 k_end, u32 slot) {
    const Shared& shared = math.shared;
    u32 stage = 0, block = k_begin;
    bool ready = barrier_try_wait(shared.full(0), math.ring.phase(0));
    auto take = [&](u32 stage) {
        if (!ready) barrier_wait(shared.full(stage), math.ring.phase(stage));
        math.ring.use(stage);
    };
    auto after = [](u32 stage) { return stage + 1 == STAGES ? 0 : stage + 1; };
    if constexpr (!AHEAD) {
        #pragma unroll 1
        for (; block < k_end; block += IN_FLIGHT) {
            u32 next = after(stage);
            take(stage);
            auto done = [&] {
                math.release(stage);
                // Asked before the multiplications and needed after them.
                ready = block + IN_FLIGHT >= k_end || barrier_try_wait(shared.full(next), math.ring.phase(next));
            };
            if (block + IN_FLIGHT <= k_end) {
                Accumulator chain[IN_FLIGHT];
                issue(math, chain, stage, 0);
                promote_blocks<false, 0>(math, acc, chain, stage, 0, block, k_end, slot, done);
            } else {
                // One by one: a condition for each would keep ptxas from mixing the blocks of whole stages.
                #pragma unroll 1
                for (u32 i = 0; block + i < k_end; i++) {
                    Accumulator chain[1];
                    issue(math, chain, stage, i);
                    promote_blocks<false, 0>(math, acc, chain, stage, i, block + i, k_end, slot, [] {});
                }
                done();
            }
            stage = next;
        }
    } else {
        Accumulator even[IN_FLIGHT], odd[IN_FLIGHT];
        take(0);
        issue(math, even, 0, 0);
        ready = false;
        // Whether that was all.
        auto turn = [&](Accumulator (&chain)[IN_FLIGHT], Accumulator (&ahead)[IN_FLIGHT]) {
            auto done = [&] { math.release(stage); };
            if (block + IN_FLIGHT >= k_end) {
                promote_blocks<true, 0>(math, acc, chain, stage, 0, block, k_end, slot, done);
                return true;
            }
            take(after(stage));
            issue(math, ahead, after(stage), 0);
            promote_blocks<false, IN_FLIGHT>(math, acc, chain, stage, 0, block, k_end, slot, done);
            stage = after(stage);
            block += IN_FLIGHT;
            return false;
        };
        #pragma unroll 1
        for (;;) {
            // Each way out has a wait of its own: where two meet, ptxas takes wgmma for still under way, and serialises all (C7514).
            if (turn(even, odd)) return;
            if (turn(odd, even)) return;
        }
    }
}
