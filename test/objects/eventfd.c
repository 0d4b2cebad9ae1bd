// Event counters: values (also the largest), semaphore mode, flags, one shared with a child.
#include <sys/eventfd.h>

#include "support/object.h"

static int shared;

static void child(void *argument) {
    (void)argument;
    object_child_wait();
    eventfd_t value;
    MUST(eventfd_read(shared, &value));
    CHECK_EQUAL(value, 1000, "value in the child");
    MUST(eventfd_write(shared, 77));
}

int main(int argc, char **argv) {
    object_start(argc, argv);
    eventfd_t value;
    int plain = MUST(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
    MUST(eventfd_write(plain, 123456789012345));
    int semaphore = MUST(eventfd(3, EFD_SEMAPHORE | EFD_NONBLOCK));
    int empty = MUST(eventfd(0, EFD_NONBLOCK));
    int full = MUST(eventfd(0, EFD_NONBLOCK));
    MUST(eventfd_write(full, UINT64_MAX - 1));
    shared = MUST(eventfd(0, 0));
    object_fork(child, NULL);
    MUST(eventfd_write(shared, 1000));
    object_ready_and_wait();
    SABOTAGE(eventfd_read(semaphore, &value));
    MUST(eventfd_read(plain, &value));
    CHECK_EQUAL(value, 123456789012345, "plain value");
    CHECK_EQUAL(fcntl(plain, F_GETFD), FD_CLOEXEC, "close-on-exec");
    for (int i = 0; i < 3; i++) {
        MUST(eventfd_read(semaphore, &value));
        CHECK_EQUAL(value, 1, "semaphore value");
    }
    CHECK(eventfd_read(semaphore, &value) == -1 && errno == EAGAIN, "the semaphore is above 0");
    CHECK(eventfd_read(empty, &value) == -1 && errno == EAGAIN, "the empty one is above 0");
    CHECK(eventfd_write(full, 1) == -1 && errno == EAGAIN, "the full one takes more");
    MUST(eventfd_read(full, &value));
    CHECK(value == UINT64_MAX - 1, "full value");
    object_join_all();
    MUST(eventfd_read(shared, &value));
    CHECK_EQUAL(value, 77, "value from the child");
    object_pass();
}
