// What the kernels have in common that run one tensor-core instruction, or a chain of them, on many
// independent tiles: probes of the hardware. Nothing is scaled, promoted or converted on the way.
//
// Operands are bytes, K-major; C and D have the accumulator's type. A tile is a CTA's.

constexpr u32 K = 32 * STEPS;

struct InstructionArguments {
    const u8* a;
    const u8* b;
    const void* c;
    void* d;
    u32 accumulate;  // the first instruction's scale-d
};

// Where a thread has its accumulators in C and D, in pairs of neighbours: the first pair, and how far
// from it another lies. Pairs are columns 8 apart, each in two rows 8 apart.
DEVICE u64 first_pair(u32 rows, u32 columns, u32 row) {
    return ((u64(blockIdx.x) * rows + row) * columns + threadIdx.x % 4 * 2) / 2;
}

DEVICE constexpr u32 offset(u32 columns, u32 pair) { return (pair % 2 * 8 * columns + pair / 2 * 8) / 2; }

DEVICE u32 word(const u8* row, u32 byte) { return *reinterpret_cast<const u32*>(row + byte); }

// Four bytes of K for each thread, in rows 8 apart and at K 16 apart.
DEVICE void fragment_of_a(u32 (&fragment)[4], const u8* row, u32 k) {
    #pragma unroll
    for (u32 i = 0; i < 4; i++) fragment[i] = word(row + i % 2 * 8 * K, k + i / 2 * 16 + threadIdx.x % 4 * 4);
}
