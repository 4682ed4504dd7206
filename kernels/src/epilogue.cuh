// From accumulators to D.
//
//   SCALES_AT_END  r = fl(fl(sa * sb) * acc), else r = acc
//   alpha, beta, C r = fl(alpha * r) if alpha != 1; r = fma(beta, c, r) if beta != 0
//   D              one cast to nearest even
//
// Where TMA's rules hold for D (and C, of D's type), tiles of both lie in shared memory as TMA has
// them, in atoms of 64 rows and 128 bytes. The moving warp loads C there while the tile is being
// computed, and stores D from there while the next one is; a math thread only exchanges its own
// elements.
//
// Elsewhere each warp brings 16 rows at a time through its own 2 KB of shared memory, 128 bytes of each row,
// so that lines of D and C are touched whole. No other warp takes part. What lies outside D is
// neither read nor written, and D may have any alignment.

constexpr u32 D_SIZE = OUTPUT == OUTPUT_F32 ? 4 : 2;
constexpr u32 C_SIZE = C == OUTPUT_F32 ? 4 : 2;

DEVICE u32 pack(float low, float high) { return OUTPUT == OUTPUT_F16 ? pack_f16(low, high) : pack_bf16(low, high); }

// ---- through tensor maps ---------------------------------------------------------------------

constexpr u32 ATOM = 64 * 128;
constexpr u32 ATOM_COLUMNS = 128 / D_SIZE;
constexpr u32 ATOMS = (BLOCK_N + ATOM_COLUMNS - 1) / ATOM_COLUMNS;
constexpr u32 WAVE_BYTES = ATOMS * ATOM;
constexpr u32 BOX_ROWS = BLOCK_M < 64 ? BLOCK_M : 64;  // of an atom, that are in the tile

static_assert(!STORE_TMA || C == OUTPUT_NONE || C == OUTPUT, "C takes the place of D");

struct TmaEpilogue {
    const Arguments& arguments;
    u32 warp, lane;

    // 64 rows at `from` in shared memory; `row` and `column` are those of the first element in D.
    MEMBER void wave(u32 from, const float (&acc)[BLOCK_N / 2], u32 row, u32 column) const {
        if constexpr (OUTPUT != OUTPUT_F32 && C == OUTPUT_NONE && SCALES != SCALES_AT_END) {
            u32 line = warp * 16 + lane % 16;
            #pragma unroll
            for (u32 group = 0; group < BLOCK_N / 8; group += 2) {
                bool pair = group + 1 < BLOCK_N / 8;
                float s[8];
                #pragma unroll
                for (u32 i = 0; i < 8; i++) {
                    s[i] = pair || i < 4 ? acc[group * 4 + i] : 0.0f;
                    if (arguments.alpha != 1.0f) s[i] = __fmul_rn(arguments.alpha, s[i]);
                }
                u32 chunk = group + lane / 16;
                store_matrix(from + chunk / 8 * ATOM + line * 128 + (chunk % 8 ^ line % 8) * 16, pack(s[0], s[1]), pack(s[2], s[3]),
                             pack(s[4], s[5]), pack(s[6], s[7]));
            }
        } else {
            #pragma unroll
            for (u32 half = 0; half < 2; half++) {
                u32 line = warp * 16 + lane / 4 + half * 8;
                float sa = 0.0f;
                if constexpr (SCALES == SCALES_AT_END) {
                    // Rows and columns beyond D are clipped; their scales only must exist.
                    sa = __ldg(arguments.scales_a + u64(min(row + line, arguments.m - 1)) * arguments.scales_a_step);
                }
                #pragma unroll
                for (u32 group = 0; group < BLOCK_N / 8; group++) {
                    float r[2];
                    u32 byte = (group * 8 + lane % 4 * 2) * D_SIZE;
                    u32 at = from + byte / 128 * ATOM + line * 128 + (byte % 128 / 16 ^ line % 8) * 16 + byte % 16;
                    float c[2] = {0.0f, 0.0f};
                    if constexpr (C == OUTPUT_F32) shared_load(at, c[0], c[1]);
                    else if constexpr (C != OUTPUT_NONE) unpack(shared_load_word(at), c);
                    #pragma unroll
                    for (u32 i = 0; i < 2; i++) {
                        r[i] = acc[group * 4 + half * 2 + i];
                        if constexpr (SCALES == SCALES_AT_END) {
                            u32 j = min(column + group * 8 + lane % 4 * 2 + i, arguments.n - 1);
                            float sb = __ldg(arguments.scales_b + u64(j) * arguments.scales_b_step);
                            r[i] = __fmul_rn(__fmul_rn(sa, sb), r[i]);
                        }
                        if (arguments.alpha != 1.0f) r[i] = __fmul_rn(arguments.alpha, r[i]);
                        if constexpr (C != OUTPUT_NONE) r[i] = __fmaf_rn(arguments.beta, c[i], r[i]);
                    }
                    if constexpr (OUTPUT == OUTPUT_F32) shared_store(at, r[0], r[1]);
                    else shared_store_word(at, pack(r[0], r[1]));
                }
            }
        }
    }

private:
    MEMBER static void unpack(u32 word, float (&c)[2]) {
        if constexpr (C == OUTPUT_BF16) {
            c[0] = __uint_as_float(word << 16);
            c[1] = __uint_as_float(word & 0xFFFF0000);
        } else {
            c[0] = widen_f16(word & 0xFFFF);
            c[1] = widen_f16(word >> 16);
        }
    }
};

// One thread's part: C in, D out.
struct WaveOfD {
    const Arguments& arguments;
    u32 from, row, column;

    MEMBER void load(u32 barrier) const {
        #pragma unroll 1
        for (u32 i = 0; i < ATOMS; i++) tma_load(from + i * ATOM, &arguments.c, column + i * ATOM_COLUMNS, row, barrier);
    }

    MEMBER void store() const {
        bool whole = column + BLOCK_N <= arguments.n;
        #pragma unroll 1
        for (u32 i = 0; i < ATOMS; i++) {
            if (BLOCK_N % ATOM_COLUMNS != 0 && whole) {
                tma_store_3d(&arguments.d_tiles, i * ATOM_COLUMNS, column / BLOCK_N, row, from + i * ATOM);
            } else {
                tma_store(&arguments.d, column + i * ATOM_COLUMNS, row, from + i * ATOM);
            }
        }
    }
};

// ---- by each warp for itself -----------------------------------------------------------------

constexpr u32 STAGING_ROW = 128;
constexpr u32 STAGING = 16 * STAGING_ROW;

// Elements wait as f32 where something is done to them on the way.
constexpr bool STAGED_F32 = OUTPUT == OUTPUT_F32 || C != OUTPUT_NONE || SCALES == SCALES_AT_END;
constexpr u32 BATCH = STAGED_F32 ? 32 : 64;  // columns
constexpr u32 BATCHES = (BLOCK_N + BATCH - 1) / BATCH;
constexpr u32 LANE_COLUMNS = 16 / (STAGED_F32 ? 4 : 2);
// Where much is done to an element, four times the code would take a second to compile.
constexpr u32 LINES_AT_ONCE = C != OUTPUT_NONE || SCALES == SCALES_AT_END ? 1 : 4;

DEVICE float load_c(const Arguments& arguments, u64 index) {
    if constexpr (C == OUTPUT_F32) return load_f32(static_cast<const float*>(arguments.c_elements) + index);
    else if constexpr (C == OUTPUT_BF16) return load_bf16(static_cast<const u16*>(arguments.c_elements) + index);
    else return load_f16(static_cast<const u16*>(arguments.c_elements) + index);
}

struct DirectEpilogue {
    const Arguments& arguments;
    u32 staging, lane;
    bool d_lines, c_lines;  // whether 16-byte chunks of D, and what C has for them, are aligned

    MEMBER DirectEpilogue(const Arguments& arguments, u32 staging, u32 lane) : arguments(arguments), staging(staging), lane(lane) {
        d_lines = ((u64(arguments.d_elements) | arguments.d_stride * D_SIZE) & (LANE_COLUMNS * D_SIZE - 1)) == 0;
        c_lines = ((u64(arguments.c_elements) | arguments.c_stride * C_SIZE) & (LANE_COLUMNS * C_SIZE - 1)) == 0;
    }

    // 16 rows of a wave, those before `end`; each thread holds, for each 8 columns, two neighbours of row lane / 4 and
    // two of the row 8 below.
    MEMBER void rows(const float (&acc)[BLOCK_N / 2], u32 row, u32 column, u32 end) const {
        #pragma unroll
        for (u32 batch = 0; batch < BATCHES; batch++) {
            constexpr u32 LANES = STAGING_ROW / 16;
            u32 at = column + batch * BATCH + lane % LANES * LANE_COLUMNS;
            bool inside = lane % LANES * LANE_COLUMNS + batch * BATCH < BLOCK_N && at < arguments.n;
            __syncwarp();
            write_fragments(acc, batch);
            __syncwarp();
            #pragma unroll LINES_AT_ONCE
            for (u32 i = 0; i < 4; i++) {
                u32 line = i * 4 + lane / LANES;
                u32 words[4];
                shared_load(staging + line * STAGING_ROW + (lane % LANES ^ swizzle(line)) * 16, words);
                if (inside && row + line < end) write_d(words, row + line, at);
            }
        }
    }

private:
    // Which chunks of a row change places, so that neither side meets bank conflicts.
    MEMBER static u32 swizzle(u32 line) { return STAGED_F32 ? line % 4 * 2 : line % 8; }

    MEMBER void write_fragments(const float (&acc)[BLOCK_N / 2], u32 batch) const {
        float alpha = arguments.alpha;
        #pragma unroll
        for (u32 group = 0; group < BATCH / 8; group += STAGED_F32 ? 1 : 2) {
            u32 first = (batch * BATCH / 8 + group) * 4;
            if (first >= BLOCK_N / 2) break;
            const float* r = acc + first;
            if constexpr (STAGED_F32) {
                #pragma unroll
                for (u32 half = 0; half < 2; half++) {
                    u32 line = lane / 4 + half * 8;
                    u32 chunk = group * 2 + lane % 4 / 2;
                    // Neighbours change places on the way through: stored in order, they would sit in
                    // registers that meet those of the chain in the same bank.
                    shared_store(staging + line * STAGING_ROW + (chunk ^ swizzle(line)) * 16 + lane % 2 * 8, r[half * 2 + 1], r[half * 2]);
                }
            } else {
                bool pair = first + 4 < BLOCK_N / 2;
                float s[8];
                #pragma unroll
                for (u32 i = 0; i < 8; i++) {
                    s[i] = pair || i < 4 ? r[i] : 0.0f;
                    if (alpha != 1.0f) s[i] = __fmul_rn(alpha, s[i]);
                }
                u32 line = lane % 16;
                u32 to = staging + line * STAGING_ROW + (group + lane / 16 ^ swizzle(line)) * 16;
                store_matrix(to, pack(s[0], s[1]), pack(s[2], s[3]), pack(s[4], s[5]), pack(s[6], s[7]));
            }
        }
    }

    MEMBER void read_c(float (&c)[LANE_COLUMNS], u32 row, u32 at) const {
        u64 index = row * arguments.c_stride + at;
        if (c_lines && at + LANE_COLUMNS <= arguments.n) {
            if constexpr (C == OUTPUT_F32) load_4(static_cast<const float*>(arguments.c_elements) + index, c);
            else if constexpr (C == OUTPUT_BF16) load_bf16_4(static_cast<const u16*>(arguments.c_elements) + index, c);
            else load_f16_4(static_cast<const u16*>(arguments.c_elements) + index, c);
        } else {
            #pragma unroll
            for (u32 i = 0; i < LANE_COLUMNS; i++) {
                if (at + i < arguments.n) c[i] = load_c(arguments, index + i);
            }
        }
    }

    MEMBER void write_d(u32 (&words)[4], u32 row, u32 at) const {
        if constexpr (STAGED_F32) {
            float c[LANE_COLUMNS];
            if constexpr (C != OUTPUT_NONE) read_c(c, row, at);
            float r[4];
            #pragma unroll
            for (u32 i = 0; i < 4; i++) {
                r[i] = __uint_as_float(words[i ^ 1]);
                if constexpr (SCALES == SCALES_AT_END) {
                    float sa = __ldg(arguments.scales_a + u64(row) * arguments.scales_a_step);
                    float sb = at + i < arguments.n ? __ldg(arguments.scales_b + u64(at + i) * arguments.scales_b_step) : 0.0f;
                    r[i] = __fmul_rn(__fmul_rn(sa, sb), r[i]);
                }
                if (arguments.alpha != 1.0f) r[i] = __fmul_rn(arguments.alpha, r[i]);
                if constexpr (C != OUTPUT_NONE) r[i] = __fmaf_rn(arguments.beta, c[i], r[i]);
            }
            if constexpr (OUTPUT == OUTPUT_F32) {
                #pragma unroll
                for (u32 i = 0; i < 4; i++) words[i] = __float_as_uint(r[i]);
            } else {
                words[0] = pack(r[0], r[1]);
                words[1] = pack(r[2], r[3]);
            }
        }
        constexpr u32 WORDS = LANE_COLUMNS * D_SIZE / 4;
        u8* to = static_cast<u8*>(arguments.d_elements) + (row * arguments.d_stride + at) * D_SIZE;
        if (d_lines && at + LANE_COLUMNS <= arguments.n) {
            if constexpr (WORDS == 4) store_16(to, words);
            else store_8(to, words);
        } else {
            #pragma unroll
            for (u32 i = 0; i < LANE_COLUMNS; i++) {
                if (at + i >= arguments.n) break;
                if constexpr (D_SIZE == 4) reinterpret_cast<u32*>(to)[i] = words[i];
                else reinterpret_cast<u16*>(to)[i] = u16(words[i / 2] >> i % 2 * 16);
            }
        }
    }
};
