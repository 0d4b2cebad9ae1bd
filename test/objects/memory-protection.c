// Protections: PROT_NONE with content, write-only, execute-only code, read-only after writing,
// neighbours with different protections, and that a forbidden access still faults.
#include <setjmp.h>

#include "support/object.h"

static sigjmp_buf landing;

static void on_fault(int number) {
    siglongjmp(landing, number);
}

static bool faults(volatile char *address, bool writes) {
    if (sigsetjmp(landing, 1) != 0) {
        return true;
    }
    if (writes) {
        *address = 1;
    } else {
        (void)*address;
    }
    return false;
}

int main(int argc, char **argv) {
    object_start(argc, argv);
    struct sigaction action = {.sa_handler = on_fault};
    MUST(sigaction(SIGSEGV, &action, NULL));
    static const int protections[] = {PROT_NONE, PROT_READ, PROT_READ | PROT_WRITE,
                                      PROT_READ | PROT_EXEC, PROT_WRITE, PROT_NONE, PROT_EXEC,
                                      PROT_READ | PROT_WRITE | PROT_EXEC};
    enum { AREAS = COUNT_OF(protections), SIZE = 3 * PAGE };
    int anonymous = MAP_PRIVATE | MAP_ANONYMOUS;
    char *area = object_map(AREAS * SIZE, PROT_READ | PROT_WRITE, anonymous, -1, 0);
    object_fill(area, AREAS * SIZE, 31);
    // mov eax, 4711; ret
    static const unsigned char code[] = {0xb8, 0x67, 0x12, 0, 0, 0xc3};
    memcpy(area + 6 * SIZE, code, sizeof code);
    memcpy(area + 3 * SIZE, code, sizeof code);
    for (int i = 0; i < AREAS; i++) {
        MUST(mprotect(area + i * SIZE, SIZE, protections[i]));
    }
    object_ready_and_wait();
    SABOTAGE(MUST(mprotect(area, SIZE, PROT_READ)));
    for (int i = 0; i < AREAS; i++) {
        bool readable = (protections[i] & (PROT_READ | PROT_WRITE)) != 0;
        bool writable = (protections[i] & PROT_WRITE) != 0;
        if (protections[i] != PROT_EXEC) { // memory protection keys make it unreadable, or not
            CHECK_EQUAL(faults(area + i * SIZE, false), !readable, "read faults");
        }
        CHECK_EQUAL(faults(area + i * SIZE + SIZE - 1, true), !writable, "write faults");
    }
    CHECK_EQUAL(((int (*)(void))(uintptr_t)(area + 6 * SIZE))(), 4711, "code in an exec-only page");
    CHECK_EQUAL(((int (*)(void))(uintptr_t)(area + 3 * SIZE))(), 4711, "code in a r-x page");
    MUST(mprotect(area, AREAS * SIZE, PROT_READ | PROT_WRITE));
    char *want = malloc(AREAS * SIZE);
    object_fill(want, AREAS * SIZE, 31);
    memcpy(want + 6 * SIZE, code, sizeof code);
    memcpy(want + 3 * SIZE, code, sizeof code);
    for (int i = 0; i < AREAS; i++) {
        if ((protections[i] & PROT_WRITE) != 0) {
            want[i * SIZE + SIZE - 1] = 1;
        }
        CHECK(memcmp(area + i * SIZE, want + i * SIZE, SIZE) == 0, "content of area %d", i);
    }
    object_pass();
}
