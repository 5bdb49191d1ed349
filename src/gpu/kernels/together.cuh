// A third machine for the kernels, in tests: every thread of a block is one of its own, as on a GPU. It runs until it waits, then another runs
// (`together.cpp`). What threads read and write is watched, so that a missing wait is found whatever the order in which they happened to run.
#pragma once

#include <time.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace simt {

/// What a lane shows to the others of its warp.
struct Shown {
    uint32_t word[12];
};

/// The number in its block of the thread that runs.
int me();
/// Shared memory of the block that runs: the same for the same key.
void* shared(const void* key, size_t bytes);
/// All threads of the block wait for each other here, or all of a warp. `site` tells places apart.
void block_waits(const void* site);
void warp_waits(const void* site);
/// What the 32 lanes of the warp show here, good until the next call but one. No wait for memory: a shuffle orders nothing.
const Shown* shown(const void* site, const Shown& mine);
/// All that was queued before the kernel is done.
void in_turn();
void set_bit(uint32_t* p, uint32_t bit);
void put_alike(uint32_t* p, uint32_t value);
void copy(void* to, const void* from, size_t bytes);
/// The words of the mailbox. What the host wrote may be read once a thread has heard its word, in order after that; what is written for it must be in order before it is told so, and fenced
/// by who wrote it.
uint32_t heard(const uint32_t* word);
void reads_of_host();
void say(uint32_t* word, uint32_t v);
void writes_for_host();
void polled_in_vain(uint32_t& polls);
/// Run a block, thread by thread; false if that ended in an error.
bool run_block(uint32_t block, uint32_t threads, void (*body)(void*), void* with);

/// Another address for every type.
template <class F> const void* site_of() {
    static const char here = 0;
    return &here;
}

}  // namespace simt

// Copies of memory are watched as well.
#define memcpy simt::copy
#define SHARED(type, name) \
    type& name = *(type*)simt::shared([] { static const char here = 0; return (const void*)&here; }(), sizeof(type))

template <class T> struct PerThread {
    T v;
    PerThread() { memset((void*)&v, 0xff, sizeof v); }
    T& operator[](int) { return v; }
};

inline void in_turn() { simt::in_turn(); }
inline void set_bit(uint32_t* p, uint32_t bit) { simt::set_bit(p, bit); }
inline void put_alike(uint32_t& place, uint32_t value) { simt::put_alike(&place, value); }

inline uint32_t heard(const uint32_t* word) { return simt::heard(word); }
inline void say(uint32_t* word, uint32_t v) { simt::say(word, v); }
template <class T> T from_host(const T* p) {
    simt::reads_of_host();
    return *p;
}
template <class T> void to_host(T* p, T v) {
    simt::writes_for_host();
    *p = v;
}
inline uint32_t newest(const uint32_t* p) { return *p; }
/// A clock in microseconds.
inline uint64_t microseconds() {
    timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}
inline void polled_in_vain(uint32_t& polls) { simt::polled_in_vain(polls); }

template <class F> void apart(const Block&, F f) { f(simt::me()); }

inline void warps_wait(const Block&) { simt::warp_waits(simt::site_of<void>()); }

template <class F> void phase(const Block&, F f) {
    f(simt::me());
    simt::block_waits(simt::site_of<F>());
}

/// What lane `from` of the warp has.
inline float taken(const void* site, float mine, int from) {
    simt::Shown s = {};
    memcpy(s.word, &mine, 4);
    float theirs;
    memcpy(&theirs, simt::shown(site, s)[from].word, 4);
    return theirs;
}

template <class G> void butterfly_steps(float& a, int width, G g) {
    for (int o = width / 2; o; o /= 2) a = g(a, taken(simt::site_of<G>(), a, (simt::me() ^ o) % LANES));
}

template <class G> void butterfly(const Block&, PerThread<float>& a, G g) { butterfly_steps(a.v, LANES, g); }

template <int N, class G> void butterfly(const Block&, PerThread<Few<float, N>>& a, G g) {
    for (int i = 0; i < N; i++) butterfly_steps(a.v[i], LANES, g);
}

template <int M, int N> void sum_first_among(const Block&, PerThread<Few<float, N>>& a, int width) {
    for (int i = 0; i < M; i++) butterfly_steps(a.v[i], width, [](float p, float q) { return p + q; });
}

template <int N> void sum_among(const Block& b, PerThread<Few<float, N>>& a, int width) { sum_first_among<N>(b, a, width); }

template <int N> void max_among(const Block&, PerThread<Few<float, N>>& a, int width) {
    for (int i = 0; i < N; i++) butterfly_steps(a.v[i], width, [](float p, float q) { return fmaxf(p, q); });
}

template <int N, class From> void taken_from(const Block&, PerThread<Few<float, N>>& a, From from) {
    for (int i = 0; i < N; i++) a.v[i] = taken(simt::site_of<From>(), a.v[i], from(simt::me()));
}
