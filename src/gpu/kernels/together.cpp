// Threads of a block that run in turns, and what they may do to memory.
//
// Each thread has a stack of its own and runs until it waits. The compiler calls `__tsan_read4` and its like at every access to memory (`-fsanitize=thread`);
// this file defines them in place of the sanitizer's library, whose rules are those of locks: here threads are ordered by the waits of their block, by those of
// their warp, and by nothing else. Of every two bytes of the watched memory it is known who wrote them last and who has read them since. An access that
// is in no order with an earlier one, one of them a write, is told. The order in which threads happen to run does not matter for that.
//
// Told are also: threads that wait in different places, or have left where others wait; what is read before its turn (`in_turn`) but may
// still be written by the kernel before; and what is read of the host's mailbox in no order with its word, or written for it in no order with the device's.
#define TOGETHER
#include "simt.cuh"

#undef memcpy

#include <dlfcn.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <atomic>
#include <memory>
#include <vector>

namespace {

constexpr int THREADS = 256;
constexpr size_t STACK = 128 << 10, SHARED_MOST = 64 << 10;
/// Bytes that are told apart.
constexpr size_t GRAIN = 2;
/// How often kernels have looked for a word of the host's that was not there, and how often one does before it is given up.
std::atomic<uint64_t> vain = 0;
constexpr uint32_t PATIENCE = 1u << 26;

/// A thread at a moment. Moments of one block are ordered by its waits, those of one warp also by the warp's.
struct Moment {
    uint32_t block, thread, block_wait, warp_wait;

    bool before(const Moment& o) const {
        if (block != o.block) return false;
        return thread == o.thread || block_wait < o.block_wait || (thread / LANES == o.thread / LANES && warp_wait < o.warp_wait);
    }
};

/// Those who have read since the last write and are in no order with each other: one, some of a warp, some of a block, or some of several blocks. `last` is the
/// latest of them as far as waits tell.
enum Readers : uint8_t { NOBODY, ONE, OF_WARP, OF_BLOCK, OF_SEVERAL };

/// Atomic writes are in no conflict with each other, nor are writes that are known to be alike.
enum How : uint8_t { READ, WRITE, ATOMIC, ALIKE };

struct Cell {
    Moment written, last;
    bool has_written;
    How how;
    Readers readers;
};

/// What is known of a piece of memory.
struct Watched {
    uintptr_t begin = 0;
    size_t bytes = 0;
    Cell* cells = nullptr;

    void watch(uintptr_t at, size_t len) {
        forget();
        const size_t need = len / GRAIN * sizeof(Cell);
        void* p = mmap(nullptr, need, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (p == MAP_FAILED) return;
        begin = at, bytes = len, cells = (Cell*)p;
    }
    /// Everything that is known; a fresh page says that nothing is.
    void clear() {
        if (cells) madvise(cells, bytes / GRAIN * sizeof(Cell), MADV_DONTNEED);
    }
    void forget() {
        if (cells) munmap(cells, bytes / GRAIN * sizeof(Cell));
        bytes = 0, cells = nullptr;
    }
    ~Watched() { forget(); }
};

enum State : uint8_t { RUNS, WAITS_BLOCK, WAITS_WARP, SHOWS, LEFT };


struct Thread {
    jmp_buf here;
    State state = LEFT;
    bool begun = false, had_its_turn = false;
    const void* site = nullptr;
    uint32_t block_wait = 0, warp_wait = 0, shows = 0;
    bool has_mail = false;
    Moment mailed = {};
};

struct Range {
    uintptr_t begin, end;
};

struct Machine {
    jmp_buf scheduler;
    Thread threads[THREADS];
    simt::Shown shown[2][THREADS];
    uint8_t* stacks = nullptr;
    int now = -1, count = 0;
    uint32_t block = 0;
    /// When a thread of the block last heard the host's word, and when one said the device's.
    bool has_heard = false, has_said = false;
    Moment heard = {}, said = {};
    void (*body)(void*) = nullptr;
    void* with = nullptr;
    /// Device memory that no kernel writes, and that which this kernel may write: of the rest it is not kept who reads it.
    std::vector<Range> constant, written;
    Watched device, block_memory;
    uint8_t* shared = nullptr;
    size_t shared_used = 0;
    struct Named {
        const void* key;
        size_t at;
    };
    std::vector<Named> named;
    char message[512] = "";

    Machine() {
        stacks = (uint8_t*)mmap(nullptr, STACK * THREADS, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        shared = (uint8_t*)mmap(nullptr, SHARED_MOST, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (stacks == MAP_FAILED || shared == MAP_FAILED) fail("no memory for stacks");
        else block_memory.watch((uintptr_t)shared, SHARED_MOST);
    }
    ~Machine() {
        if (stacks != MAP_FAILED) munmap(stacks, STACK * THREADS);
        if (shared != MAP_FAILED) munmap(shared, SHARED_MOST);
    }

    void fail(const char* format, ...) __attribute__((format(printf, 2, 3))) {
        if (*message) return;
        va_list args;
        va_start(args, format);
        vsnprintf(message, sizeof message, format, args);
        va_end(args);
    }
    /// Stop the thread that runs; the block is given up.
    [[noreturn]] void stop() { _longjmp(scheduler, 1); }

    Moment moment() const { return {block, (uint32_t)now, threads[now].block_wait, threads[now].warp_wait}; }

    void wait(State state, const void* site) {
        Thread& t = threads[now];
        t.state = state, t.site = site;
        if (!_setjmp(t.here)) _longjmp(scheduler, 1);
    }

    Watched& memory(uintptr_t at) { return at - device.begin < device.bytes ? device : block_memory; }
    const Cell* cell(uintptr_t at) {
        const Watched& w = memory(at);
        return at - w.begin < w.bytes ? w.cells + (at - w.begin) / GRAIN : nullptr;
    }
    void access(uintptr_t at, size_t bytes, How how, uintptr_t code);
    void touch(Cell& c, uintptr_t at, How how, uintptr_t code);
    bool run(uint32_t threads);
    bool release();
};

thread_local std::unique_ptr<Machine> machine;
/// The same while it runs a block: looked at at every access of every thread.
thread_local Machine* running __attribute__((tls_model("initial-exec"))) = nullptr;

/// Whether anything there is watched: most accesses are to a thread's own stack.
inline bool watched(const void* p) {
    return running && ((uintptr_t)p - running->device.begin < running->device.bytes || (uintptr_t)p - running->block_memory.begin < running->block_memory.bytes);
}

/// Code as an offset in this library, which `addr2line` translates.
size_t offset(uintptr_t code) {
    Dl_info library;
    return dladdr((void*)code, &library) ? code - (uintptr_t)library.dli_fbase : code;
}

void Machine::touch(Cell& c, uintptr_t at, How how, uintptr_t code) {
    const Moment m = moment();
    const bool writes = how != READ;
    const bool in_shared = at - block_memory.begin < block_memory.bytes;
    const auto tell = [&](const Moment& other, const char* did) {
        const bool one_block = other.block == m.block;
        fail("thread %u %s byte %zu of %s memory, which thread %u%s %s, and nothing orders the two (code at %zx)", m.thread, writes ? "writes" : "reads",
             (size_t)(at - (in_shared ? block_memory.begin : device.begin)), in_shared ? "shared" : "device", other.thread, one_block ? "" : " of another block",
             did, offset(code));
        stop();
    };
    if (c.has_written && !(how > WRITE && how == c.how) && !c.written.before(m)) tell(c.written, "has written");
    if (writes) {
        if (c.readers) {
            const Moment& r = c.last;
            const bool ordered = c.readers == ONE       ? r.before(m)
                                 : c.readers == OF_WARP ? r.block == m.block && (r.block_wait < m.block_wait || (r.thread / LANES == m.thread / LANES && r.warp_wait < m.warp_wait))
                                                        : c.readers == OF_BLOCK && r.block == m.block && r.block_wait < m.block_wait;
            if (!ordered) tell(r, "has read");
        }
        c.written = m, c.has_written = true, c.how = how, c.readers = NOBODY;
        return;
    }
    const Moment& r = c.last;
    if (c.readers == OF_SEVERAL) return;
    if (c.readers == NOBODY || (c.readers == ONE && r.before(m))) {
        c.readers = ONE;
    } else if (r.block != m.block) {
        c.readers = OF_SEVERAL;
    } else if (r.block_wait < m.block_wait) {
        c.readers = ONE;
    } else if (c.readers != OF_BLOCK && r.thread / LANES == m.thread / LANES) {
        c.readers = r.warp_wait < m.warp_wait ? ONE : OF_WARP;
    } else {
        c.readers = OF_BLOCK;
    }
    c.last = m;
}

void Machine::access(uintptr_t at, size_t bytes, How how, uintptr_t code) {
    if (now < 0) return;
    const bool writes = how != READ;
    Watched& w = memory(at);
    if (at - w.begin >= w.bytes) return;
    const auto among = [at, bytes](const std::vector<Range>& ranges) {
        for (const Range& r : ranges) {
            if (r.begin < at + bytes && at < r.end) return true;
        }
        return false;
    };
    if (&w == &device && !threads[now].had_its_turn) {
        if (writes || !among(constant)) {
            fail("thread %d %s byte %zu of device memory before its turn (code at %zx)", now, writes ? "writes" : "reads", (size_t)(at - w.begin), offset(code));
            stop();
        }
    }
    if (&w == &device && !writes && !among(written)) return;
    for (size_t g = (at - w.begin) / GRAIN; g <= (at + bytes - 1 - w.begin) / GRAIN; g++) touch(w.cells[g], w.begin + g * GRAIN, how, code);
}

/// Let go on whoever waits for nobody any more; false if that is nobody.
bool Machine::release() {
    bool any = false;
    int left = 0, at_block = 0, odd = -1;
    for (int t = 0; t < count; t++) {
        left += threads[t].state == LEFT, at_block += threads[t].state == WAITS_BLOCK;
        if (threads[t].state == WAITS_BLOCK && threads[t].site != threads[0].site) odd = t;
    }
    if (at_block == count) {
        if (odd >= 0) return fail("threads 0 and %d wait for their block in different places", odd), false;
        for (int t = 0; t < count; t++) threads[t].state = RUNS, threads[t].block_wait++, threads[t].warp_wait++;
        return true;
    }
    for (int w = 0; w < count; w += LANES) {
        const Thread& first = threads[w];
        if (first.state != WAITS_WARP && first.state != SHOWS) continue;
        bool all = true;
        for (int t = w; t < w + LANES; t++) all = all && threads[t].state == first.state && threads[t].site == first.site;
        if (!all) continue;
        for (int t = w; t < w + LANES; t++) threads[t].warp_wait += threads[t].state == WAITS_WARP, threads[t].state = RUNS;
        any = true;
    }
    if (!any && left < count) {
        const char* does[] = {"runs", "waits for its block", "waits for its warp", "shuffles with its warp", "has left"};
        for (int t = 1; t < count; t++) {
            const Thread &a = threads[t - 1], &b = threads[t];
            if (a.state != b.state || a.site != b.site) {
                fail("thread %d %s and thread %d %s%s", t - 1, does[a.state], t, does[b.state], a.state == b.state ? " in another place" : "");
            }
        }
    }
    return any;
}

/// What a thread's stack begins with.
void begin() {
    Machine& m = *machine;
    for (;;) {
        m.body(m.with);
        Thread& t = m.threads[m.now];
        if (!t.had_its_turn) m.fail("thread %d leaves without having waited for its turn", m.now);
        t.state = LEFT;
        if (!_setjmp(t.here)) _longjmp(m.scheduler, 1);
    }
}

bool Machine::run(uint32_t threads_of_block) {
    count = (int)threads_of_block;
    memset(shared, 0xff, SHARED_MOST);
    block_memory.clear();
    named.clear(), shared_used = 0;
    has_heard = has_said = false;
    for (int t = 0; t < count; t++) {
        Thread& f = threads[t];
        f.state = RUNS, f.block_wait = f.warp_wait = f.shows = 0, f.had_its_turn = false, f.has_mail = false;
    }
    do {
        for (volatile int t = 0; t < count; t = t + 1) {
            Thread& f = threads[t];
            if (f.state != RUNS) continue;
            now = t;
            if (!_setjmp(scheduler)) {
                if (f.begun) _longjmp(f.here, 1);
                f.begun = true;
                ucontext_t there;
                getcontext(&there);
                there.uc_stack.ss_sp = stacks + STACK * t, there.uc_stack.ss_size = STACK, there.uc_link = nullptr;
                makecontext(&there, begin, 0);
                setcontext(&there);
            }
            now = -1;
            if (*message) {
                for (Thread& lost : threads) lost.begun = false;
                return false;
            }
        }
    } while (release());
    for (int t = 0; t < count; t++) {
        if (threads[t].state != LEFT) fail("thread %d waits for ever", t);
    }
    if (!*message) return true;
    for (Thread& lost : threads) lost.begun = false;
    return false;
}

}  // namespace

namespace simt {

int me() { return running->now; }

void* shared(const void* key, size_t bytes) {
    Machine& m = *machine;
    for (const auto& n : m.named) {
        if (n.key == key) return m.shared + n.at;
    }
    const size_t at = m.shared_used;
    if (at + bytes > SHARED_MOST) {
        m.fail("%zu bytes of shared memory are more than a block has", at + bytes);
        m.stop();
    }
    m.shared_used = (at + bytes + 127) / 128 * 128;
    m.named.push_back({key, at});
    return m.shared + at;
}

void block_waits(const void* site) { machine->wait(WAITS_BLOCK, site); }
void warp_waits(const void* site) { machine->wait(WAITS_WARP, site); }

const Shown* shown(const void* site, const Shown& mine) {
    Machine& m = *machine;
    Shown* room = m.shown[m.threads[m.now].shows++ % 2];
    room[m.now] = mine;
    m.wait(SHOWS, site);
    return room + m.now / LANES * LANES;
}

void in_turn() { machine->threads[machine->now].had_its_turn = true; }

void set_bit(uint32_t* p, uint32_t bit) {
    machine->access((uintptr_t)p, 4, ATOMIC, (uintptr_t)__builtin_return_address(0));
    *p |= bit;
}

void put_alike(uint32_t* p, uint32_t value) {
    Machine& m = *machine;
    const uintptr_t code = (uintptr_t)__builtin_return_address(0);
    const Cell* c = m.cell((uintptr_t)p);
    if (c && c->has_written && c->how == ALIKE && !c->written.before(m.moment()) && *p != value) {
        m.fail("thread %d puts %u where thread %u has put %u, and nothing orders the two (code at %zx)", m.now, value, c->written.thread, *p, offset(code));
        m.stop();
    }
    m.access((uintptr_t)p, 4, ALIKE, code);
    *p = value;
}

void copy(void* to, const void* from, size_t bytes) {
    const uintptr_t code = (uintptr_t)__builtin_return_address(0);
    if (bytes && watched(from)) running->access((uintptr_t)from, bytes, READ, code);
    if (bytes && watched(to)) running->access((uintptr_t)to, bytes, WRITE, code);
    memcpy(to, from, bytes);
}

uint32_t heard(const uint32_t* word) {
    Machine& m = *machine;
    m.access((uintptr_t)word, 4, READ, (uintptr_t)__builtin_return_address(0));
    m.has_heard = true, m.heard = m.moment();
    return __atomic_load_n(word, __ATOMIC_ACQUIRE);
}

void reads_of_host() {
    Machine& m = *machine;
    if (m.has_heard && m.heard.before(m.moment())) return;
    m.fail("thread %d reads what the host wrote, in no order with its word (code at %zx)", m.now, offset((uintptr_t)__builtin_return_address(0)));
    m.stop();
}

void writes_for_host() {
    Machine& m = *machine;
    if (m.has_said && !m.said.before(m.moment())) {
        m.fail("thread %d writes for the host, which thread %u has told, and nothing orders the two (code at %zx)", m.now, m.said.thread,
               offset((uintptr_t)__builtin_return_address(0)));
        m.stop();
    }
    m.threads[m.now].has_mail = true, m.threads[m.now].mailed = m.moment();
}

void say(uint32_t* word, uint32_t v) {
    Machine& m = *machine;
    const uintptr_t code = (uintptr_t)__builtin_return_address(0);
    for (int t = 0; t < m.count; t++) {
        const Thread& other = m.threads[t];
        if (!other.has_mail || other.mailed.before(m.moment())) continue;
        m.fail("thread %d tells the host of what thread %d has written, and nothing orders the two (code at %zx)", m.now, t, offset(code));
        m.stop();
    }
    m.access((uintptr_t)word, 4, WRITE, code);
    m.has_said = true, m.said = m.moment();
    __atomic_store_n(word, v, __ATOMIC_RELEASE);
}

void polled_in_vain(uint32_t& polls) {
    Machine& m = *machine;
    vain++;
    if (++polls == PATIENCE) {
        m.fail("thread %d waits for a word that nobody says", m.now);
        m.stop();
    }
    sched_yield();
}

bool run_block(uint32_t block, uint32_t threads, void (*body)(void*), void* with) {
    Machine& m = *machine;
    m.block = block, m.body = body, m.with = with;
    running = &m;
    const bool right = m.run(threads);
    running = nullptr;
    return right;
}

}  // namespace simt

/// Before a kernel: which memory to watch; what of it no kernel writes, so that it may be read before its turn; and what this kernel may write (pairs of begin and end).
extern "C" void rotary_together_watch(uintptr_t at, size_t bytes, const uintptr_t* constant, size_t constants, const uintptr_t* written, size_t writes) {
    if (!machine) machine = std::make_unique<Machine>();
    Machine& m = *machine;
    *m.message = 0;
    m.constant.clear(), m.written.clear();
    for (size_t i = 0; i < constants; i++) m.constant.push_back({constant[2 * i], constant[2 * i + 1]});
    for (size_t i = 0; i < writes; i++) m.written.push_back({written[2 * i], written[2 * i + 1]});
    m.device.watch(at, bytes);
    if (!m.device.cells || !m.block_memory.cells) m.fail("no memory to keep who used what");
}

/// What went wrong since then; empty if nothing did.
extern "C" const char* rotary_together_message() { return machine ? machine->message : ""; }

/// How often a kernel has looked for a word of the host's that was not there.
extern "C" uint64_t rotary_host_vain_polls() { return vain; }

#define HERE (uintptr_t)__builtin_return_address(0)
#define ACCESS(name, bytes, how)                                                                        \
    extern "C" void __tsan_##name(void* p) {                                                            \
        if (watched(p)) running->access((uintptr_t)p, bytes, how, HERE);                      \
    }
#define SIZES(of)               \
    ACCESS(of##read1, 1, READ)  \
    ACCESS(of##read2, 2, READ)  \
    ACCESS(of##read4, 4, READ)  \
    ACCESS(of##read8, 8, READ)  \
    ACCESS(of##read16, 16, READ) \
    ACCESS(of##write1, 1, WRITE)  \
    ACCESS(of##write2, 2, WRITE)  \
    ACCESS(of##write4, 4, WRITE)  \
    ACCESS(of##write8, 8, WRITE)  \
    ACCESS(of##write16, 16, WRITE)
SIZES()
SIZES(unaligned_)

extern "C" void __tsan_read_range(void* p, size_t bytes) {
    if (bytes && watched(p)) running->access((uintptr_t)p, bytes, READ, HERE);
}
extern "C" void __tsan_write_range(void* p, size_t bytes) {
    if (bytes && watched(p)) running->access((uintptr_t)p, bytes, WRITE, HERE);
}
extern "C" void __tsan_func_entry(void*) {}
extern "C" void __tsan_func_exit() {}
extern "C" void __tsan_init() {}
