// One source for two machines: compiled by nvcc these kernels run on a GPU, compiled as C++17 they run on the CPU, in tests.
//
// A kernel is written in phases. `phase(block, f)` calls `f(t)` for every thread t of the block and then waits for all of them; on the host
// it is a loop. Between phases threads speak through `SHARED` memory; what a thread keeps for itself lies in a `PerThread`, a register
// on the GPU and an array on the host. `apart(block, f)` is a phase without the wait, for code that shares nothing. `warp_sum` and
// `warp_max` are the butterfly of shuffles, on the host in the same order, so that both machines round alike.
//
// On the host the threads of a phase can be run in any order (`simt::backwards`): a result that depends on it is a race. There they also run
// one by one, as a GPU has them, and what they touch is watched (`together.cuh`).
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#ifdef __CUDACC__
#define DEVICE __device__ __forceinline__
#define TABLE static __device__ const
#define CONSTANT static __constant__
#define SHARED(type, name) __shared__ type name
#else
#define DEVICE inline
#define TABLE static const
#define CONSTANT static const
#endif

/// For the bodies of phases: what a thread keeps stays in registers only if all of it is one function.
#define INLINE __attribute__((always_inline))

#define LANES 32

/// A block of threads: its place in the grid and its size.
struct Block {
    uint32_t x, y, z, threads;
};

/// A few values in registers, if every index is known when the kernel is compiled.
template <class T, int N> struct Few {
    T v[N];
    DEVICE T& operator[](int i) { return v[i]; }
    DEVICE const T& operator[](int i) const { return v[i]; }
};

#ifdef __CUDACC__

template <class T> struct PerThread {
    T v;
    DEVICE T& operator[](int) { return v; }
};

/// Blocks of the kernel that is queued next may begin when all of this one have; they do nothing that depends on it before `in_turn`.
DEVICE void dependents_may_come() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
/// All that was queued before this kernel is done, and what it wrote can be seen. Each block of a kernel waits here, so that those after it need wait for no other.
DEVICE void in_turn() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

template <class F> DEVICE void apart(const Block&, F f) { f((int)threadIdx.x); }

/// The threads of each warp wait for each other.
DEVICE void warps_wait(const Block&) { __syncwarp(); }

template <class F> DEVICE void phase(const Block&, F f) {
    f((int)threadIdx.x);
    __syncthreads();
}

template <class G> DEVICE void butterfly(const Block&, PerThread<float>& a, G g) {
#pragma unroll
    for (int o = LANES / 2; o; o /= 2) a.v = g(a.v, __shfl_xor_sync(0xffffffffu, a.v, o));
}

template <int N, class G> DEVICE void butterfly(const Block&, PerThread<Few<float, N>>& a, G g) {
#pragma unroll
    for (int i = 0; i < N; i++) {
#pragma unroll
        for (int o = LANES / 2; o; o /= 2) a.v[i] = g(a.v[i], __shfl_xor_sync(0xffffffffu, a.v[i], o));
    }
}

/// Sums over neighbours whose thread numbers differ in the bits below `width`; all of them get the sums.
/// Of the first M values alone.
template <int M, int N> DEVICE void sum_first_among(const Block&, PerThread<Few<float, N>>& a, int width) {
#pragma unroll
    for (int i = 0; i < M; i++) {
#pragma unroll
        for (int o = width / 2; o; o /= 2) a.v[i] += __shfl_xor_sync(0xffffffffu, a.v[i], o);
    }
}

/// The same of all.
template <int N> DEVICE void sum_among(const Block& b, PerThread<Few<float, N>>& a, int width) { sum_first_among<N>(b, a, width); }

/// The greatest among such neighbours; a NaN counts as none.
template <int N> DEVICE void max_among(const Block&, PerThread<Few<float, N>>& a, int width) {
#pragma unroll
    for (int i = 0; i < N; i++) {
#pragma unroll
        for (int o = width / 2; o; o /= 2) a.v[i] = fmaxf(a.v[i], __shfl_xor_sync(0xffffffffu, a.v[i], o));
    }
}

/// What lane `from(t)` of the warp has.
template <int N, class From> DEVICE void taken_from(const Block&, PerThread<Few<float, N>>& a, From from) {
#pragma unroll
    for (int i = 0; i < N; i++) a.v[i] = __shfl_sync(0xffffffffu, a.v[i], from((int)threadIdx.x));
}

DEVICE uint32_t byte_perm(uint32_t a, uint32_t b, uint32_t s) { return __byte_perm(a, b, s); }
DEVICE float bits_float(uint32_t b) { return __uint_as_float(b); }
DEVICE uint32_t float_bits(float f) { return __float_as_uint(f); }
DEVICE float half_float(uint16_t h) {
    float f;
    asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(h));
    return f;
}
DEVICE uint16_t float_half(float f) {
    uint16_t h;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(f));
    return h;
}
template <class T> DEVICE T read_only(const T* p) { return __ldg(p); }
/// Sixteen bytes from a multiple of sixteen.
template <class T> DEVICE T read_only_four(const T* p) {
    const uint4 v = __ldg((const uint4*)p);
    return {v.x, v.y, v.z, v.w};
}
/// What follows from the value is computed after this place.
DEVICE void keep_here(uint32_t& v) { asm volatile("" : "+r"(v)); }
DEVICE void set_bit(uint32_t* p, uint32_t bit) { atomicOr(p, bit); }
/// Several threads may put the same there at once.
DEVICE void put_alike(uint32_t& place, uint32_t value) { place = value; }

#else

#ifdef TOGETHER
#include "together.cuh"
#else
#include "loops.cuh"
#endif

inline uint32_t byte_perm(uint32_t a, uint32_t b, uint32_t s) {
    const uint64_t all = (uint64_t)b << 32 | a;
    uint32_t out = 0;
    for (int i = 0; i < 4; i++) out |= (uint32_t)((all >> (8 * ((s >> (4 * i)) & 7))) & 255) << (8 * i);
    return out;
}
inline float bits_float(uint32_t b) {
    float f;
    memcpy(&f, &b, 4);
    return f;
}
inline uint32_t float_bits(float f) {
    uint32_t b;
    memcpy(&b, &f, 4);
    return b;
}
inline float half_float(uint16_t h) {
    const uint32_t sign = (uint32_t)(h & 0x8000) << 16, rest = h & 0x7fff;
    if (rest >= 0x7c00) return bits_float(sign | 0x7f800000 | (rest & 0x3ff) << 13);
    // Exponents moved by 112; multiplying instead of adding treats subnormal numbers right.
    return bits_float(sign | float_bits(bits_float(rest << 13) * 0x1p112f));
}
inline uint16_t float_half(float f) {
    const uint32_t b = float_bits(f), sign = b >> 16 & 0x8000, rest = b & 0x7fffffff;
    if (rest > 0x7f800000) return (uint16_t)(sign | 0x7e00);
    if (rest >= 0x477ff000) return (uint16_t)(sign | 0x7c00);
    if (rest < 0x38800000) {
        // Below the normal numbers: adding 1/2 rounds to multiples of 2^-24.
        return (uint16_t)(sign | (float_bits(bits_float(rest) + 0.5f) - 0x3f000000));
    }
    return (uint16_t)(sign | ((rest - 0x38000000 + 0xfff + (rest >> 13 & 1)) >> 13));
}
template <class T> T read_only(const T* p) { return *p; }
template <class T> T read_only_four(const T* p) { return *p; }
inline void keep_here(uint32_t&) {}

#endif

/// A kernel that has something to do before what comes before it is done.
template <class Params> struct WaitsItself {
    static constexpr bool value = false;
};

/// What every lane of a warp has, added up; every lane gets the sum.
template <class T> DEVICE void warp_sum(const Block& b, PerThread<T>& a) {
    butterfly(b, a, [](float p, float q) { return p + q; });
}

/// The greatest number in a warp; a NaN counts as none.
template <class T> DEVICE void warp_max(const Block& b, PerThread<T>& a) {
    butterfly(b, a, [](float p, float q) { return fmaxf(p, q); });
}

/// Room for one sum over a block.
struct Partials {
    float of_warp[8];
};

/// The sum over a block of at most 256 threads; waits once, before the result. The room can't be used again without another wait.
DEVICE float block_sum(const Block& b, PerThread<float>& a, Partials& room) {
    warp_sum(b, a);
    phase(b, [&](int t) {
        if (t % LANES == 0) room.of_warp[t / LANES] = a[t];
    });
    float sum = 0;
    for (uint32_t w = 0; w < b.threads / LANES; w++) sum += room.of_warp[w];
    return sum;
}

/// Four floats in one load; the address is a multiple of 16.
struct alignas(16) Float4 {
    float x, y, z, w;
};
struct alignas(16) Word4 {
    uint32_t x, y, z, w;
};
struct alignas(8) Word2 {
    uint32_t x, y;
};

DEVICE bool aligned16(const void* p) { return ((uintptr_t)p & 15) == 0; }

DEVICE void load8(const float* p, float (&v)[8]) {
    const Float4 a = *(const Float4*)p, b = *(const Float4*)(p + 4);
    v[0] = a.x, v[1] = a.y, v[2] = a.z, v[3] = a.w, v[4] = b.x, v[5] = b.y, v[6] = b.z, v[7] = b.w;
}

DEVICE float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }
DEVICE float silu(float x) { return x * sigmoid(x); }
/// To plus or minus `limit`, 0 for not; a NaN stays.
DEVICE float clamped(float x, float limit) { return limit > 0 ? (x > limit ? limit : x < -limit ? -limit : x) : x; }
