// The heap: what malloc and brk made stays, and both grow on from where they were.
#include "support/object.h"

enum { BLOCKS = 500 };

int main(int argc, char **argv) {
    object_start(argc, argv);
    static char *blocks[BLOCKS];
    for (int i = 0; i < BLOCKS; i++) {
        blocks[i] = malloc((size_t)i * 37 + 1);
        object_fill(blocks[i], (size_t)i * 37 + 1, (uint64_t)i);
    }
    for (int i = 0; i < BLOCKS; i += 3) {
        free(blocks[i]);
        blocks[i] = NULL;
    }
    char *end = sbrk(0);
    char *own = sbrk(5 * PAGE + 123);
    CHECK(own != (void *)-1, "sbrk: %s", strerror(errno));
    object_fill(own, 5 * PAGE, 600);
    char *before = sbrk(0);
    object_ready_and_wait();
    SABOTAGE(own[PAGE]++);
    CHECK(sbrk(0) == before, "the break is %p, was %p", sbrk(0), (void *)before);
    CHECK(end <= own, "set-up");
    CHECK_FILLED(own, 5 * PAGE, 600, "the memory from sbrk");
    char *more = sbrk(300 * PAGE);
    CHECK(more == before, "the heap does not grow at its end: %p", (void *)more);
    object_fill(more, 300 * PAGE, 601);
    for (int i = 0; i < BLOCKS; i++) {
        if (blocks[i] == NULL) {
            blocks[i] = malloc((size_t)i * 37 + 1);
            object_fill(blocks[i], (size_t)i * 37 + 1, (uint64_t)i);
        }
    }
    for (int i = 0; i < BLOCKS; i++) {
        CHECK_FILLED(blocks[i], (size_t)i * 37 + 1, (uint64_t)i, "a block");
        free(blocks[i]);
    }
    CHECK_FILLED(more, 300 * PAGE, 601, "the grown heap");
    CHECK_FILLED(own, 5 * PAGE, 600, "the memory from sbrk afterwards");
    object_pass();
}
