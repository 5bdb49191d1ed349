// Tensor cores: a warp multiplies 16 by 16 halves with 16 by 8 of them and adds to 16 by 8 floats.
//
// Each lane holds its share of the three matrices, as the PTX manual lays it out ("Matrix fragments for mma.m16n8k16", "ldmatrix"). On the
// host the same shares are gathered into matrices, multiplied and added in f32, so a lane with the wrong share gives a wrong product there too.
#pragma once

#include "simt.cuh"

/// A lane's share of four matrices of 8 by 8 halves: of row `lane / 4` the two halves from `2 (lane % 4)` on.
typedef Few<uint32_t, 4> Halves;

#ifdef __CUDACC__

DEVICE uint32_t two_halves(float low, float high) {
#if __CUDA_ARCH__ >= 800
    uint32_t both;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
    return both;
#else
    return float_half(low) | (uint32_t)float_half(high) << 16;
#endif
}

/// Four matrices of halves out of shared memory. Lane 8 i + r says where row r of matrix i begins, at a multiple of 16 bytes.
template <class At> DEVICE void load_halves(const Block&, At at, PerThread<Halves>& out) {
    const uint32_t from = (uint32_t)__cvta_generic_to_shared(at((int)threadIdx.x));
    Halves& h = out.v;
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];" : "=r"(h[0]), "=r"(h[1]), "=r"(h[2]), "=r"(h[3]) : "r"(from) : "memory");
}

/// The same with each matrix turned: of column `lane / 4` the two halves from row `2 (lane % 4)` on.
template <class At> DEVICE void load_halves_turned(const Block&, At at, PerThread<Halves>& out) {
    const uint32_t from = (uint32_t)__cvta_generic_to_shared(at((int)threadIdx.x));
    Halves& h = out.v;
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];" : "=r"(h[0]), "=r"(h[1]), "=r"(h[2]), "=r"(h[3]) : "r"(from) : "memory");
}

/// `sums[at..at + 4] += a b`: a is all four matrices (rows 0.. and 8.. of columns 0.., then those of columns 8..), b two of its four, from `half` on
/// (columns 0.. and 8.. of eight rows, which are the columns of the product).
template <int N> DEVICE void multiply_halves(const Block&, PerThread<Halves>& a, PerThread<Halves>& b, int half, PerThread<Few<float, N>>& sums, int at) {
    const Halves &p = a.v, &q = b.v;
    float* s = sums.v.v + at;
#if __CUDA_ARCH__ >= 800
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(s[0]), "+f"(s[1]), "+f"(s[2]), "+f"(s[3])
                 : "r"(p[0]), "r"(p[1]), "r"(p[2]), "r"(p[3]), "r"(q[half]), "r"(q[half + 1]));
#else
#pragma unroll
    for (int k = 0; k < 2; k++) {
        asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
                     : "+f"(s[0]), "+f"(s[1]), "+f"(s[2]), "+f"(s[3])
                     : "r"(p[2 * k]), "r"(p[2 * k + 1]), "r"(q[half + k]));
    }
#endif
}

/// Brings what lies there nearer.
DEVICE void fetch_ahead(const void* p) { asm volatile("prefetch.global.L2 [%0];" ::"l"(p)); }

#else

inline uint32_t two_halves(float low, float high) { return float_half(low) | (uint32_t)float_half(high) << 16; }

#ifdef TOGETHER

/// Where each lane says that its row is.
template <class At> struct RowsShown {
    const simt::Shown* all;
    RowsShown(At at) {
        const auto row = (uintptr_t)at(simt::me());
        simt::Shown s = {};
        memcpy(s.word, &row, sizeof row);
        all = simt::shown(simt::site_of<At>(), s);
    }
    const uint8_t* of(int lane) const {
        uintptr_t row;
        memcpy(&row, all[lane].word, sizeof row);
        return (const uint8_t*)row;
    }
};

/// A lane gets four bytes of each matrix from where another lane says that the row is.
template <class At> void load_halves(const Block&, At at, PerThread<Halves>& out) {
    const int lane = simt::me() % LANES;
    const RowsShown<At> rows(at);
    for (int i = 0; i < 4; i++) memcpy(&out.v[i], rows.of(8 * i + lane / 4) + 4 * (lane % 4), 4);
}

/// Two bytes from each of two lanes' rows.
template <class At> void load_halves_turned(const Block&, At at, PerThread<Halves>& out) {
    const int lane = simt::me() % LANES;
    const RowsShown<At> rows(at);
    for (int i = 0; i < 8; i++) memcpy((uint8_t*)&out.v[i / 2] + 2 * (i % 2), rows.of(i / 2 * 8 + 2 * (lane % 4) + i % 2) + 2 * (lane / 4), 2);
}

template <int N> void multiply_halves(const Block&, PerThread<Halves>& a, PerThread<Halves>& b, int half, PerThread<Few<float, N>>& sums, int at) {
    const int lane = simt::me() % LANES;
    // Two numbers of each word, as floats.
    simt::Shown mine = {};
    for (int i = 0; i < 6; i++) {
        const uint32_t both = i < 4 ? a.v[i] : b.v[half + i - 4];
        mine.word[2 * i] = float_bits(half_float((uint16_t)both)), mine.word[2 * i + 1] = float_bits(half_float((uint16_t)(both >> 16)));
    }
    const simt::Shown* all = simt::shown(simt::site_of<Halves>(), mine);
    for (int i = 0; i < 4; i++) {
        const int row = lane / 4 + i / 2 * 8, column = 2 * (lane % 4) + i % 2;
        float& sum = sums.v[at + i];
        for (int k = 0; k < 16; k++) {
            const uint32_t p = all[row % 8 * 4 + k % 8 / 2].word[2 * (row / 8 + k / 8 * 2) + k % 2], q = all[column * 4 + k % 8 / 2].word[2 * (4 + k / 8) + k % 2];
            sum = fmaf(bits_float(p), bits_float(q), sum);
        }
    }
}

#else

template <class At> void load_halves(const Block& block, At at, PerThread<Halves>& out) {
    for (int t = 0; t < (int)block.threads; t++) {
        for (int i = 0; i < 4; i++) memcpy(&out[t][i], (const uint8_t*)at(t / LANES * LANES + 8 * i + t % LANES / 4) + 4 * (t % 4), 4);
    }
}

template <class At> void load_halves_turned(const Block& block, At at, PerThread<Halves>& out) {
    for (int t = 0; t < (int)block.threads; t++) {
        for (int i = 0; i < 8; i++) {
            const auto row = (const uint8_t*)at(t / LANES * LANES + i / 2 * 8 + 2 * (t % 4) + i % 2);
            memcpy((uint8_t*)&out[t][i / 2] + 2 * (i % 2), row + 2 * (t % LANES / 4), 2);
        }
    }
}

template <int N> void multiply_halves(const Block& block, PerThread<Halves>& a, PerThread<Halves>& b, int half, PerThread<Few<float, N>>& sums, int at) {
    for (int w = 0; w < (int)block.threads; w += LANES) {
        float p[16][16], q[8][16];
        for (int l = 0; l < LANES; l++) {
            for (int e = 0; e < 2; e++) {
                const int row = l / 4, k = 2 * (l % 4) + e;
                for (int i = 0; i < 4; i++) p[row + i % 2 * 8][k + i / 2 * 8] = half_float((uint16_t)(a[w + l][i] >> (16 * e)));
                for (int i = 0; i < 2; i++) q[row][k + i * 8] = half_float((uint16_t)(b[w + l][half + i] >> (16 * e)));
            }
        }
        for (int l = 0; l < LANES; l++) {
            for (int i = 0; i < 4; i++) {
                float& sum = sums[w + l][at + i];
                for (int k = 0; k < 16; k++) sum = fmaf(p[l / 4 + i / 2 * 8][k], q[2 * (l % 4) + i % 2][k], sum);
            }
        }
    }
}

#endif

inline void fetch_ahead(const void*) {}

#endif
