// The least that a GEMM with few rows of A must do, and no arithmetic: read the weights and A once, then
// write as many bytes as D has. Its time is the floor that a decode kernel is held against.
//
// One CTA on each SM. One thread moves 16 KB pieces into a ring of shared memory by bulk copies and
// takes the next slot again as soon as its piece is there; nobody looks at the bytes. Pieces go round
// the CTAs, so that at any time all of them read one stretch of memory. When its pieces are there,
// a CTA stores its part of D with 16-byte stores.

// Sizes are multiples of 16 bytes, pointers too.
struct StreamArguments {
    const u8* weights;
    u64 weights_bytes;
    const u8* a;
    u64 a_bytes;
    u8* d;
    u64 d_bytes;
    u64 policy;  // of loads, for L2
};

DEVICE void bulk_load(u32 to, const u8* from, u32 bytes, u32 barrier, u64 policy) {
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, [%3], %4;" ::"r"(to), "l"(from),
        "r"(bytes), "r"(barrier), "l"(policy)
        : "memory");
}

// Piece number `piece` of the weights, then of A, into its slot.
DEVICE void load_piece(const StreamArguments& x, u64 piece, u32 slot, u32 barrier) {
    const u64 of_weights = (x.weights_bytes + PIECE - 1) / PIECE;
    const bool is_a = piece >= of_weights;
    const u64 first = (is_a ? piece - of_weights : piece) * PIECE;
    const u64 rest = (is_a ? x.a_bytes : x.weights_bytes) - first;
    const u32 bytes = rest < PIECE ? u32(rest) : PIECE;
    barrier_arrive_expect(barrier, bytes);
    bulk_load(slot, (is_a ? x.a : x.weights) + first, bytes, barrier, x.policy);
}

extern "C" __global__ void __launch_bounds__(THREADS, 1) fp8gemm_stream(const StreamArguments x) {
    extern __shared__ __align__(128) u8 shared[];
    const u32 ring = shared_address(shared), barriers = ring + SLOTS * PIECE;

    if (threadIdx.x == 0) {
        for (u32 slot = 0; slot < SLOTS; ++slot) barrier_init(barriers + 8 * slot, 1);
        barrier_init_fence();
        const u64 pieces = (x.weights_bytes + PIECE - 1) / PIECE + (x.a_bytes + PIECE - 1) / PIECE;
        u64 next = blockIdx.x;
        for (u32 slot = 0; slot < SLOTS && next < pieces; ++slot, next += gridDim.x) {
            load_piece(x, next, ring + slot * PIECE, barriers + 8 * slot);
        }
        u32 slot = 0, parity = 0;
        for (u64 piece = blockIdx.x; piece < pieces; piece += gridDim.x) {
            const u32 barrier = barriers + 8 * slot;
            barrier_wait(barrier, parity);
            if (next < pieces) {
                load_piece(x, next, ring + slot * PIECE, barrier);
                next += gridDim.x;
            }
            if (++slot == SLOTS) {
                slot = 0;
                parity ^= 1;
            }
        }
    }
    // D comes after all of K.
    __syncthreads();
    const u32 zeros[4] = {};
    const u64 step = u64(gridDim.x) * THREADS * 16;
    for (u64 at = (u64(blockIdx.x) * THREADS + threadIdx.x) * 16; at < x.d_bytes; at += step) store_16(x.d + at, zeros);
}
