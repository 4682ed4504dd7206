// D = A B^T with block scales: persistent, warp-specialised, promoted every 128 of K.
//
//   producer warp      TMA of A, B and the scales of A into a ring of STAGES
//   scale warp         scales of B, a whole tile ahead
//   math warpgroups    64 rows each and all BLOCK_N columns: 4 wgmma, wait, promote
//
// Arithmetic (the contract that fp8gemm-sim models): per 128 of K a chain of four k32 steps from
// zero, then acc = fma(fl(sa * sb), chain, acc); one cast at the end.

constexpr u32 BLOCK_K = 128;
constexpr u32 WAVES = BLOCK_M / (64 * MATH_GROUPS);
constexpr u32 MATH_THREADS = 128 * MATH_GROUPS;
constexpr u32 THREADS = MATH_THREADS + 128;
constexpr u32 BYTES_A = BLOCK_M * BLOCK_K;
constexpr u32 BYTES_B = BLOCK_N * BLOCK_K;
constexpr u32 BYTES_SCALE_A = BLOCK_M * 4;
constexpr u32 D_ATOM = 64 * 128;                        // 64 rows of 64 bf16
constexpr u32 BYTES_D = BLOCK_M * BLOCK_N * 2;

// Shared memory, from a 1024-byte boundary. Operands first: their swizzle repeats every 1024 bytes.
constexpr u32 AT_A = 0;
constexpr u32 AT_B = AT_A + STAGES * BYTES_A;
constexpr u32 AT_D = AT_B + STAGES * BYTES_B;
constexpr u32 AT_SCALE_A = AT_D + BYTES_D;
constexpr u32 AT_SCALE_B = AT_SCALE_A + STAGES * BYTES_SCALE_A;
constexpr u32 AT_BARRIERS = AT_SCALE_B + 2 * MAX_K_BLOCKS * 4;
constexpr u32 SHARED_BYTES = AT_BARRIERS + (2 * STAGES + 4) * 8;

static_assert(BLOCK_M % (64 * MATH_GROUPS) == 0, "each math warpgroup has whole 64-row waves");
static_assert(128 % BLOCK_N == 0, "one scale of B per tile");
static_assert(BLOCK_N % 64 == 0, "D is stored in atoms of 64 columns");
static_assert(SHARED_BYTES + 1024 <= 232448, "shared memory");

struct Shared {
    u32 base;
    DEVICE_MEMBER u32 a(u32 stage) const { return base + AT_A + stage * BYTES_A; }
    DEVICE_MEMBER u32 b(u32 stage) const { return base + AT_B + stage * BYTES_B; }
    DEVICE_MEMBER u32 d() const { return base + AT_D; }
    DEVICE_MEMBER u32 scale_a(u32 stage) const { return base + AT_SCALE_A + stage * BYTES_SCALE_A; }
    DEVICE_MEMBER u32 scale_b(u32 slot) const { return base + AT_SCALE_B + slot * MAX_K_BLOCKS * 4; }
    DEVICE_MEMBER u32 full(u32 stage) const { return base + AT_BARRIERS + stage * 8; }
    DEVICE_MEMBER u32 empty(u32 stage) const { return base + AT_BARRIERS + (STAGES + stage) * 8; }
    DEVICE_MEMBER u32 scale_full(u32 slot) const { return base + AT_BARRIERS + (2 * STAGES + slot) * 8; }
    DEVICE_MEMBER u32 scale_empty(u32 slot) const { return base + AT_BARRIERS + (2 * STAGES + 2 + slot) * 8; }
};

// Tiles in groups of GROUP rows of tiles, so that concurrent CTAs share operands in L2.
struct Tile {
    u32 m, n;
};

DEVICE Tile tile_at(u32 index, u32 tiles_m, u32 tiles_n) {
    u32 per_group = GROUP * tiles_n;
    u32 first = index / per_group * GROUP;
    u32 height = min(GROUP, tiles_m - first);
    u32 within = index % per_group;
    return {first + within % height, within / height};
}

extern "C" __global__ void __launch_bounds__(THREADS, 1)
    fp8gemm(const __grid_constant__ TensorMap map_a, const __grid_constant__ TensorMap map_b,
            const __grid_constant__ TensorMap map_scale_a, const __grid_constant__ TensorMap map_d,
            const float* __restrict__ scale_b, u32 m, u32 n, u32 k) {
    extern __shared__ u8 raw[];
    Shared shared{(shared_address(raw) + 1023) & ~1023u};
    u32 warp = __shfl_sync(0xFFFFFFFF, threadIdx.x / 32, 0);
    u32 group = warp / 4;
    u32 k_blocks = (k + BLOCK_K - 1) / BLOCK_K;
    u32 tiles_m = (m + BLOCK_M - 1) / BLOCK_M;
    u32 tiles_n = (n + BLOCK_N - 1) / BLOCK_N;
    u32 tiles = tiles_m * tiles_n;

    if (warp == 0 && elect()) {
        for (u32 stage = 0; stage < STAGES; stage++) {
            barrier_init(shared.full(stage), 1);
            barrier_init(shared.empty(stage), MATH_THREADS / 32);
        }
        for (u32 slot = 0; slot < 2; slot++) {
            barrier_init(shared.scale_full(slot), 1);
            barrier_init(shared.scale_empty(slot), MATH_THREADS / 32);
        }
        barrier_init_fence();
        tma_prefetch(&map_a);
        tma_prefetch(&map_b);
        tma_prefetch(&map_scale_a);
        tma_prefetch(&map_d);
    }
    __syncthreads();
    grid_wait();

    if (group == MATH_GROUPS) {
        registers_shrink<PRODUCER_REGISTERS>();
        u32 phases = 0;  // one bit for each stage, flipped with each use
        if (warp == MATH_GROUPS * 4 && elect()) {
            #pragma unroll 1
            for (u32 index = blockIdx.x; index < tiles; index += gridDim.x) {
                Tile tile = tile_at(index, tiles_m, tiles_n);
                #pragma unroll 1
                for (u32 first = 0; first < k_blocks; first += STAGES) {
                    #pragma unroll
                    for (u32 stage = 0; stage < STAGES; stage++) {
                        u32 block = first + stage;
                        if (block >= k_blocks) break;
                        barrier_wait(shared.empty(stage), (phases >> stage & 1) ^ 1);
                        phases ^= 1u << stage;
                        barrier_arrive_expect(shared.full(stage), BYTES_A + BYTES_B + BYTES_SCALE_A);
                        tma_load(shared.a(stage), &map_a, block * BLOCK_K, tile.m * BLOCK_M, shared.full(stage));
                        tma_load(shared.b(stage), &map_b, block * BLOCK_K, tile.n * BLOCK_N, shared.full(stage));
                        tma_load(shared.scale_a(stage), &map_scale_a, tile.m * BLOCK_M, block, shared.full(stage));
                    }
                }
            }
        } else if (warp == MATH_GROUPS * 4 + 1) {
            u32 lane = threadIdx.x % 32;
            u32 slot = 0, phase = 1;
            #pragma unroll 1
            for (u32 index = blockIdx.x; index < tiles; index += gridDim.x) {
                Tile tile = tile_at(index, tiles_m, tiles_n);
                const float* from = scale_b + u64(tile.n * BLOCK_N / 128) * k_blocks;
                barrier_wait(shared.scale_empty(slot), phase);
                #pragma unroll 1
                for (u32 block = lane; block < k_blocks; block += 32) {
                    shared_store(shared.scale_b(slot) + block * 4, __ldg(from + block));
                }
                __syncwarp();
                if (lane == 0) barrier_arrive(shared.scale_full(slot));
                slot ^= 1;
                if (slot == 0) phase ^= 1;
            }
        }
    } else {
        registers_grow<MATH_REGISTERS>();
        u32 lane = threadIdx.x % 32;
        u32 warp_in_group = warp % 4;
        // Rows of this thread in a 64-row wave: `row` and `row + 8`.
        u32 row = warp_in_group * 16 + lane / 4;
        u32 phases = 0, slot = 0, scale_phase = 0;
        float acc[WAVES][BLOCK_N / 2];
        float chain[BLOCK_N / 2];
        #pragma unroll 1
        for (u32 index = blockIdx.x; index < tiles; index += gridDim.x) {
            Tile tile = tile_at(index, tiles_m, tiles_n);
            #pragma unroll
            for (u32 wave = 0; wave < WAVES; wave++)
                #pragma unroll
                for (u32 i = 0; i < BLOCK_N / 2; i++) acc[wave][i] = 0.0f;
            barrier_wait(shared.scale_full(slot), scale_phase);
            #pragma unroll 1
            for (u32 first = 0; first < k_blocks; first += STAGES) {
                #pragma unroll
                for (u32 stage = 0; stage < STAGES; stage++) {
                    u32 block = first + stage;
                    if (block >= k_blocks) break;
                    float sb = shared_load(shared.scale_b(slot) + block * 4);
                    barrier_wait(shared.full(stage), phases >> stage & 1);
                    phases ^= 1u << stage;
                    #pragma unroll
                    for (u32 wave = 0; wave < WAVES; wave++) {
                        u32 rows = (group * WAVES + wave) * 64;
                        float sa_low = shared_load(shared.scale_a(stage) + (rows + row) * 4);
                        float sa_high = shared_load(shared.scale_a(stage) + (rows + row + 8) * 4);
                        wgmma_fence();
                        #pragma unroll
                        for (u32 step = 0; step < BLOCK_K / 32; step++) {
                            wgmma(chain, shared.a(stage) + rows * BLOCK_K + step * 32, shared.b(stage) + step * 32, step > 0);
                        }
                        wgmma_commit();
                        wgmma_wait();
                        if (wave + 1 == WAVES && lane == 0) barrier_arrive(shared.empty(stage));
                        float low = __fmul_rn(sa_low, sb), high = __fmul_rn(sa_high, sb);
                        #pragma unroll
                        for (u32 i = 0; i < BLOCK_N / 2; i++) {
                            acc[wave][i] = __fmaf_rn(i % 4 < 2 ? low : high, chain[i], acc[wave][i]);
                        }
                    }
                }
            }
            if (lane == 0) barrier_arrive(shared.scale_empty(slot));
            slot ^= 1;
            if (slot == 0) scale_phase ^= 1;

            // The previous tile's store must have left shared memory.
            if (warp_in_group == 0 && elect()) tma_store_wait_read();
            warpgroup_sync(group);
            #pragma unroll
            for (u32 wave = 0; wave < WAVES; wave++) {
                u32 d = shared.d() + (group * WAVES + wave) * 64 * BLOCK_N * 2;
                #pragma unroll
                for (u32 i = 0; i < BLOCK_N / 2; i += 8) {
                    u32 line = warp_in_group * 16 + lane % 16;
                    u32 chunk = i / 4 + lane / 16;
                    u32 address = d + chunk / 8 * D_ATOM + line * 128 + (chunk % 8 ^ line % 8) * 16;
                    float* r = acc[wave] + i;
                    store_matrix(address, pack_bf16(r[0], r[1]), pack_bf16(r[2], r[3]), pack_bf16(r[4], r[5]),
                                 pack_bf16(r[6], r[7]));
                }
            }
            fence_async_proxy();
            warpgroup_sync(group);
            if (warp_in_group == 0 && elect()) {
                #pragma unroll
                for (u32 wave = 0; wave < WAVES; wave++) {
                    u32 rows = (group * WAVES + wave) * 64;
                    #pragma unroll
                    for (u32 atom = 0; atom < BLOCK_N / 64; atom++) {
                        tma_store(&map_d, tile.n * BLOCK_N + atom * 64, tile.m * BLOCK_M + rows,
                                  shared.d() + rows * BLOCK_N * 2 + atom * D_ATOM);
                    }
                }
                tma_store_commit();
            }
        }
        if (warp_in_group == 0 && elect()) tma_store_wait_read();
    }
}
