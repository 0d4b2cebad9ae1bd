// Pipes with both ends in one process: content, order, emptiness, non-blocking flags, capacity,
// and a pipe so full that a further byte does not fit.
#include "support/object.h"

enum { SOME = 10000 };

static void drain(int fd, size_t size, uint64_t seed, const char *what) {
    char *buffer = malloc(size);
    size_t length = 0;
    while (length < size) {
        ssize_t got = read(fd, buffer + length, size - length);
        CHECK(got > 0, "%s: read after %zu of %zu bytes gave %zd: %s", what, length, size, got,
              strerror(errno));
        length += (size_t)got;
    }
    CHECK_FILLED(buffer, size, seed, what);
    free(buffer);
}

static void feed(int fd, size_t size, uint64_t seed) {
    char *buffer = malloc(size);
    object_fill(buffer, size, seed);
    CHECK(write(fd, buffer, size) == (ssize_t)size, "write of %zu: %s", size, strerror(errno));
    free(buffer);
}

static void check_empty(int fd, const char *what) {
    char byte;
    CHECK(read(fd, &byte, 1) == -1 && errno == EAGAIN, "%s is not empty", what);
}

int main(int argc, char **argv) {
    object_start(argc, argv);
    int some[2], full[2], empty[2], large[2];
    MUST(pipe2(some, O_NONBLOCK));
    feed(some[1], SOME, 1);
    drain(some[0], 100, 1, "the first bytes");
    // The rest starts in the middle of the sequence, so reading it again from its start shows.
    MUST(pipe2(full, O_NONBLOCK | O_CLOEXEC));
    feed(full[1], 65536, 2);
    MUST(pipe(empty));
    MUST(fcntl(empty[0], F_SETFL, O_NONBLOCK));
    MUST(pipe2(large, O_NONBLOCK));
    int capacity = MUST(fcntl(large[1], F_SETPIPE_SZ, 262144));
    feed(large[1], 200000, 4);
    object_ready_and_wait();
    SABOTAGE(char byte; CHECK(read(full[0], &byte, 1) == 1, "read"));
    char rest[SOME], want[SOME];
    object_fill(want, SOME, 1);
    CHECK_EQUAL(read(some[0], rest, SOME), SOME - 100, "length of the rest");
    CHECK(memcmp(rest, want + 100, SOME - 100) == 0, "the rest differs");
    check_empty(some[0], "the first pipe");
    CHECK(write(full[1], "x", 1) == -1 && errno == EAGAIN, "the full pipe takes another byte");
    drain(full[0], 65536, 2, "the full pipe");
    check_empty(full[0], "the full pipe after draining");
    check_empty(empty[0], "the empty pipe");
    feed(empty[1], 5000, 5);
    drain(empty[0], 5000, 5, "the empty pipe, used again");
    CHECK_EQUAL(fcntl(large[0], F_GETPIPE_SZ), capacity, "capacity");
    drain(large[0], 200000, 4, "the large pipe");
    check_empty(large[0], "the large pipe");
    CHECK_EQUAL(fcntl(empty[0], F_GETFL), O_RDONLY | O_NONBLOCK, "flags of the reading end");
    CHECK_EQUAL(fcntl(empty[1], F_GETFL), O_WRONLY, "flags of the writing end");
    CHECK_EQUAL(fcntl(full[0], F_GETFD), FD_CLOEXEC, "close-on-exec");
    CHECK_EQUAL(fcntl(some[0], F_GETFD), 0, "close-on-exec of the first pipe");
    object_pass();
}
