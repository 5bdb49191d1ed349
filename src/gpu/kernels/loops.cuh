// The second machine for the kernels, in tests: a phase is a loop over the threads of the block. Quick, and its results are looked at byte by byte.
#pragma once

#include <sched.h>
#include <time.h>

#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

// Shared memory begins as NaN, as does what a thread keeps: whoever reads before writing is seen.
#define SHARED(type, name) \
    type name;             \
    memset((void*)&name, 0xff, sizeof name)

#define MOST_THREADS 256

namespace simt {
inline thread_local bool backwards = false;
/// How often kernels have looked for a word of the host's that was not there, and how often one does before it gives up: a test whose host says nothing must end.
inline std::atomic<uint64_t> vain = 0;
constexpr uint32_t PATIENCE = 1u << 26;
}  // namespace simt

inline void in_turn() {}
inline void warps_wait(const Block&) {}

template <class T> struct PerThread {
    T v[MOST_THREADS];
    PerThread() { memset((void*)v, 0xff, sizeof v); }
    T& operator[](int t) { return v[t]; }
};

template <class F> void apart(const Block& b, F f) {
    if (simt::backwards)
        for (int t = (int)b.threads - 1; t >= 0; t--) f(t);
    else
        for (int t = 0; t < (int)b.threads; t++) f(t);
}

template <class F> void phase(const Block& b, F f) { apart(b, f); }

/// One step of a butterfly over any type of per-thread value.
template <class At, class G> void butterfly_steps(const Block& b, int width, At at, G g) {
    for (int o = width / 2; o; o /= 2) {
        float before[MOST_THREADS];
        for (int t = 0; t < (int)b.threads; t++) before[t] = at(t);
        for (int t = 0; t < (int)b.threads; t++) at(t) = g(before[t], before[t ^ o]);
    }
}

template <class G> void butterfly(const Block& b, PerThread<float>& a, G g) {
    butterfly_steps(b, LANES, [&](int t) -> float& { return a.v[t]; }, g);
}

template <int N, class G> void butterfly(const Block& b, PerThread<Few<float, N>>& a, G g) {
    for (int i = 0; i < N; i++) butterfly_steps(b, LANES, [&](int t) -> float& { return a.v[t][i]; }, g);
}

template <int M, int N> void sum_first_among(const Block& b, PerThread<Few<float, N>>& a, int width) {
    for (int i = 0; i < M; i++) butterfly_steps(b, width, [&](int t) -> float& { return a.v[t][i]; }, [](float p, float q) { return p + q; });
}

template <int N> void sum_among(const Block& b, PerThread<Few<float, N>>& a, int width) { sum_first_among<N>(b, a, width); }

template <int N> void max_among(const Block& b, PerThread<Few<float, N>>& a, int width) {
    for (int i = 0; i < N; i++) butterfly_steps(b, width, [&](int t) -> float& { return a.v[t][i]; }, [](float p, float q) { return fmaxf(p, q); });
}

template <int N, class From> void taken_from(const Block& b, PerThread<Few<float, N>>& a, From from) {
    const auto before = a;
    for (int t = 0; t < (int)b.threads; t++) a.v[t] = before.v[t / LANES * LANES + from(t)];
}

inline void set_bit(uint32_t* p, uint32_t bit) { *p |= bit; }
inline void put_alike(uint32_t& place, uint32_t value) { place = value; }

// The mailbox is ordinary memory; the words are atomic, since a test's other thread says them.
inline uint32_t heard(const uint32_t* word) { return __atomic_load_n(word, __ATOMIC_ACQUIRE); }
inline void say(uint32_t* word, uint32_t v) { __atomic_store_n(word, v, __ATOMIC_RELEASE); }
template <class T> T from_host(const T* p) { return *p; }
template <class T> void to_host(T* p, T v) { *p = v; }
inline uint32_t newest(const uint32_t* p) { return *p; }
/// A clock in microseconds.
inline uint64_t microseconds() {
    timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}
inline void polled_in_vain(uint32_t& polls) {
    simt::vain++;
    if (++polls == simt::PATIENCE) {
        fprintf(stderr, "a kernel waits for a word that nobody says\n");
        abort();
    }
    sched_yield();
}
