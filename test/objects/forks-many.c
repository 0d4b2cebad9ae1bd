// Sixty processes, each with memory written after the fork (so that copies differ), each counting.
#include "support/object.h"

enum { CHILDREN = 60, SIZE = 64 * PAGE };

static char *inherited;

static void child(void *argument) {
    uint64_t index = (uint64_t)(uintptr_t)argument;
    pid_t self = getpid(), parent = getppid();
    char *own = inherited + (index % 32) * PAGE;
    object_fill(own, PAGE, index + 1000);
    object_child_wait();
    SABOTAGE(if (index == 37) own[9]++);
    CHECK_EQUAL(getpid(), self, "pid");
    CHECK_EQUAL(getppid(), parent, "ppid");
    CHECK_FILLED(own, PAGE, index + 1000, "the child's own page");
    char *want = malloc(SIZE);
    object_fill(want, SIZE, 5);
    CHECK(memcmp(inherited, want, (size_t)(own - inherited)) == 0, "inherited pages before it");
    size_t after = (size_t)(own - inherited) + PAGE;
    CHECK(memcmp(inherited + after, want + after, SIZE - after) == 0, "inherited pages after it");
}

int main(int argc, char **argv) {
    object_start(argc, argv);
    inherited = object_map(SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    object_fill(inherited, SIZE, 5);
    for (uintptr_t i = 0; i < CHILDREN; i++) {
        object_fork(child, (void *)i);
    }
    object_ready_and_wait();
    CHECK_FILLED(inherited, SIZE, 5, "the root's copy");
    object_join_all();
    object_pass();
}
