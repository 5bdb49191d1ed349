// When each kernel and copy began and ended, as the driver's tracing library (CUPTI) tells it, one line each: begin and end in ns, name, grid (of a copy: bytes), threads, stream, recording.
// The driver loads it into a program that runs with CUDA_INJECTION64_PATH; see times.sh.
#include <cupti.h>

#include <cstdio>
#include <cstdlib>

static FILE* out;

static void room(uint8_t** buffer, size_t* bytes, size_t* records) {
    *bytes = 32 << 20, *records = 0;
    *buffer = (uint8_t*)aligned_alloc(64, *bytes);
}

template <class Record> static void begin(const Record* r) { fprintf(out, "%llu,%llu,", (unsigned long long)r->start, (unsigned long long)r->end); }

static void told(CUcontext, uint32_t, uint8_t* buffer, size_t, size_t bytes) {
    CUpti_Activity* record = nullptr;
    while (cuptiActivityGetNextRecord(buffer, bytes, &record) == CUPTI_SUCCESS) {
        if (record->kind == CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL) {
            auto* k = (CUpti_ActivityKernel10*)record;
            begin(k);
            fprintf(out, "%s,%d,%d,%d,%d,%u,%u\n", k->name, k->gridX, k->gridY, k->gridZ, k->blockX, k->streamId, k->graphId);
        } else if (record->kind == CUPTI_ACTIVITY_KIND_MEMCPY) {
            auto* c = (CUpti_ActivityMemcpy6*)record;
            const char* way = c->copyKind == CUPTI_ACTIVITY_MEMCPY_KIND_HTOD ? "up" : c->copyKind == CUPTI_ACTIVITY_MEMCPY_KIND_DTOH ? "down" : "within";
            begin(c);
            fprintf(out, "%s,%llu,0,0,0,%u,%u\n", way, (unsigned long long)c->bytes, c->streamId, c->graphId);
        }
    }
    free(buffer);
}

static void done() {
    cuptiActivityFlushAll(1);
    fclose(out);
}

extern "C" int InitializeInjection(void) {
    const char* name = getenv("KERNEL_TIMES");
    if (!name || !(out = fopen(name, "w"))) return 0;
    cuptiActivityRegisterCallbacks(room, told);
    cuptiActivityEnable(CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL);
    cuptiActivityEnable(CUPTI_ACTIVITY_KIND_MEMCPY);
    atexit(done);
    return 1;
}
