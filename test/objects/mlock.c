// Locked memory: a locked area, one locked on fault, and (argv[2] = all) mlockall with
// MCL_CURRENT|MCL_FUTURE, which must hold for memory mapped after the restore too.
#include "support/object.h"

enum { SIZE = 16 * PAGE };

static long locked_kib(void) {
    char status[8192];
    object_read("/proc/self/status", status, sizeof status);
    char *line = strstr(status, "VmLck:");
    CHECK(line != NULL, "status lacks VmLck");
    return strtol(line + 6, NULL, 10);
}

int main(int argc, char **argv) {
    object_start(argc, argv);
    int read_write = PROT_READ | PROT_WRITE, anonymous = MAP_PRIVATE | MAP_ANONYMOUS;
    bool all = argc > 2 && strcmp(argv[2], "all") == 0;
    char *locked = object_map(SIZE, read_write, anonymous, -1, 0);
    char *guard = object_map(PAGE, PROT_NONE, anonymous, -1, 0);
    char *on_fault = object_map(SIZE, read_write, anonymous, -1, 0);
    (void)guard;
    object_fill(locked, SIZE, 1);
    object_fill(on_fault, PAGE, 2);
    if (all) {
        MUST(mlockall(MCL_CURRENT | MCL_FUTURE));
    } else {
        MUST(mlock(locked, SIZE));
        MUST(mlock2(on_fault, SIZE, MLOCK_ONFAULT));
        CHECK_EQUAL(locked_kib(), 2 * SIZE / 1024, "locked before");
    }
    long before = locked_kib();
    object_ready_and_wait();
    SABOTAGE(MUST(munlock(locked, PAGE)));
    CHECK_EQUAL(locked_kib(), before, "locked KiB");
    CHECK_FILLED(locked, SIZE, 1, "the locked area");
    CHECK_FILLED(on_fault, PAGE, 2, "the area locked on fault");
    unsigned char resident[SIZE / PAGE];
    if (!all) {
        MUST(mincore(on_fault, SIZE, resident));
        CHECK_EQUAL(resident[SIZE / PAGE - 1] & 1, 0, "residence of a page locked on fault");
        CHECK_ZERO(on_fault + PAGE, SIZE - PAGE, "its untouched rest");
    } else {
        object_map(SIZE, read_write, anonymous, -1, 0);
        CHECK_EQUAL(locked_kib(), before + SIZE / 1024, "locked KiB after a further mmap");
    }
    object_pass();
}
