// D[16, 8] = A[16, K] B[8, K]^T + C by one warp's `mma.sync`, K = 32 for each of STEPS in a chain. On
// Hopper this is no FP8 instruction: the compiler makes conversions and f16 instructions of it.

extern "C" __global__ void __launch_bounds__(32, 1) fp8gemm_mma(const __grid_constant__ InstructionArguments arguments) {
    u32 row = threadIdx.x / 4;
    const u8* a = arguments.a + u64(blockIdx.x) * 16 * K;
    const u8* b = arguments.b + u64(blockIdx.x) * 8 * K;
    const Pair* c = static_cast<const Pair*>(arguments.c) + first_pair(16, 8, row);
    Accumulator acc;
    #pragma unroll
    for (u32 pair = 0; pair < 2; pair++) set(acc, pair, c[offset(8, pair)]);
    // `mma` has no scale-d.
    if (arguments.accumulate == 0) clear(acc);
    #pragma unroll
    for (u32 step = 0; step < STEPS; step++) {
        u32 from_a[4], from_b[2];
        fragment_of_a(from_a, a + row * K, step * 32);
        #pragma unroll
        for (u32 i = 0; i < 2; i++) from_b[i] = word(b + row * K, step * 32 + i * 16 + threadIdx.x % 4 * 4);
        multiply(acc, from_a, from_b);
    }
    Pair* d = static_cast<Pair*>(arguments.d) + first_pair(16, 8, row);
    #pragma unroll
    for (u32 pair = 0; pair < 2; pair++) d[offset(8, pair)] = get(acc, pair);
}
