// The main stack: deep content, and it still grows downwards by itself; a mapping made with
// MAP_GROWSDOWN does too.
#include "support/object.h"

enum { FRAME = 4000, DEPTH = 60, FURTHER = 500 };

static void dig(int depth, int bottom, bool stops) {
    char frame[FRAME];
    object_fill(frame, FRAME, (uint64_t)depth);
    if (depth < bottom) {
        dig(depth + 1, bottom, stops);
    } else if (stops) {
        object_ready_and_wait();
        SABOTAGE(frame[5]++);
        dig(depth + 1, depth + FURTHER, false); // 2 MB further than the stack has ever been
    }
    CHECK_FILLED(frame, FRAME, (uint64_t)depth, "a frame of the stack");
}

int main(int argc, char **argv) {
    object_start(argc, argv);
    char *grows = object_map(64 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    MUST(munmap(grows, 64 * PAGE));
    char *top = mmap(grows + 60 * PAGE, 4 * PAGE, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_GROWSDOWN | MAP_FIXED_NOREPLACE, -1, 0);
    CHECK(top == grows + 60 * PAGE, "mmap: %s", strerror(errno));
    object_fill(top, 4 * PAGE, 900);
    top[-1] = 1; // grows now
    dig(0, DEPTH, true);
    CHECK_FILLED(top, 4 * PAGE, 900, "the growing mapping");
    CHECK_EQUAL(top[-1], 1, "the byte it grew for");
    for (int i = 2; i < 5; i++) {
        top[-i * PAGE] = 2; // and now
    }
    object_pass();
}
