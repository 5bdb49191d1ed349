// How a kernel that runs talks with the host: `AwaitHost`, `TellHost` and `AddAnswer` in params.rs.
//
// The mailbox is page-locked memory of the host that the device reads and writes where it lies. Whoever writes there says so afterwards in a word that only it writes: said with release and
// heard with acquire, both in the scope of the whole system, so that who hears the word finds all that was written before it. One thread hears or says the word; a wait of the block puts
// the others' reads and writes behind or before it, which the memory model of PTX carries on ("causality order"). The rest of the mailbox is read by strong loads as well: a plain one might
// be answered by a cache of the device that knows of no host.
#pragma once

#include "params.cuh"
#include "simt.cuh"

/// Polls before a block dozes between them. Each is a read over the bus of about a microsecond: a host that computes answers within these, one that was stopped does not.
#define POLLS 1000

#ifdef __CUDACC__

/// The host's word; what is read afterwards is what the host had written before it, or newer.
DEVICE uint32_t heard(const uint32_t* word) {
    uint32_t v;
    asm volatile("ld.acquire.sys.global.u32 %0, [%1];" : "=r"(v) : "l"(__cvta_generic_to_global(word)) : "memory");
    return v;
}
/// Say the device's word. Release is enough for what the other threads of the block have written before a wait of the block, too: a fence of each of them, which waits for the bus, would only come
/// before this one's.
DEVICE void say(uint32_t* word, uint32_t v) {
    asm volatile("st.release.sys.global.u32 [%0], %1;" ::"l"(__cvta_generic_to_global(word)), "r"(v) : "memory");
}

/// A piece of the mailbox, after its word was heard.
DEVICE uint32_t from_host(const uint32_t* p) {
    uint32_t v;
    asm volatile("ld.relaxed.sys.global.u32 %0, [%1];" : "=r"(v) : "l"(__cvta_generic_to_global(p)) : "memory");
    return v;
}
DEVICE Word4 from_host(const Word4* p) {
    Word4 v;
    asm volatile("ld.relaxed.sys.global.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(__cvta_generic_to_global(p)) : "memory");
    return v;
}
/// Write a piece of the mailbox.
DEVICE void to_host(uint32_t* p, uint32_t v) { asm volatile("st.relaxed.sys.global.u32 [%0], %1;" ::"l"(__cvta_generic_to_global(p)), "r"(v) : "memory"); }
DEVICE void to_host(Word4* p, Word4 v) {
    asm volatile("st.relaxed.sys.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(p)), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w) : "memory");
}
/// Of device memory what a copy has put there, and no older line of this processor's own cache.
DEVICE uint32_t newest(const uint32_t* p) { return from_host(p); }
/// Between two polls.
DEVICE void polled_in_vain(uint32_t& polls) {
    if (polls < POLLS) polls++;
    else __nanosleep(200);
}
/// A clock that all blocks share, in microseconds.
DEVICE uint64_t microseconds() {
    uint64_t ns;
    asm volatile("mov.u64 %0, %globaltimer;" : "=l"(ns));
    return ns / 1000;
}

#endif

/// The block waits until the host has said `turn + step`, or more; then `from_host` has what it wrote before, and `gave_up` is 0. Without `patience` there is no limit of time: a process may be
/// stopped and go on after hours. With it, a host that was not heard in time, or not by an earlier kernel of the same token, is not waited for any more.
///
/// May be called before `in_turn`. What the host writes depends on no order of kernels. `turn` is written by a copy that is queued before the first of a token's kernels, and the next one after the
/// last: only the edge from a kernel to the next lets that begin early, the first kernel begins when the copy is done, and each later one when all blocks of the one before have begun. So no kernel
/// of a token runs before its `turn` is there. That holds for a recording and for launches one by one, and for a copy that is itself part of the recording, as long as no kernel writes `turn`.
template <class Params> DEVICE void await_word(const Block& block, const Params& p, uint32_t& gave_up) {
    phase(block, [&](int t) INLINE {
        if (t) return;
        const uint32_t number = newest(p.turn), awaited = number + p.step;
        uint32_t polls = 0, over = 0;
        uint64_t begin = 0;
        while ((int32_t)(heard(p.word) - awaited) < 0) {
            if (p.patience) {
                if (!begin) begin = microseconds(), over = from_host(p.given_up) == number;
                over |= microseconds() - begin > p.patience;
                if (over) break;
            }
            polled_in_vain(polls);
        }
        gave_up = over;
    });
}

/// For the kernels behind this one, and for the host.
template <class Params> DEVICE void say_given_up(const Params& p) { say(p.given_up, newest(p.turn)); }

/// Pieces that a thread has on their way at once: a read over the bus takes as long as some hundred instructions.
#define UNDER_WAY 4

/// Whether both can be moved in pieces of sixteen bytes.
DEVICE bool in_fours(const void* a, const void* b, uint32_t words) { return words % 4 == 0 && aligned16(a) && aligned16(b); }

/// The words are kept in registers until it is the kernel's turn, since kernels before it may still read what was there.
template <class Piece, int N> DEVICE void bring(const Block& block, const AwaitHost& p, bool gave_up) {
    const uint32_t pieces = p.words / (sizeof(Piece) / 4);
    PerThread<Few<Piece, N>> kept;
    apart(block, [&](int t) INLINE {
#pragma unroll
        for (int n = 0; n < N; n++) {
            const uint32_t i = n * block.threads + t;
            if (i >= pieces) continue;
            if (gave_up) memset(&kept[t][n], 0xff, sizeof(Piece));
            else kept[t][n] = from_host((const Piece*)p.from + i);
        }
    });
    in_turn();
    apart(block, [&](int t) INLINE {
#pragma unroll
        for (int n = 0; n < N; n++) {
            const uint32_t i = n * block.threads + t;
            if (i < pieces) ((Piece*)p.to)[i] = kept[t][n];
        }
    });
}

template <> struct WaitsItself<AwaitHost> {
    static constexpr bool value = true;
};

DEVICE void await_host_block(const Block& block, const AwaitHost& p) {
    SHARED(uint32_t, gave_up);
    await_word(block, p, gave_up);
    const bool vain = gave_up;
    if (in_fours(p.from, p.to, p.words)) bring<Word4, 1>(block, p, vain);
    else bring<uint32_t, 4>(block, p, vain);
    apart(block, [&](int t) INLINE {
        if (t == 0 && vain) say_given_up(p);
    });
}

template <class Piece> DEVICE void send(const Block& block, const TellHost& p) {
    const uint32_t pieces = p.words / (sizeof(Piece) / 4);
    phase(block, [&](int t) INLINE {
        for (uint32_t begin = t; begin < pieces; begin += UNDER_WAY * block.threads) {
            Few<Piece, UNDER_WAY> held;
#pragma unroll
            for (int n = 0; n < UNDER_WAY; n++) {
                const uint32_t i = begin + n * block.threads;
                if (i < pieces) held[n] = ((const Piece*)p.from)[i];
            }
#pragma unroll
            for (int n = 0; n < UNDER_WAY; n++) {
                const uint32_t i = begin + n * block.threads;
                if (i < pieces) to_host((Piece*)p.to + i, held[n]);
            }
        }
    });
}

DEVICE void tell_host_block(const Block& block, const TellHost& p) {
    if (in_fours(p.from, p.to, p.words)) send<Word4>(block, p);
    else send<uint32_t>(block, p);
    apart(block, [&](int t) INLINE {
        if (t == 0) say(p.word, newest(p.turn) + p.step);
    });
}

DEVICE float plus(float y, uint32_t answer) { return y + bits_float(answer); }
DEVICE Float4 plus(Float4 y, Word4 answer) { return {plus(y.x, answer.x), plus(y.y, answer.y), plus(y.z, answer.z), plus(y.w, answer.w)}; }

template <class Value, class Piece> DEVICE void add_what_came(const Block& block, const AddAnswer& p) {
    const uint32_t pieces = p.len / (sizeof(Piece) / 4);
    apart(block, [&](int t) INLINE {
        for (uint32_t begin = t; begin < pieces; begin += UNDER_WAY * block.threads) {
            Few<Value, UNDER_WAY> y;
            Few<Piece, UNDER_WAY> answer;
#pragma unroll
            for (int n = 0; n < UNDER_WAY; n++) {
                const uint32_t i = begin + n * block.threads;
                if (i < pieces) y[n] = ((const Value*)p.y)[i];
            }
#pragma unroll
            for (int n = 0; n < UNDER_WAY; n++) {
                const uint32_t i = begin + n * block.threads;
                if (i < pieces) answer[n] = from_host((const Piece*)p.from + i);
            }
#pragma unroll
            for (int n = 0; n < UNDER_WAY; n++) {
                const uint32_t i = begin + n * block.threads;
                if (i < pieces) ((Value*)p.y)[i] = plus(y[n], answer[n]);
            }
        }
    });
}

DEVICE void add_answer_block(const Block& block, const AddAnswer& p) {
    SHARED(Partials, room);
    PerThread<float> missed;
    apart(block, [&](int t) INLINE { missed[t] = t < (int)p.pairs && p.slots[t] < 0 ? 1.0f : 0.0f; });
    if (block_sum(block, missed, room) == 0) return;
    SHARED(uint32_t, gave_up);
    await_word(block, p, gave_up);
    if (gave_up) {
        apart(block, [&](int t) INLINE {
            if (t == 0) say_given_up(p);
        });
        return;
    }
    if (in_fours(p.from, p.y, p.len)) add_what_came<Float4, Word4>(block, p);
    else add_what_came<float, uint32_t>(block, p);
}
