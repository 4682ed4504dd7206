// Reads a stretch of memory once and keeps nothing: afterwards the L2 cache is full of lines that are not
// the operands and, unlike after a memset, need no write-back.

struct ReadArguments {
    const u8* from;
    u64 bytes;  // a multiple of 16
};

extern "C" __global__ void __launch_bounds__(THREADS) fp8gemm_read(const ReadArguments x) {
    const u64 step = u64(gridDim.x) * THREADS * 16;
    for (u64 at = (u64(blockIdx.x) * THREADS + threadIdx.x) * 16; at < x.bytes; at += step) {
        // Volatile: nobody uses the value, and the load must stay.
        u32 a, b, c, d;
        asm volatile("ld.global.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(a), "=r"(b), "=r"(c), "=r"(d) : "l"(x.from + at));
    }
}
