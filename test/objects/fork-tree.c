// A tree of three levels: every process keeps its pid, its parent, its children.
#include "support/object.h"

enum { BRANCHES = 3, LEAVES = 2 };

static void check_self(pid_t self, pid_t parent) {
    CHECK_EQUAL(getpid(), self, "pid");
    CHECK_EQUAL(getppid(), parent, "ppid");
}

static void leaf(void *argument) {
    pid_t self = getpid(), parent = getppid();
    uint64_t seed = (uint64_t)(uintptr_t)argument + (uint64_t)self;
    char memory[3 * PAGE];
    object_fill(memory, sizeof memory, seed);
    object_child_wait();
    check_self(self, parent);
    SABOTAGE(memory[PAGE] ^= 1);
    CHECK_FILLED(memory, sizeof memory, seed, "the leaf's stack");
    CHECK(waitpid(-1, NULL, 0) == -1 && errno == ECHILD, "a leaf has children");
}

static void branch(void *argument) {
    pid_t self = getpid(), parent = getppid();
    for (int i = 0; i < LEAVES; i++) {
        object_fork(leaf, argument);
    }
    object_child_wait();
    check_self(self, parent);
    object_join_all();
    CHECK(waitpid(-1, NULL, 0) == -1 && errno == ECHILD, "a branch has more children");
}

int main(int argc, char **argv) {
    object_start(argc, argv);
    for (uintptr_t i = 0; i < BRANCHES; i++) {
        object_fork(branch, (void *)i);
    }
    object_ready_and_wait();
    object_join_all();
    CHECK(waitpid(-1, NULL, 0) == -1 && errno == ECHILD, "the root has more children");
    object_pass();
}
