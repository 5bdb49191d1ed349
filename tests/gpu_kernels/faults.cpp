// Small kernels with one fault each, and some without, so that it is seen that the watch over threads sees them (`together.cpp`).
#include "mailbox.cuh"

#undef memcpy

struct Room {
    float of[256];
};

typedef void (*Kernel)(const Block&, float*);

/// Every thread writes, waits as `wait` does, and reads what a neighbour wrote that is `apart` threads away.
template <class Wait> static void neighbour(const Block& block, float* out, int away, Wait wait) {
    in_turn();
    SHARED(Room, room);
    apart(block, [&](int t) { room.of[t] = (float)t; });
    wait();
    apart(block, [&](int t) { out[block.x * block.threads + t] = room.of[t ^ away]; });
}

static void right(const Block& block, float* out) {
    neighbour(block, out, 64, [&] { phase(block, [](int) {}); });
}
static void right_in_a_warp(const Block& block, float* out) {
    neighbour(block, out, 1, [&] { warps_wait(block); });
}
static void no_wait(const Block& block, float* out) {
    neighbour(block, out, 1, [] {});
}
static void wait_of_the_warp_alone(const Block& block, float* out) {
    neighbour(block, out, 64, [&] { warps_wait(block); });
}
static void shuffle_for_a_wait(const Block& block, float* out) {
    PerThread<float> x;
    apart(block, [&](int t) { x[t] = 1; });
    neighbour(block, out, 1, [&] { warp_sum(block, x); });
}
static void written_while_read(const Block& block, float* out) {
    in_turn();
    SHARED(Room, room);
    phase(block, [&](int t) { room.of[t] = (float)t; });
    apart(block, [&](int t) { out[block.x * block.threads + t] = room.of[t ^ 1]; });
    apart(block, [&](int t) { room.of[t] = 0; });
}
static void blocks_write_the_same(const Block& block, float* out) {
    in_turn();
    apart(block, [&](int t) { out[t] = (float)block.x; });
}
static void one_block_reads_another(const Block& block, float* out) {
    in_turn();
    apart(block, [&](int t) {
        if (block.x == 0) out[t] = 1;
        else out[block.threads + t] = out[t];
    });
}
static void alike(const Block& block, float*) {
    in_turn();
    SHARED(uint32_t, word);
    apart(block, [&](int) { put_alike(word, 7); });
}
static void not_alike(const Block& block, float*) {
    in_turn();
    SHARED(uint32_t, word);
    apart(block, [&](int t) { put_alike(word, (uint32_t)t / 100); });
}
static void waits_in_two_places(const Block& block, float*) {
    in_turn();
    if (simt::me() < 32) phase(block, [](int) {});
    else phase(block, [](int) {});
}
static void leaves_its_warp(const Block& block, float* out) {
    in_turn();
    if (simt::me() == 7) return;
    PerThread<float> x;
    apart(block, [&](int t) { x[t] = (float)t; });
    warp_sum(block, x);
    apart(block, [&](int t) { out[block.x * block.threads + t] = x[t]; });
}
static void reads_before_its_turn(const Block& block, float* out) {
    float early = out[block.x * block.threads + simt::me()];
    in_turn();
    apart(block, [&](int t) { out[block.x * block.threads + t] = early + 1; });
}
static void never_waits_for_its_turn(const Block&, float*) {}

/// All threads but one write for the host, which that one tells.
template <class Wait> static void tells(const Block& block, float* out, Wait wait) {
    in_turn();
    uint32_t* mine = (uint32_t*)out + block.x * block.threads;
    apart(block, [&](int t) {
        if (t) to_host(mine + t, (uint32_t)t);
    });
    wait();
    apart(block, [&](int t) {
        if (t == 0) say(mine, 1);
    });
}
static void tells_the_host(const Block& block, float* out) {
    tells(block, out, [&] { phase(block, [](int) {}); });
}
static void tells_before_all_have_written(const Block& block, float* out) {
    tells(block, out, [&] { warps_wait(block); });
}
static void tells_while_others_write(const Block& block, float* out) {
    tells(block, out, [] {});
}
/// One thread hears that the host has said 0, and all read what it wrote.
template <class Wait> static void hears(const Block& block, float* out, Wait wait) {
    in_turn();
    uint32_t* mine = (uint32_t*)out + block.x * block.threads;
    apart(block, [&](int t) {
        if (t == 0) heard(mine);
    });
    wait();
    apart(block, [&](int t) {
        if (t) mine[t] = from_host(mine + t) + 1;
    });
}
static void hears_the_host(const Block& block, float* out) {
    hears(block, out, [&] { phase(block, [](int) {}); });
}
static void one_hears_and_others_read(const Block& block, float* out) {
    hears(block, out, [&] { warps_wait(block); });
}
static void reads_what_nobody_has_heard_of(const Block& block, float* out) {
    in_turn();
    apart(block, [&](int t) { from_host((uint32_t*)out + t); });
}

/// Run one of them with two blocks of 128 threads over 256 floats. 0, 1 if there is no such kernel, 3 after an error.
extern "C" int rotary_fault(const char* name, float* out) {
#define FAULT(kernel) {#kernel, kernel}
    const struct {
        const char* name;
        Kernel kernel;
    } all[] = {FAULT(right), FAULT(right_in_a_warp), FAULT(no_wait), FAULT(wait_of_the_warp_alone), FAULT(shuffle_for_a_wait), FAULT(written_while_read),
               FAULT(blocks_write_the_same), FAULT(one_block_reads_another), FAULT(alike), FAULT(not_alike), FAULT(waits_in_two_places), FAULT(leaves_its_warp), FAULT(reads_before_its_turn),
               FAULT(never_waits_for_its_turn), FAULT(tells_the_host), FAULT(tells_before_all_have_written), FAULT(tells_while_others_write), FAULT(hears_the_host),
               FAULT(one_hears_and_others_read), FAULT(reads_what_nobody_has_heard_of)};
    for (const auto& one : all) {
        if (strcmp(one.name, name)) continue;
        for (uint32_t x = 0; x < 2; x++) {
            struct With {
                Block block;
                float* out;
                Kernel kernel;
            } with = {{x, 0, 0, 128}, out, one.kernel};
            if (!simt::run_block(x, 128, [](void* w) { ((With*)w)->kernel(((With*)w)->block, ((With*)w)->out); }, &with)) return 3;
        }
        return 0;
    }
    return 1;
}
