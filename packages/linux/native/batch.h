/* Batches of system calls: packages/linux/src/batch.ts. */
#ifndef FERRY_BATCH_H
#define FERRY_BATCH_H

#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <unistd.h>

/* One call of a batch: packages/linux/src/batch.ts writes 64 bytes. */
struct batched_call {
    uint64_t nr, args[6];
    int64_t result;
};
_Static_assert(sizeof(struct batched_call) == 64, "batch.ts writes 64 bytes");

/* Makes every call, with `first` as its first argument, whatever the others gave. */
static inline void ferry_make_calls(struct batched_call *calls, size_t count, uint64_t first) {
    for (size_t i = 0; i < count; i++) {
        uint64_t *a = calls[i].args;
        long result = syscall((long)calls[i].nr, first, a[1], a[2], a[3], a[4], a[5]);
        calls[i].result = result == -1 ? -(int64_t)errno : (int64_t)result;
    }
}

#endif
