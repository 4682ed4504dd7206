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
    u32 rest = arguments.m % BLOCK_M;
    Grid grid(arguments);
    Ring ring{0};
    #pragma unroll 1
    while (schedule.next()) {
        Tile tile = grid.at(schedule.index, rank);
        u32 row = tile.row + rank % CLUSTER_N * PART_A, column = tile.column + rank % CLUSTER_M * PART_B;
        // Rows that do not exist are not loaded, since TMA writes its zeros more slowly than data. Then A comes block by
        // block. What is behind it in the stage is multiplied too, and belongs to rows of D that nobody stores.
        bool all_rows = CLUSTER_N > 1 || rest == 0 || tile.row + BLOCK_M <= arguments.m;
        const TensorMap* map_a = all_rows ? &arguments.a : &arguments.a_rest;
        u32 bytes_a = all_rows ? BYTES_A : rest * BLOCK_K;
        u32 stage = 0;
        #pragma unroll 1
        for (u32 block = schedule.k_begin; block < schedule.k_end; block += IN_FLIGHT) {
            barrier_wait(shared.empty(stage), ring.phase(stage) ^ 1);
            ring.use(stage);
            u32 full = shared.full(stage);
            u32 a = shared.a(stage) + rank % CLUSTER_N * PART_A * BLOCK_K;
            u32 b = shared.b(stage) + rank % CLUSTER_M * PART_B * BLOCK_K;
            barrier_arrive_expect(full, IN_FLIGHT * (bytes_a + BYTES_B + BYTES_SCALE_A + BYTES_SCALE_B));
            auto load_a = [&] {
                if (IN_FLIGHT > 1 && whole_blocks && all_rows) {
                    tma_load_3d(a, map_a, 0, row, block, full);
                    return;
                }
                #pragma unroll 1
                for (u32 i = 0; i < IN_FLIGHT; i++) {
                    u32 k = (block + i) * BLOCK_K;
                    if constexpr (CLUSTER_N == 1) tma_load(a + i * BYTES_A, map_a, k, row, full);
                    else tma_load_multicast(a, &arguments.a, k, row, full, ALL);
                }
            };
            auto load_b = [&] {
                if (IN_FLIGHT > 1 && whole_blocks) {
                    tma_load_3d(b, &arguments.b, 0, column, block, full, arguments.policy_b);
                    return;
                }
                #pragma unroll 1
                for (u32 i = 0; i < IN_FLIGHT; i++) {
                    u32 k = (block + i) * BLOCK_K;
                    if constexpr (CLUSTER_M == 1) tma_load(b + i * BYTES_B, &arguments.b, k, column, full, arguments.policy_b);
                    else tma_load_multicast(b, &arguments.b, k, column, full, ALL);
                }
            };
            // Few rows of A are in L2 after the first CTAs; what narrow tiles wait for is B.
            if constexpr (MATH_GROUPS == 1) load_b(), load_a();
            else load_a(), load_b();
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
                    // All of more groups would be more comparisons at once than the 40 registers hold.
                    #pragma unroll(SCALES_B > 9 ? 1 : SCALES_B)
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
    // Group 0 begins; at the end it takes what was passed to it last.
    if (IN_TURNS && math.group == 1) turn_pass(0);
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
    if (IN_TURNS && math.group == 0) turn_await(0);
}

extern "C" __global__ void __launch_bounds__(THREADS, 1) fp8gemm(const __grid_constant__ Arguments arguments) {
    extern __shared__ u8 raw[];
    Shared shared{(shared_address(raw) + 1023) & ~1023u};
    u32 warp = __shfl_sync(0xFFFFFFFF, threadIdx.x / 32, 0);
    u32 group = warp / 4;
    u32 lane = threadIdx.x % 32;
    u32 rank = CLUSTER == 1 ? 0 : cluster_rank();
    Schedule schedule(arguments);

    // The producing warp makes the barriers, and loads before the others have met.
    constexpr u32 PRODUCER = MATH_GROUPS * 4;
    if (warp == PRODUCER && elect()) {
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
    }
    if constexpr (CLUSTER > 1) {
        cluster_sync();
    } else {
        __syncwarp();
        if (warp == PRODUCER) all_pass<THREADS>();
        else all_await<THREADS>();
    }
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
