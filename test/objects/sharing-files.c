// Processes that have one table of descriptors without being threads (clone(2) CLONE_FILES): a child
// with a thread and a POSIX lock, and a child of that one. A fourth one has a table of its own.
#include <sched.h>

#include "support/object.h"

enum { OPENED = 60, MOVED = 77 };

/// What all see, whatever they share.
static volatile struct {
    int started;
    pid_t pids[3];
} *common;

static pid_t start(int flags, int number, void (*body)(void)) {
    pid_t pid = (pid_t)MUST(syscall(SYS_clone, flags | SIGCHLD, NULL, NULL, NULL, 0));
    if (pid == 0) {
        common->pids[number] = getpid();
        body();
        _exit(0);
    }
    return pid;
}

static void started(void) {
    __atomic_add_fetch(&common->started, 1, __ATOMIC_SEQ_CST);
}

static void grandchild(void) {
    started();
    object_wait();
    CHECK(fcntl(MOVED, F_GETFD) == FD_CLOEXEC, "what the child opened is not there");
    CHECK(fcntl(OPENED, F_GETFD) < 0, "what the child closed is still there");
    MUST(close(MOVED));
}

static void *idle(void *argument) {
    for (;;) {
        pause();
    }
    return argument;
}

static void child(void) {
    pthread_t thread;
    char path[PATH_MAX];
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_len = 10};
    start(CLONE_FILES, 1, grandchild);
    MUST_BE_ZERO(pthread_create(&thread, NULL, idle, NULL));
    int fd = MUST(open(object_path(path, "locked"), O_RDWR | O_CREAT, 0600));
    MUST(fcntl(fd, F_SETLK, &lock));
    started();
    object_wait();
    CHECK(fcntl(OPENED, F_GETFD) >= 0, "what the parent opened is not there");
    MUST(dup3(OPENED, MOVED, O_CLOEXEC));
    MUST(close(OPENED));
    object_join(common->pids[1]);
}

static void stranger(void) {
    char path[PATH_MAX];
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_len = 10};
    started();
    object_wait();
    CHECK(fcntl(OPENED, F_GETFD) < 0, "what others opened is here");
    int fd = MUST(open(object_path(path, "locked"), O_RDWR));
    MUST(fcntl(fd, F_GETLK, &lock));
    CHECK(lock.l_type == F_WRLCK && lock.l_pid == common->pids[0], "lock of type %d, process %d",
          lock.l_type, lock.l_pid);
}

static int lowest_free(void) {
    int fd = MUST(dup(0));
    close(fd);
    return fd;
}

int main(int argc, char **argv) {
    object_start(argc, argv);
    common = object_map(PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pid_t other = start(0, 2, stranger);
    pid_t sharer = start(CLONE_FILES, 0, child);
    while (common->started < 3) {
        object_sleep_ms(1);
    }
    int lowest = lowest_free();
    object_ready_and_wait();
    CHECK_EQUAL(lowest_free(), lowest, "lowest free descriptor");
    SABOTAGE(MUST(unshare(CLONE_FILES)));
    MUST(dup2(0, OPENED));
    object_join(other);
    object_join(sharer);
    CHECK(fcntl(OPENED, F_GETFD) < 0 && fcntl(MOVED, F_GETFD) < 0, "closed ones are still there");
    object_pass();
}
