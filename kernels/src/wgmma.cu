// D[64, N] = A[64, K] B[N, K]^T + C by one warpgroup's `wgmma`, K = 32 for each of STEPS in a chain.

extern "C" __global__ void __launch_bounds__(128, 1) fp8gemm_wgmma(const __grid_constant__ InstructionArguments arguments) {
    // Rows of 128 bytes, the chunks of 16 in the order of the 128-byte swizzle: as TMA brings them.
    __shared__ alignas(1024) u8 memory[(64 + BLOCK_N) * 128];
    u32 row = threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4;
    const u8* a = arguments.a + u64(blockIdx.x) * 64 * K;
    const u8* b = arguments.b + u64(blockIdx.x) * BLOCK_N * K;
    for (u32 i = threadIdx.x; i < (64 + BLOCK_N) * (K / 16); i += 128) {
        u32 line = i / (K / 16), chunk = i % (K / 16);
        const u8* from = line < 64 ? a + line * K : b + (line - 64) * K;
        *reinterpret_cast<uint4*>(memory + line * 128 + (chunk ^ line % 8) * 16) = *reinterpret_cast<const uint4*>(from + chunk * 16);
    }
    fence_async_proxy();
    __syncthreads();

    const Pair* c = static_cast<const Pair*>(arguments.c) + first_pair(64, BLOCK_N, row);
    Accumulator acc;
    #pragma unroll
    for (u32 pair = 0; pair < BLOCK_N / 4; pair++) set(acc, pair, c[offset(BLOCK_N, pair)]);
    // For A in registers.
    u32 fragments[STEPS][4];
    #pragma unroll
    for (u32 step = 0; step < STEPS; step++) fragment_of_a(fragments[step], a + row * K, step * 32);

    u32 at_a = descriptor(shared_address(memory)), at_b = descriptor(shared_address(memory) + 64 * 128);
    wgmma_fence();
    #pragma unroll
    for (u32 step = 0; step < STEPS; step++) {
        multiply(acc, fragments[step], at_a + step * 2, at_b + step * 2, step > 0 || arguments.accumulate != 0);
    }
    wgmma_commit();
    wgmma_wait();
    Pair* d = static_cast<Pair*>(arguments.d) + first_pair(64, BLOCK_N, row);
    #pragma unroll
    for (u32 pair = 0; pair < BLOCK_N / 4; pair++) d[offset(BLOCK_N, pair)] = get(acc, pair);
}
