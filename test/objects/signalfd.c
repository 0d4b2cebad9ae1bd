// Signal descriptors: the mask, a signal that waits to be read, flags, and a changed mask.
#include <sys/signalfd.h>

#include "support/object.h"

int main(int argc, char **argv) {
    object_start(argc, argv);
    sigset_t first, second, all;
    sigfillset(&all);
    MUST(sigprocmask(SIG_BLOCK, &all, NULL));
    sigemptyset(&first);
    sigaddset(&first, SIGHUP);
    sigaddset(&first, SIGRTMIN + 7);
    sigemptyset(&second);
    sigaddset(&second, SIGTERM);
    int fd = MUST(signalfd(-1, &first, SFD_NONBLOCK | SFD_CLOEXEC));
    int other = MUST(signalfd(-1, &first, SFD_NONBLOCK));
    MUST(signalfd(other, &second, 0));
    MUST(sigqueue(getpid(), SIGRTMIN + 7, (union sigval){.sival_int = 55}));
    object_ready_and_wait();
    SABOTAGE(MUST(signalfd(other, &first, 0)));
    struct signalfd_siginfo info;
    CHECK(read(other, &info, sizeof info) == -1 && errno == EAGAIN, "the other mask is wider");
    CHECK_EQUAL(read(fd, &info, sizeof info), sizeof info, "read of the waiting signal");
    CHECK_EQUAL(info.ssi_signo, SIGRTMIN + 7, "its number");
    CHECK_EQUAL(info.ssi_int, 55, "its payload");
    CHECK_EQUAL(info.ssi_pid, getpid(), "its sender");
    CHECK(read(fd, &info, sizeof info) == -1 && errno == EAGAIN, "it is there twice");
    MUST(raise(SIGTERM));
    CHECK(read(fd, &info, sizeof info) == -1 && errno == EAGAIN, "the mask is wider");
    CHECK_EQUAL(read(other, &info, sizeof info), sizeof info, "read of SIGTERM");
    MUST(raise(SIGHUP));
    CHECK_EQUAL(read(fd, &info, sizeof info), sizeof info, "read of SIGHUP");
    CHECK_EQUAL(fcntl(fd, F_GETFD), FD_CLOEXEC, "close-on-exec");
    CHECK((fcntl(other, F_GETFL) & O_NONBLOCK) != 0, "flags");
    object_pass();
}
