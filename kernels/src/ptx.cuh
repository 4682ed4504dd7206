// The PTX instructions that the kernel is made of, one function each. Shared-memory addresses are
// 32-bit throughout: 64-bit generic ones cost conversions in the main loop.

using u8 = unsigned char;
using u16 = unsigned short;
using u32 = unsigned int;
using u64 = unsigned long long;
using i32 = int;

struct alignas(128) TensorMap {
    u8 opaque[128];
};

#define DEVICE static __device__ __forceinline__
#define MEMBER __device__ __forceinline__

// Values of the constants SCALES, OUTPUT and C.
constexpr u32 SCALES_1D2D = 0, SCALES_1D1D = 1, SCALES_AT_END = 2;
constexpr u32 OUTPUT_BF16 = 0, OUTPUT_F16 = 1, OUTPUT_F32 = 2, OUTPUT_NONE = 3;

// ---- mbarriers -------------------------------------------------------------------------------

DEVICE void barrier_init(u32 barrier, u32 count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(count) : "memory");
}

DEVICE void barrier_init_fence() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }

// No `.release.cluster`: that form compiles to MEMBAR.ALL.GPU in every K block.
DEVICE void barrier_arrive(u32 barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

// The same barrier in a CTA of the cluster.
DEVICE void barrier_arrive_remote(u32 barrier, u32 rank) {
    asm volatile(
        "{ .reg .b32 remote; mapa.shared::cluster.u32 remote, %0, %1; mbarrier.arrive.shared::cluster.b64 _, [remote]; }" ::"r"(
            barrier),
        "r"(rank)
        : "memory");
}

DEVICE void barrier_arrive_expect(u32 barrier, u32 bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}

DEVICE bool barrier_try_wait(u32 barrier, u32 parity) {
    u32 done;
    asm volatile(
        "{ .reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2; selp.u32 %0, 1, 0, p; }"
        : "=r"(done)
        : "r"(barrier), "r"(parity)
        : "memory");
    return done != 0;
}

DEVICE void barrier_wait(u32 barrier, u32 parity) {
    while (!barrier_try_wait(barrier, parity)) {
    }
}

// ---- tensor memory accelerator ---------------------------------------------------------------

DEVICE void tma_load(u32 to, const TensorMap* map, u32 x, u32 y, u32 barrier) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(to),
        "l"(map), "r"(x), "r"(y), "r"(barrier)
        : "memory");
}

DEVICE void tma_load_3d(u32 to, const TensorMap* map, u32 x, u32 y, u32 z, u32 barrier) {
    asm volatile(
        "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4}], [%5];" ::"r"(to),
        "l"(map), "r"(x), "r"(y), "r"(z), "r"(barrier)
        : "memory");
}

// With an L2 policy, a word of the host's (fp8gemm-hopper, l2.rs).
DEVICE void tma_load(u32 to, const TensorMap* map, u32 x, u32 y, u32 barrier, u64 policy) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1, {%2, %3}], [%4], %5;" ::"r"(
            to),
        "l"(map), "r"(x), "r"(y), "r"(barrier), "l"(policy)
        : "memory");
}

DEVICE void tma_load_3d(u32 to, const TensorMap* map, u32 x, u32 y, u32 z, u32 barrier, u64 policy) {
    asm volatile(
        "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1, {%2, %3, %4}], [%5], "
        "%6;" ::"r"(to),
        "l"(map), "r"(x), "r"(y), "r"(z), "r"(barrier), "l"(policy)
        : "memory");
}

// Into the same place of every CTA in `mask`, completing on the same barrier of each.
DEVICE void tma_load_multicast(u32 to, const TensorMap* map, u32 x, u32 y, u32 barrier, u16 mask) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1, {%2, %3}], "
        "[%4], %5;" ::"r"(to),
        "l"(map), "r"(x), "r"(y), "r"(barrier), "h"(mask)
        : "memory");
}

DEVICE void tma_store(const TensorMap* map, u32 x, u32 y, u32 from) {
    asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%1, %2}], [%3];" ::"l"(map), "r"(x), "r"(y),
                 "r"(from)
                 : "memory");
}

DEVICE void tma_store_3d(const TensorMap* map, u32 x, u32 y, u32 z, u32 from) {
    asm volatile("cp.async.bulk.tensor.3d.global.shared::cta.bulk_group [%0, {%1, %2, %3}], [%4];" ::"l"(map), "r"(x), "r"(y),
                 "r"(z), "r"(from)
                 : "memory");
}

DEVICE void tma_store_commit() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }

// Until shared memory may be overwritten; the bytes may still be on their way.
DEVICE void tma_store_wait_read() { asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory"); }

DEVICE void fence_async_proxy() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// ---- warpgroups ------------------------------------------------------------------------------

DEVICE void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
DEVICE void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

// Until at most PENDING groups are under way.
template <u32 PENDING = 0>
DEVICE void wgmma_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
}

// Calls `done` for each of GROUPS groups of wgmma when it is; LATER ones have been issued after them.
template <u32 GROUPS, u32 LATER = 0, u32 DONE = 0, class F>
DEVICE void in_order(const F& done) {
    if constexpr (DONE < GROUPS) {
        wgmma_wait<LATER + GROUPS - 1 - DONE>();
        done(DONE);
        in_order<GROUPS, LATER, DONE + 1>(done);
    }
}

template <u32 REGISTERS>
DEVICE void registers_grow() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(REGISTERS));
}

template <u32 REGISTERS>
DEVICE void registers_shrink() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(REGISTERS));
}

// True in one lane of a converged warp.
DEVICE bool elect() {
    u32 elected;
    asm volatile("{ .reg .pred p; elect.sync _|p, 0xFFFFFFFF; selp.u32 %0, 1, 0, p; }" : "=r"(elected));
    return elected != 0;
}

// The 128 threads of one math warpgroup; barrier 0 belongs to __syncthreads.
DEVICE void warpgroup_sync(u32 group) { asm volatile("bar.sync %0, 128;" ::"r"(group + 1) : "memory"); }

// Two math warpgroups that take turns: one waits, the other passes its turn on and goes on.
DEVICE void turn_await(u32 group) { asm volatile("bar.sync %0, 256;" ::"r"(group + 3) : "memory"); }
DEVICE void turn_pass(u32 group) { asm volatile("bar.arrive %0, 256;" ::"r"(group + 3) : "memory"); }

// Of all threads of a CTA, of which one warp goes on:
template <u32 THREADS>
DEVICE void all_await() { asm volatile("bar.sync 6, %0;" ::"n"(THREADS) : "memory"); }
template <u32 THREADS>
DEVICE void all_pass() { asm volatile("bar.arrive 6, %0;" ::"n"(THREADS) : "memory"); }
// Of 256 threads, of which half go on (decode.cu):
DEVICE void results_await(u32 barrier) { asm volatile("bar.sync %0, 256;" ::"r"(barrier) : "memory"); }
DEVICE void results_pass(u32 barrier) { asm volatile("bar.arrive %0, 256;" ::"r"(barrier) : "memory"); }

DEVICE u32 cluster_rank() {
    u32 rank;
    asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
}

DEVICE void cluster_sync() {
    asm volatile("barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;" ::: "memory");
}

// The same place in the shared memory of a CTA of the cluster.
DEVICE u32 remote(u32 address, u32 rank) {
    u32 there;
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(address), "r"(rank));
    return there;
}

DEVICE void store_remote(u32 address, float value) {
    asm volatile("st.shared::cluster.f32 [%0], %1;" ::"r"(address), "f"(value) : "memory");
}

DEVICE void grid_wait() { asm volatile("griddepcontrol.wait;" ::: "memory"); }
DEVICE void grid_launch_dependents() { asm volatile("griddepcontrol.launch_dependents;" ::: "memory"); }

// ---- data ------------------------------------------------------------------------------------

DEVICE u32 shared_address(const void* pointer) {
    u32 address;
    asm("{ .reg .u64 t; cvta.to.shared.u64 t, %1; cvt.u32.u64 %0, t; }" : "=r"(address) : "l"(pointer));
    return address;
}

DEVICE float shared_load(u32 address) {
    float value;
    asm volatile("ld.shared.f32 %0, [%1];" : "=f"(value) : "r"(address));
    return value;
}

DEVICE void shared_load(u32 address, float& low, float& high) {
    asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];" : "=f"(low), "=f"(high) : "r"(address));
}

DEVICE u32 shared_load_word(u32 address) {
    u32 word;
    asm volatile("ld.shared.u32 %0, [%1];" : "=r"(word) : "r"(address) : "memory");
    return word;
}

DEVICE void shared_store_word(u32 address, u32 word) {
    asm volatile("st.shared.u32 [%0], %1;" ::"r"(address), "r"(word) : "memory");
}

DEVICE void shared_load(u32 address, u32 (&words)[4]) {
    asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
                 : "r"(address)
                 : "memory");
}

DEVICE void shared_load(u32 address, float (&values)[4]) {
    asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];"
                 : "=f"(values[0]), "=f"(values[1]), "=f"(values[2]), "=f"(values[3])
                 : "r"(address)
                 : "memory");
}

DEVICE void shared_store(u32 address, float low, float high) {
    asm volatile("st.shared.v2.f32 [%0], {%1, %2};" ::"r"(address), "f"(low), "f"(high) : "memory");
}

DEVICE void shared_load(u32 address, u32& low, u32& high) {
    asm volatile("ld.shared.v2.u32 {%0, %1}, [%2];" : "=r"(low), "=r"(high) : "r"(address) : "memory");
}

DEVICE void shared_store(u32 address, u32 low, u32 high) {
    asm volatile("st.shared.v2.u32 [%0], {%1, %2};" ::"r"(address), "r"(low), "r"(high) : "memory");
}

DEVICE void shared_store(u32 address, float value) {
    asm volatile("st.shared.f32 [%0], %1;" ::"r"(address), "f"(value) : "memory");
}

// Four bytes from global to shared memory, in the background.
DEVICE void copy_word(u32 to, const float* from) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(to), "l"(from) : "memory");
}

// Until the thread's own copies are there.
DEVICE void copy_wait() { asm volatile("cp.async.wait_all;" ::: "memory"); }

DEVICE void store_matrix(u32 address, u32 a, u32 b, u32 c, u32 d) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(a), "r"(b), "r"(c),
                 "r"(d)
                 : "memory");
}

// An 8x8 matrix of 16-bit elements, two neighbours in a row from each lane, with rows and columns exchanged.
DEVICE u32 transpose(u32 pair) {
    u32 transposed;
    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(transposed) : "r"(pair));
    return transposed;
}

// Two values rounded to nearest even; any NaN becomes 7FFF.
DEVICE u32 pack_bf16(float low, float high) {
    u32 packed;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
    return packed;
}

DEVICE u32 pack_f16(float low, float high) {
    u32 packed;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
    return packed;
}

// Elements of C, widened exactly. Not by the non-coherent path: C may be D, which this kernel writes.
DEVICE float load_f32(const float* from) {
    float value;
    asm volatile("ld.global.f32 %0, [%1];" : "=f"(value) : "l"(from));
    return value;
}

DEVICE u16 load_16(const u16* from) {
    u16 bits;
    asm volatile("ld.global.u16 %0, [%1];" : "=h"(bits) : "l"(from));
    return bits;
}

DEVICE float load_bf16(const u16* from) { return __uint_as_float(u32(load_16(from)) << 16); }

DEVICE float widen_f16(u16 bits) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
}

DEVICE float load_f16(const u16* from) { return widen_f16(load_16(from)); }

DEVICE void load_4(const float* from, float* to) {
    asm volatile("ld.global.v4.f32 {%0, %1, %2, %3}, [%4];" : "=f"(to[0]), "=f"(to[1]), "=f"(to[2]), "=f"(to[3]) : "l"(from));
}

// Not in their order, and seen after the flag that goes with them.
DEVICE void load_4_swapped(const float* from, float* to) {
    asm volatile("ld.global.v4.f32 {%1, %0, %3, %2}, [%4];" : "=f"(to[0]), "=f"(to[1]), "=f"(to[2]), "=f"(to[3]) : "l"(from) : "memory");
}

DEVICE void load_bf16_4(const u16* from, float* to) {
    u32 low, high;
    asm volatile("ld.global.v2.u32 {%0, %1}, [%2];" : "=r"(low), "=r"(high) : "l"(from));
    to[0] = __uint_as_float(low << 16);
    to[1] = __uint_as_float(low & 0xFFFF0000);
    to[2] = __uint_as_float(high << 16);
    to[3] = __uint_as_float(high & 0xFFFF0000);
}

DEVICE void load_f16_4(const u16* from, float* to) {
    u16 h[4];
    asm volatile("ld.global.v4.u16 {%0, %1, %2, %3}, [%4];" : "=h"(h[0]), "=h"(h[1]), "=h"(h[2]), "=h"(h[3]) : "l"(from));
    #pragma unroll
    for (u32 i = 0; i < 4; i++) asm("cvt.f32.f16 %0, %1;" : "=f"(to[i]) : "h"(h[i]));
}

DEVICE void store_16(void* to, const u32 (&words)[4]) {
    asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(to), "r"(words[0]), "r"(words[1]), "r"(words[2]), "r"(words[3]) : "memory");
}

DEVICE void store_8(void* to, const u32 (&words)[4]) {
    asm volatile("st.global.v2.u32 [%0], {%1, %2};" ::"l"(to), "r"(words[0]), "r"(words[1]) : "memory");
}

// ---- handing over between CTAs ---------------------------------------------------------------

DEVICE void flag_raise(u32* flag) { asm volatile("st.release.gpu.global.u32 [%0], 1;" ::"l"(flag) : "memory"); }

DEVICE void flag_lower(u32* flag) { asm volatile("st.relaxed.gpu.global.u32 [%0], 0;" ::"l"(flag) : "memory"); }

DEVICE bool flag_is_up(const u32* flag) {
    u32 value;
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(flag) : "memory");
    return value != 0;
}

DEVICE void fence_gpu() { asm volatile("fence.acq_rel.gpu;" ::: "memory"); }
