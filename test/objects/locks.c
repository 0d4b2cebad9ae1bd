// File locks: flock, POSIX record locks, open-file-description locks. Another process must still
// find them taken. argv[2] = flock, posix, ofd.
#include <sys/file.h>

#include "support/object.h"

static struct flock range(short type) {
    return (struct flock){.l_type = type, .l_whence = SEEK_SET, .l_start = 10, .l_len = 20};
}

static bool try_lock(const char *kind, int fd, short type) {
    struct flock lock = range(type);
    if (strcmp(kind, "flock") == 0) {
        return flock(fd, LOCK_EX | LOCK_NB) == 0;
    }
    return fcntl(fd, strcmp(kind, "ofd") == 0 ? F_OFD_SETLK : F_SETLK, &lock) == 0;
}

int main(int argc, char **argv) {
    object_start(argc, argv);
    const char *kind = argc > 2 ? argv[2] : "flock";
    char path[PATH_MAX];
    int fd = object_file("data", O_RDWR, 100, 1);
    object_path(path, "data");
    CHECK(try_lock(kind, fd, F_WRLCK), "lock: %s", strerror(errno));
    object_ready_and_wait();
    SABOTAGE(flock(fd, LOCK_UN); try_lock(kind, fd, F_UNLCK));
    SABOTAGE(if (strcmp(kind, "flock") == 0) flock(fd, LOCK_UN));
    pid_t child = MUST(fork());
    if (child == 0) {
        int other = MUST(open(path, O_RDWR));
        CHECK(!try_lock(kind, other, F_WRLCK), "the lock is gone");
        _exit(0);
    }
    object_reap(child);
    object_pass();
}
