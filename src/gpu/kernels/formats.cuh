// How the weights of every GGUF type become floats in registers.
//
// A lane's share of a block is a unit: `RUNS` runs of eight consecutive elements, chosen so that every byte of the block is read once by one lane
// (a byte that holds two nibbles of elements 32 apart gives a unit two runs). `load` brings a unit into registers as it is, `run` makes
// eight floats of it, `column` says where in the block they belong. Blocks are read in the widest pieces that their size allows: their
// addresses are multiples of `ALIGN` only. The matrices themselves begin at multiples of 16. Values are those of
// `kernels::dequantize` but for the one rounding that a fused multiply-add saves in types with an offset.
#pragma once

#include "grids.cuh"
#include "simt.cuh"

DEVICE uint32_t word16(const uint8_t* p) { return read_only((const uint16_t*)p); }
DEVICE uint32_t word32(const uint8_t* p) { return read_only((const uint32_t*)p); }
DEVICE float half_at(const uint8_t* p) { return half_float((uint16_t)word16(p)); }

/// Four bytes from an address that is a multiple of ALIGN, 2 at least.
template <int ALIGN> DEVICE uint32_t word_at(const uint8_t* p) {
    if (ALIGN >= 4) return word32(p);
    return word16(p) | word16(p + 2) << 16;
}

/// Eight bytes from an address that is a multiple of ALIGN.
template <int ALIGN> DEVICE Word2 words_at(const uint8_t* p) {
    if (ALIGN >= 8) {
        const uint64_t v = read_only((const unsigned long long*)p);
        return {(uint32_t)v, (uint32_t)(v >> 32)};
    }
    if (ALIGN >= 2) return {word_at<ALIGN>(p), word_at<ALIGN>(p + 4)};
    // Two or three words hold them, whose other bytes are not used: a word with one byte of an allocation has no byte beyond its page.
    const uint32_t skip = (uintptr_t)p & 3, order = 0x3210 + 0x1111 * skip;
    const uint8_t* at = p - skip;
    const uint32_t a = word32(at), b = word32(at + 4), c = word32(skip ? at + 8 : at);
    return {byte_perm(a, b, order), byte_perm(b, c, order)};
}

/// 2^23 as the sum of two values that the compiler can't know, so that it lies in a register: a permutation has room for one constant, which should be the
/// order of its bytes, or there is a move for every weight.
CONSTANT uint32_t BYTES_TO_FLOATS[2] = {0x4B000000, 0};

/// A byte of a word as a float, less `minus`: the byte becomes the last bits of 2^23.
DEVICE float byte_float(uint32_t word, int i, float minus) {
    return bits_float(byte_perm(word, BYTES_TO_FLOATS[0] + BYTES_TO_FLOATS[1], 0x7440 | i)) - (8388608.0f + minus);
}

/// `(byte - minus) * scale` of eight bytes.
DEVICE void scaled(Word2 q, float minus, float scale, float (&w)[8]) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
        w[i] = byte_float(q.x, i, minus) * scale;
        w[i + 4] = byte_float(q.y, i, minus) * scale;
    }
}

/// `byte * scale + offset` of eight bytes.
DEVICE void affine(Word2 q, float scale, float offset, float (&w)[8]) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
        w[i] = fmaf(byte_float(q.x, i, 0), scale, offset);
        w[i + 4] = fmaf(byte_float(q.y, i, 0), scale, offset);
    }
}

DEVICE Word2 masked(Word2 q, int shift, uint32_t mask) { return {q.x >> shift & mask, q.y >> shift & mask}; }
DEVICE Word2 nibbles(Word2 q, int high) { return masked(q, 4 * high, 0x0f0f0f0f); }

/// Four bits, each to the fifth bit of a byte.
DEVICE uint32_t fifth_bits(uint32_t four) { return (four & 1) << 4 | (four & 2) << 11 | (four & 4) << 18 | (four & 8) << 25; }

/// Sixteen signed bytes by nibble, plus 128.
struct Table16 {
    uint32_t a, b, c, d;
};
DEVICE uint32_t pick4(Table16 t, uint32_t q) {
    const uint32_t low = q & 0x7777;
    return byte_perm(byte_perm(t.a, t.b, low), byte_perm(t.c, t.d, low), 0x3210 | (q & 0x8888) >> 1);
}
/// Table entries of the low (or high) nibbles of eight bytes.
DEVICE Word2 picked(Table16 t, Word2 q, int high) {
    const uint32_t order = high ? 0x7531 : 0x6420;
    return {byte_perm(pick4(t, q.x & 0xffff), pick4(t, q.x >> 16), order), byte_perm(pick4(t, q.y & 0xffff), pick4(t, q.y >> 16), order)};
}
DEVICE Table16 iq4_table() { return {0x3f2d1801, 0x766a5d4f, 0xa6998d81, 0xf1d9c5b5}; }
DEVICE Table16 e2m1_table() { return {0x83828180, 0x8c888684, 0x7d7e7f80, 0x74787a7c}; }

// ---- plain floats ----

/// Eight elements at a time where rows allow it, one by one where not (`element`).
struct F32 {
    static constexpr int BYTES = 4, ELEMS = 1, RUNS = 1, STEPS = 1;
    static constexpr bool PLAIN = true;
    struct Raw {
        Word4 a, b;
    };
    static DEVICE float element(const uint8_t* p) { return bits_float(word32(p)); }
    static DEVICE Raw load(const uint8_t* p, int) { return {*(const Word4*)p, *(const Word4*)(p + 16)}; }
    static DEVICE void run(const Raw& r, int, int, float (&w)[8]) {
        w[0] = bits_float(r.a.x), w[1] = bits_float(r.a.y), w[2] = bits_float(r.a.z), w[3] = bits_float(r.a.w);
        w[4] = bits_float(r.b.x), w[5] = bits_float(r.b.y), w[6] = bits_float(r.b.z), w[7] = bits_float(r.b.w);
    }
};

struct F16 {
    static constexpr int BYTES = 2, ELEMS = 1, RUNS = 1, STEPS = 2;
    static constexpr bool PLAIN = true;
    typedef Word4 Raw;
    static DEVICE float element(const uint8_t* p) { return half_at(p); }
    static DEVICE Raw load(const uint8_t* p, int) { return *(const Word4*)p; }
    static DEVICE void run(const Raw& r, int, int, float (&w)[8]) {
        const uint32_t q[4] = {r.x, r.y, r.z, r.w};
#pragma unroll
        for (int i = 0; i < 4; i++) w[2 * i] = half_float((uint16_t)q[i]), w[2 * i + 1] = half_float((uint16_t)(q[i] >> 16));
    }
};

struct BF16 {
    static constexpr int BYTES = 2, ELEMS = 1, RUNS = 1, STEPS = 2;
    static constexpr bool PLAIN = true;
    typedef Word4 Raw;
    static DEVICE float element(const uint8_t* p) { return bits_float(word16(p) << 16); }
    static DEVICE Raw load(const uint8_t* p, int) { return *(const Word4*)p; }
    static DEVICE void run(const Raw& r, int, int, float (&w)[8]) {
        const uint32_t q[4] = {r.x, r.y, r.z, r.w};
#pragma unroll
        for (int i = 0; i < 4; i++) w[2 * i] = bits_float(q[i] << 16), w[2 * i + 1] = bits_float(q[i] & 0xffff0000);
    }
};

// ---- blocks of 32 ----

/// Eight bytes of nibbles: elements 8u.. and 16 + 8u.. of a block of 32.
struct Nibbles32 {
    static constexpr int ELEMS = 32, RUNS = 2, STEPS = 2;
    static constexpr bool PLAIN = false;
    static DEVICE int column(int u, int r) { return 16 * r + 8 * u; }
};

struct Q4_0 : Nibbles32 {
    static constexpr int BYTES = 18;
    struct Raw {
        Word2 q;
        uint32_t d;
    };
    static DEVICE Raw load(const uint8_t* b, int u) { return {words_at<2>(b + 2 + 8 * u), word16(b)}; }
    static DEVICE void run(const Raw& w, int, int r, float (&out)[8]) { scaled(nibbles(w.q, r), 8, half_float((uint16_t)w.d), out); }
};

struct Q4_1 : Nibbles32 {
    static constexpr int BYTES = 20;
    struct Raw {
        Word2 q;
        uint32_t d;
    };
    static DEVICE Raw load(const uint8_t* b, int u) { return {words_at<4>(b + 4 + 8 * u), word32(b)}; }
    static DEVICE void run(const Raw& w, int, int r, float (&out)[8]) {
        affine(nibbles(w.q, r), half_float((uint16_t)w.d), half_float((uint16_t)(w.d >> 16)), out);
    }
};

struct Q5_0 : Nibbles32 {
    static constexpr int BYTES = 22;
    struct Raw {
        Word2 q;
        uint32_t high, d;
    };
    static DEVICE Raw load(const uint8_t* b, int u) { return {words_at<2>(b + 6 + 8 * u), word_at<2>(b + 2), word16(b)}; }
    static DEVICE void run(const Raw& w, int u, int r, float (&out)[8]) {
        const uint32_t high = w.high >> column(u, r);
        Word2 q = nibbles(w.q, r);
        q.x |= fifth_bits(high), q.y |= fifth_bits(high >> 4);
        scaled(q, 16, half_float((uint16_t)w.d), out);
    }
};

struct Q5_1 : Nibbles32 {
    static constexpr int BYTES = 24;
    struct Raw {
        Word2 q;
        uint32_t high, d;
    };
    static DEVICE Raw load(const uint8_t* b, int u) { return {words_at<8>(b + 8 + 8 * u), word32(b + 4), word32(b)}; }
    static DEVICE void run(const Raw& w, int u, int r, float (&out)[8]) {
        const uint32_t high = w.high >> column(u, r);
        Word2 q = nibbles(w.q, r);
        q.x |= fifth_bits(high), q.y |= fifth_bits(high >> 4);
        affine(q, half_float((uint16_t)w.d), half_float((uint16_t)(w.d >> 16)), out);
    }
};

struct IQ4_NL : Nibbles32 {
    static constexpr int BYTES = 18;
    typedef Q4_0::Raw Raw;
    static DEVICE Raw load(const uint8_t* b, int u) { return Q4_0::load(b, u); }
    static DEVICE void run(const Raw& w, int, int r, float (&out)[8]) {
        scaled(picked(iq4_table(), w.q, r), 128, half_float((uint16_t)w.d), out);
    }
};

struct MXFP4 : Nibbles32 {
    static constexpr int BYTES = 17;
    typedef Q4_0::Raw Raw;
    static DEVICE Raw load(const uint8_t* b, int u) { return {words_at<1>(b + 1 + 8 * u), read_only(b)}; }
    static DEVICE void run(const Raw& w, int, int r, float (&out)[8]) {
        // Half of the power of two, since the table's entries are doubled.
        const float d = bits_float(w.d < 2 ? 0x00200000u << w.d : (w.d - 1) << 23);
        scaled(picked(e2m1_table(), w.q, r), 128, d, out);
    }
};

struct Q8_0 {
    static constexpr int BYTES = 34, ELEMS = 32, RUNS = 1, STEPS = 4;
    static constexpr bool PLAIN = false;
    typedef Q4_0::Raw Raw;
    static DEVICE int column(int u, int) { return 8 * u; }
    static DEVICE Raw load(const uint8_t* b, int u) { return {words_at<2>(b + 2 + 8 * u), word16(b)}; }
    static DEVICE void run(const Raw& w, int, int, float (&out)[8]) {
        scaled({w.q.x ^ 0x80808080, w.q.y ^ 0x80808080}, 128, half_float((uint16_t)w.d), out);
    }
};

/// Two blocks of Q8_0 in rows of an even number of them, where each pair begins at a multiple of four: eight bytes of either lie in the same three words.
struct Q8_0Pair {
    static constexpr int BYTES = 68, ELEMS = 64, RUNS = 1, STEPS = 4;
    static constexpr bool PLAIN = false;
    typedef Q4_0::Raw Raw;
    static DEVICE int column(int u, int) { return 8 * u; }
    static DEVICE Raw load(const uint8_t* b, int u) {
        const uint8_t* p = b + 8 * u;
        const uint32_t v = word32(p), w = word32(p + 4), x = word32(p + 8), order = u < 4 ? 0x5432 : 0x7654;
        return {{byte_perm(v, w, order), byte_perm(w, x, order)}, word16(u < 4 ? b : b + 34)};
    }
    static DEVICE void run(const Raw& w, int u, int r, float (&out)[8]) { Q8_0::run(w, u, r, out); }
};

// ---- blocks of 256 ----

/// Eight bytes of nibbles: elements 64g + l.. and 64g + 32 + l.., where u is 4g + l / 8.
struct Nibbles256 {
    static constexpr int ELEMS = 256, RUNS = 2, STEPS = 2;
    static constexpr bool PLAIN = false;
    static DEVICE int column(int u, int r) { return 64 * (u >> 2) + 32 * r + 8 * (u & 3); }
    /// Scale and minimum of sub-block 2g + r from a block's first 16 bytes.
    static DEVICE void scale_min(const Word4& h, int u, int r, float& scale, float& offset) {
        // Both sub-blocks of the unit together: what does not depend on r is computed once.
        const int s = 16 * (u >> 2 & 1);
        const uint32_t a = h.y >> s, b = h.z >> s, c = h.w >> s;
        const uint32_t scales = u < 8 ? a & 0x3f3f : (c & 0x0f0f) | (a >> 2 & 0x3030);
        const uint32_t mins = u < 8 ? b & 0x3f3f : (c >> 4 & 0x0f0f) | (b >> 2 & 0x3030);
        scale = half_float((uint16_t)h.x) * byte_float(scales, r, 0);
        offset = -(half_float((uint16_t)(h.x >> 16)) * byte_float(mins, r, 0));
    }
};

struct Q4_K : Nibbles256 {
    static constexpr int BYTES = 144;
    struct Raw {
        Word4 head;
        Word2 q;
    };
    static DEVICE Raw load(const uint8_t* b, int u) { return {*(const Word4*)b, words_at<8>(b + 16 + 8 * u)}; }
    static DEVICE void run(const Raw& w, int u, int r, float (&out)[8]) {
        float scale, offset;
        scale_min(w.head, u, r, scale, offset);
        affine(nibbles(w.q, r), scale, offset, out);
    }
};

struct Q5_K : Nibbles256 {
    static constexpr int BYTES = 176;
    struct Raw {
        Word4 head;
        Word2 q, high;
    };
    static DEVICE Raw load(const uint8_t* b, int u) {
        return {*(const Word4*)b, words_at<8>(b + 48 + 8 * u), words_at<8>(b + 16 + 8 * (u & 3))};
    }
    static DEVICE void run(const Raw& w, int u, int r, float (&out)[8]) {
        float scale, offset;
        scale_min(w.head, u, r, scale, offset);
        Word2 q = nibbles(w.q, r);
        const Word2 high = masked(w.high, 2 * (u >> 2) + r, 0x01010101);
        q.x |= high.x << 4, q.y |= high.y << 4;
        affine(q, scale, offset, out);
    }
};

/// Eight bytes with elements 128h + l.. and those 32, 64 and 96 further on, where u is 4h + l / 8.
struct Quarters256 {
    static constexpr int ELEMS = 256, RUNS = 4, STEPS = 1;
    static constexpr bool PLAIN = false;
    static DEVICE int column(int u, int r) { return 128 * (u >> 2) + 32 * r + 8 * (u & 3); }
    /// Which sixteen elements a run belongs to.
    static DEVICE int sixteenth(int u, int r) { return 8 * (u >> 2) + 2 * r + (u >> 1 & 1); }
};

struct Q2_K : Quarters256 {
    static constexpr int BYTES = 84;
    struct Raw {
        Word2 q;
        Word2 scales;
        uint32_t d;
    };
    static DEVICE Raw load(const uint8_t* b, int u) {
        return {words_at<4>(b + 16 + 8 * u), words_at<4>(b + 8 * (u >> 2)), word32(b + 80)};
    }
    static DEVICE void run(const Raw& w, int u, int r, float (&out)[8]) {
        const uint32_t both = (r < 2 ? w.scales.x : w.scales.y) >> (16 * (r & 1) + 8 * (u >> 1 & 1));
        affine(masked(w.q, 2 * r, 0x03030303), half_float((uint16_t)w.d) * (float)(both & 15),
               -(half_float((uint16_t)(w.d >> 16)) * (float)(both >> 4 & 15)), out);
    }
};

struct Q3_K : Quarters256 {
    static constexpr int BYTES = 110;
    struct Raw {
        Word2 q, high;
        uint32_t low4, low4b, high2, d;
    };
    static DEVICE Raw load(const uint8_t* b, int u) {
        return {words_at<2>(b + 32 + 8 * u), words_at<2>(b + 8 * (u & 3)), word_at<2>(b + 96), word_at<2>(b + 100), word_at<2>(b + 104),
                word16(b + 108)};
    }
    static DEVICE void run(const Raw& w, int u, int r, float (&out)[8]) {
        const int i = sixteenth(u, r);
        const uint32_t low = ((i & 4 ? w.low4b : w.low4) >> (8 * (i & 3) + (i & 8 ? 4 : 0))) & 15;
        const uint32_t high = w.high2 >> (8 * (i & 3) + 2 * (i >> 2)) & 3;
        const float scale = half_float((uint16_t)w.d) * (float)((int)(low | high << 4) - 32);
        Word2 q = masked(w.q, 2 * r, 0x03030303);
        const Word2 top = masked(w.high, 4 * (u >> 2) + r, 0x01010101);
        q.x |= top.x << 2, q.y |= top.y << 2;
        scaled(q, 4, scale, out);
    }
};

struct Q6_K : Quarters256 {
    static constexpr int BYTES = 210;
    struct Raw {
        Word2 even, odd, high;
        uint32_t s01, s23, d;
    };
    static DEVICE Raw load(const uint8_t* b, int u) {
        const int half = u >> 2, l = 8 * (u & 3);
        // Of each pair of scales one is for elements below 16 of the 32, one for those from 16 on.
        const uint8_t* s = b + 192 + 8 * half;
        return {words_at<2>(b + 64 * half + l), words_at<2>(b + 64 * half + 32 + l), words_at<2>(b + 128 + 32 * half + l), word_at<2>(s),
                word_at<2>(s + 4), word16(b + 208)};
    }
    static DEVICE void run(const Raw& w, int u, int r, float (&out)[8]) {
        const int8_t s = (int8_t)((r < 2 ? w.s01 : w.s23) >> (16 * (r & 1) + 8 * (u >> 1 & 1)));
        Word2 q = nibbles({r & 1 ? w.odd.x : w.even.x, r & 1 ? w.odd.y : w.even.y}, r >> 1);
        const Word2 high = masked(w.high, 2 * r, 0x03030303);
        q.x |= high.x << 4, q.y |= high.y << 4;
        scaled(q, 32, half_float((uint16_t)w.d) * (float)s, out);
    }
};

struct TQ2_0 : Quarters256 {
    static constexpr int BYTES = 66;
    typedef Q4_0::Raw Raw;
    static DEVICE Raw load(const uint8_t* b, int u) { return {words_at<2>(b + 8 * u), word16(b + 64)}; }
    static DEVICE void run(const Raw& w, int, int r, float (&out)[8]) {
        scaled(masked(w.q, 2 * r, 0x03030303), 1, half_float((uint16_t)w.d), out);
    }
};

struct IQ4_XS {
    static constexpr int BYTES = 136, ELEMS = 256, RUNS = 2, STEPS = 2;
    static constexpr bool PLAIN = false;
    struct Raw {
        Word2 head, q;
    };
    static DEVICE int column(int u, int r) { return 32 * (u >> 1) + 16 * r + 8 * (u & 1); }
    static DEVICE Raw load(const uint8_t* b, int u) { return {words_at<8>(b), words_at<8>(b + 8 + 8 * u)}; }
    static DEVICE void run(const Raw& w, int u, int r, float (&out)[8]) {
        const int g = u >> 1;
        const int s = (int)((w.head.y >> (4 * g) & 15) | (w.head.x >> (16 + 2 * g) & 3) << 4) - 32;
        scaled(picked(iq4_table(), w.q, r), 128, half_float((uint16_t)w.head.x) * (float)s, out);
    }
};

/// Eight elements of a block of 256.
struct Eighths256 {
    static constexpr int ELEMS = 256, RUNS = 1, STEPS = 2;
    static constexpr bool PLAIN = false;
    static DEVICE int column(int u, int) { return 8 * u; }
    /// What most of these types boil down to: eight bytes plus 128, eight signs, a scale.
    struct Raw {
        Word2 q;
        uint32_t signs;
        float scale;
    };
    static DEVICE void run(const Raw& w, int, int, float (&out)[8]) {
        scaled({w.q.x ^ 0x80808080, w.q.y ^ 0x80808080}, 128, w.scale, out);
#pragma unroll
        for (int i = 0; i < 8; i++) out[i] = bits_float(float_bits(out[i]) ^ (w.signs << (31 - i) & 0x80000000));
    }
};

/// An entry of eight bytes of a codebook that begins at word `start` of `GRIDS`.
DEVICE Word2 entry8(int start, uint32_t index) {
    const uint64_t v = read_only((const unsigned long long*)GRIDS + start + index);
    return {(uint32_t)v, (uint32_t)(v >> 32)};
}
/// An entry of four bytes.
DEVICE uint32_t entry4(int start, uint32_t index) { return read_only((const uint32_t*)(GRIDS + start) + index); }

/// Seven stored signs and the eighth, which makes their number even.
DEVICE uint32_t even_signs(uint32_t seven) {
    seven &= 127;
    uint32_t p = seven ^ seven >> 4;
    p ^= p >> 2;
    return seven | (p ^ p >> 1) << 7;
}
/// `2 n + 1` of the nibble at this bit.
DEVICE float odd_nibble(uint32_t bits, int at) { return (float)(2 * (bits >> at & 15) + 1); }

struct IQ2_XXS : Eighths256 {
    static constexpr int BYTES = 66;
    static DEVICE Raw load(const uint8_t* b, int u) {
        const uint32_t rest = word_at<2>(b + 6 + 8 * (u >> 2));
        const uint32_t code = read_only(b + 2 + 8 * (u >> 2) + (u & 3));
        return {entry8(0, code), even_signs(rest >> (7 * (u & 3))), half_at(b) * 0.125f * odd_nibble(rest, 28)};
    }
};

struct IQ2_XS : Eighths256 {
    static constexpr int BYTES = 74;
    static DEVICE Raw load(const uint8_t* b, int u) {
        const uint32_t code = word16(b + 2 + 2 * u);
        return {entry8(256, code & 511), even_signs(code >> 9), half_at(b) * 0.125f * odd_nibble(read_only(b + 66 + u / 4), 4 * (u / 2 & 1))};
    }
};

struct IQ2_S : Eighths256 {
    static constexpr int BYTES = 82;
    static DEVICE Raw load(const uint8_t* b, int u) {
        const uint32_t code = read_only(b + 2 + u) | ((uint32_t)read_only(b + 66 + u / 4) >> (2 * (u & 3)) & 3) << 8;
        const float scale = half_at(b) * 0.125f * odd_nibble(read_only(b + 74 + u / 4), 4 * (u / 2 & 1));
        return {entry8(768, code), read_only(b + 34 + u), scale};
    }
};

struct IQ3_XXS : Eighths256 {
    static constexpr int BYTES = 98;
    static DEVICE Raw load(const uint8_t* b, int u) {
        const uint32_t codes = word16(b + 2 + 2 * u), rest = word_at<2>(b + 66 + 4 * (u >> 2));
        return {{entry4(1792, codes & 255), entry4(1792, codes >> 8)}, even_signs(rest >> (7 * (u & 3))), half_at(b) * 0.25f * odd_nibble(rest, 28)};
    }
};

struct IQ3_S : Eighths256 {
    static constexpr int BYTES = 110;
    static DEVICE Raw load(const uint8_t* b, int u) {
        const uint32_t codes = word16(b + 2 + 2 * u), high = (uint32_t)read_only(b + 66 + u / 4) >> (2 * (u & 3));
        const float scale = half_at(b) * odd_nibble(read_only(b + 106 + u / 8), 4 * (u / 4 & 1));
        return {{entry4(1920, (codes & 255) | (high & 1) << 8), entry4(1920, codes >> 8 | (high & 2) << 7)}, read_only(b + 74 + u), scale};
    }
};

/// Eight times an entry of -1, 0 and 1, moved by one up or down; as bytes, which the sum does not leave.
DEVICE Word2 moved(Word2 e, bool down) {
    // Bytes plus two are 1, 2 and 3, so that no carry crosses them: 8 (b + 2) - 16 +- 1 + 128.
    const uint32_t x = (e.x ^ 0x80808080) - 0x7e7e7e7e, y = (e.y ^ 0x80808080) - 0x7e7e7e7e;
    const uint32_t by = down ? 0x6f6f6f6f : 0x71717171;
    return {(8 * x + by) ^ 0x80808080, (8 * y + by) ^ 0x80808080};
}

struct IQ1_S : Eighths256 {
    static constexpr int BYTES = 50;
    static DEVICE Raw load(const uint8_t* b, int u) {
        const uint32_t rest = word16(b + 34 + 2 * (u >> 2)), code = read_only(b + 2 + u) | (rest >> (3 * (u & 3)) & 7) << 8;
        return {moved(entry8(2176, code), rest & 0x8000), 0, half_at(b) * 0.125f * (float)(2 * (rest >> 12 & 7) + 1)};
    }
};

struct IQ1_M : Eighths256 {
    static constexpr int BYTES = 56;
    static DEVICE Raw load(const uint8_t* b, int u) {
        const uint32_t a = word32(b + 48), c = word32(b + 52);
        const uint16_t d = (uint16_t)((a >> 12 & 15) | (a >> 24 & 0xf0) | (c >> 4 & 0xf00) | (c >> 16 & 0xf000));
        const uint32_t high = (uint32_t)read_only(b + 32 + u / 2) >> (4 * (u & 1)), code = read_only(b + u) | (high & 7) << 8;
        const int s = u / 2;
        const uint32_t word = (s & 8 ? c : a) >> (s & 4 ? 16 : 0);
        return {moved(entry8(2176, code), high & 8), 0, half_float(d) * 0.125f * (float)(2 * (word >> (3 * (s & 3)) & 7) + 1)};
    }
};

struct TQ1_0 : Eighths256 {
    static constexpr int BYTES = 54;
    static DEVICE Raw load(const uint8_t* b, int u) {
        // Five digits to base three in a byte, as a fraction: the first is what a multiplication by three carries out of it.
        uint32_t q[2] = {0, 0};
#pragma unroll
        for (int i = 0; i < 8; i++) {
            const int e = 8 * u + i;
            const int n = e < 160 ? e / 32 : e < 240 ? (e - 160) / 16 : (e - 240) / 4;
            const int at = e < 160 ? e % 32 : e < 240 ? 32 + e % 16 : 48 + e % 4;
            const uint32_t power = n == 0 ? 1 : n == 1 ? 3 : n == 2 ? 9 : n == 3 ? 27 : 81;
            const uint32_t digit = (((uint32_t)read_only(b + at) * power & 255) * 3) >> 8;
            q[i / 4] |= ((digit + 127) ^ 128) << (8 * (i & 3));
        }
        return {{q[0] & 0xffffffff, q[1]}, 0, half_at(b + 52)};
    }
};

/// Call `f` with the format of a GGUF type number; not at all for a type that has none, which callers exclude.
template <class F> DEVICE void with_format(uint32_t ty, F f) {
    switch (ty) {
        case 0: return f(F32());
        case 1: return f(F16());
        case 2: return f(Q4_0());
        case 3: return f(Q4_1());
        case 6: return f(Q5_0());
        case 7: return f(Q5_1());
        case 8: return f(Q8_0());
        case 10: return f(Q2_K());
        case 11: return f(Q3_K());
        case 12: return f(Q4_K());
        case 13: return f(Q5_K());
        case 14: return f(Q6_K());
        case 16: return f(IQ2_XXS());
        case 17: return f(IQ2_XS());
        case 18: return f(IQ3_XXS());
        case 19: return f(IQ1_S());
        case 20: return f(IQ4_NL());
        case 21: return f(IQ3_S());
        case 22: return f(IQ2_S());
        case 23: return f(IQ4_XS());
        case 29: return f(IQ1_M());
        case 30: return f(BF16());
        case 34: return f(TQ1_0());
        case 35: return f(TQ2_0());
        case 39: return f(MXFP4());
    }
}

/// Bytes of a row.
template <class F> DEVICE size_t row_bytes(uint32_t cols) { return (size_t)(cols / F::ELEMS) * F::BYTES; }
