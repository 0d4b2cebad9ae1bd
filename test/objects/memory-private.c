// Private anonymous memory: patterns, holes never touched, pages of zeros, pages given back with
// MADV_DONTNEED, and areas that were unmapped in the middle.
#include "support/object.h"

enum { PAGES = 512, ANONYMOUS = MAP_PRIVATE | MAP_ANONYMOUS, READ_WRITE = PROT_READ | PROT_WRITE };

static unsigned char resident[PAGES];

static int count_resident(void *memory) {
    int count = 0;
    MUST(mincore(memory, PAGES * PAGE, resident));
    for (int i = 0; i < PAGES; i++) {
        count += resident[i] & 1;
    }
    return count;
}

int main(int argc, char **argv) {
    object_start(argc, argv);
    char *full = object_map(PAGES * PAGE, READ_WRITE, ANONYMOUS, -1, 0);
    object_fill(full, PAGES * PAGE, 1);
    char *sparse = object_map(PAGES * PAGE, READ_WRITE, ANONYMOUS, -1, 0);
    for (int i = 0; i < PAGES; i += 3) {
        object_fill(sparse + i * PAGE, PAGE, (uint64_t)i + 10);
    }
    char *untouched = object_map(PAGES * PAGE, READ_WRITE, ANONYMOUS | MAP_NORESERVE, -1, 0);
    char *zeros = object_map(PAGES * PAGE, READ_WRITE, ANONYMOUS, -1, 0);
    memset(zeros, 0, PAGES * PAGE);
    char *dropped = object_map(PAGES * PAGE, READ_WRITE, ANONYMOUS, -1, 0);
    object_fill(dropped, PAGES * PAGE, 3);
    MUST(madvise(dropped + 100 * PAGE, 200 * PAGE, MADV_DONTNEED));
    char *holed = object_map(PAGES * PAGE, READ_WRITE, ANONYMOUS, -1, 0);
    object_fill(holed, PAGES * PAGE, 4);
    MUST(munmap(holed + 50 * PAGE, 10 * PAGE));
    char *huge_gap = object_map(1UL << 36, READ_WRITE, ANONYMOUS | MAP_NORESERVE, -1, 0);
    object_fill(huge_gap + (1UL << 35), PAGE, 5);
    object_ready_and_wait();
    SABOTAGE(full[77777] ^= 1);
    CHECK_FILLED(full, PAGES * PAGE, 1, "the full area");
    CHECK(count_resident(untouched) == 0, "the untouched area has resident pages");
    CHECK(count_resident(sparse) <= PAGES / 3 + 1, "the sparse area has become dense");
    for (int i = 0; i < PAGES; i++) {
        if (i % 3 == 0) {
            CHECK_FILLED(sparse + i * PAGE, PAGE, (uint64_t)i + 10, "a page of the sparse area");
        } else {
            CHECK_ZERO(sparse + i * PAGE, PAGE, "a hole of the sparse area");
        }
    }
    CHECK_ZERO(untouched, PAGES * PAGE, "the untouched area");
    CHECK_ZERO(zeros, PAGES * PAGE, "the area of zeros");
    CHECK_ZERO(dropped + 100 * PAGE, 200 * PAGE, "the dropped pages");
    char *want = malloc(PAGES * PAGE);
    object_fill(want, PAGES * PAGE, 3);
    CHECK(memcmp(dropped, want, 100 * PAGE) == 0, "before the dropped pages");
    CHECK(memcmp(dropped + 300 * PAGE, want + 300 * PAGE, 212 * PAGE) == 0, "after them");
    object_fill(want, PAGES * PAGE, 4);
    CHECK(memcmp(holed, want, 50 * PAGE) == 0, "before the hole");
    CHECK(memcmp(holed + 60 * PAGE, want + 60 * PAGE, 452 * PAGE) == 0, "after the hole");
    CHECK(mincore(holed + 50 * PAGE, PAGE, resident) == -1 && errno == ENOMEM, "the hole is gone");
    CHECK_FILLED(huge_gap + (1UL << 35), PAGE, 5, "the page in the middle of 64 GiB");
    CHECK_ZERO(huge_gap + (1UL << 34), PAGE, "a page of the 64 GiB");
    object_pass();
}
