// The harmless devices: /dev/null, /dev/zero (read and mapped), /dev/full, /dev/urandom,
// /dev/random.
#include <sys/sysmacros.h>

#include "support/object.h"

static const struct {
    const char *path;
    int flags;
    unsigned minor_number;
} devices[] = {
    {"/dev/null", O_RDWR, 3},
    {"/dev/zero", O_RDWR | O_CLOEXEC, 5},
    {"/dev/full", O_WRONLY, 7},
    {"/dev/random", O_RDONLY | O_NONBLOCK, 8},
    {"/dev/urandom", O_RDONLY, 9},
};

int main(int argc, char **argv) {
    object_start(argc, argv);
    int fds[COUNT_OF(devices)];
    char buffer[64] = {1};
    for (size_t i = 0; i < COUNT_OF(devices); i++) {
        fds[i] = MUST(open(devices[i].path, devices[i].flags));
    }
    char *private = object_map(4 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fds[1], 0);
    object_fill(private, PAGE, 1);
    object_ready_and_wait();
    SABOTAGE(dup2(fds[0], fds[1]));
    for (size_t i = 0; i < COUNT_OF(devices); i++) {
        struct stat status;
        MUST(fstat(fds[i], &status));
        CHECK(S_ISCHR(status.st_mode) && status.st_rdev == makedev(1, devices[i].minor_number),
              "%s has become another device", devices[i].path);
        int flags = devices[i].flags & ~O_CLOEXEC;
        CHECK_EQUAL(fcntl(fds[i], F_GETFL) & (O_ACCMODE | O_NONBLOCK), flags, devices[i].path);
        CHECK_EQUAL(fcntl(fds[i], F_GETFD), devices[i].flags == (O_RDWR | O_CLOEXEC), "cloexec");
    }
    CHECK_EQUAL(read(fds[0], buffer, sizeof buffer), 0, "read from /dev/null");
    CHECK_EQUAL(write(fds[0], buffer, sizeof buffer), sizeof buffer, "write to /dev/null");
    CHECK_EQUAL(read(fds[1], buffer, sizeof buffer), sizeof buffer, "read from /dev/zero");
    CHECK_ZERO(buffer, sizeof buffer, "/dev/zero");
    CHECK(write(fds[2], buffer, 1) == -1 && errno == ENOSPC, "write to /dev/full");
    CHECK_EQUAL(read(fds[4], buffer, sizeof buffer), sizeof buffer, "read from /dev/urandom");
    CHECK(object_not_zero(buffer, sizeof buffer) >= 0, "/dev/urandom gives zeros");
    CHECK_FILLED(private, PAGE, 1, "the private mapping of /dev/zero");
    CHECK_ZERO(private + PAGE, 3 * PAGE, "the rest of that mapping");
    object_pass();
}
