// Shared anonymous memory between a parent and two children (one of them mapped only a part):
// still shared, with the right content, after the restore. Copies would not see each other's words.
#include "support/object.h"

enum { PAGES = 64 };

struct meeting {
    volatile uint32_t from_child[2], from_parent;
};

static char *area;
static struct meeting *meeting;

static void child(void *argument) {
    uintptr_t index = (uintptr_t)argument;
    if (index == 1) {
        MUST(munmap(area, 10 * PAGE));
        MUST(munmap(area + 40 * PAGE, 24 * PAGE));
        MUST(mprotect(area + 10 * PAGE, 30 * PAGE, PROT_READ));
    }
    object_child_wait();
    char *want = malloc(PAGES * PAGE);
    object_fill(want, PAGES * PAGE, 9);
    CHECK(memcmp(area + 10 * PAGE, want + 10 * PAGE, 29 * PAGE) == 0, "content in the child");
    CHECK_EQUAL(meeting->from_parent, 4711, "the parent's word");
    meeting->from_child[index] = (uint32_t)getpid();
}

int main(int argc, char **argv) {
    object_start(argc, argv);
    int read_write = PROT_READ | PROT_WRITE, shared = MAP_SHARED | MAP_ANONYMOUS;
    area = object_map(PAGES * PAGE, read_write, shared, -1, 0);
    meeting = object_map(PAGE, read_write, shared, -1, 0);
    object_fill(area, 39 * PAGE, 9); // the rest is never touched
    pid_t children[2];
    for (uintptr_t i = 0; i < 2; i++) {
        children[i] = object_fork(child, (void *)i);
    }
    object_ready_and_wait();
    SABOTAGE(meeting = object_map(PAGE, read_write, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    CHECK_FILLED(area, 39 * PAGE, 9, "content in the parent");
    CHECK_ZERO(area + 39 * PAGE, 25 * PAGE, "the untouched part");
    meeting->from_parent = 4711;
    object_join_all();
    for (int i = 0; i < 2; i++) {
        CHECK_EQUAL(meeting->from_child[i], children[i], "the child's word");
    }
    object_pass();
}
