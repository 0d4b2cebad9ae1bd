// Namespaces of the program's own.
#ifndef FERRY_TEST_SPACES_H
#define FERRY_TEST_SPACES_H

#include <sched.h>

#include "object.h"

static inline void write_to(const char *path, const char *text) {
    int fd = MUST(open(path, O_WRONLY));
    CHECK(write(fd, text, strlen(text)) == (ssize_t)strlen(text), "write to %s: %s", path, strerror(errno));
    close(fd);
}

static inline long read_number(const char *path) {
    char text[64] = "";
    int fd = MUST(open(path, O_RDONLY));
    CHECK(read(fd, text, 63) > 0, "read %s", path);
    close(fd);
    return atol(text);
}

/// Enters a user namespace, and those of `more`; somebody outside writes its maps: users from 100000, groups from 200000.
static inline void enter_mapped(int more, int count) {
    int ready[2];
    MUST(pipe2(ready, O_CLOEXEC));
    MUST(chmod(object_directory, 0777));
    pid_t outer = getpid(), helper = MUST(fork());
    if (helper == 0) {
        char byte, path[64], map[64];
        close(ready[1]);
        if (read(ready[0], &byte, 1) != 1) _exit(0);
        snprintf(path, sizeof path, "/proc/%d/uid_map", outer);
        snprintf(map, sizeof map, "0 100000 %d", count);
        write_to(path, map);
        snprintf(path, sizeof path, "/proc/%d/gid_map", outer);
        snprintf(map, sizeof map, "0 200000 %d", count);
        write_to(path, map);
        _exit(0);
    }
    if (unshare(CLONE_NEWUSER | more) != 0) {
        object_put_file("result", "SKIP no such namespaces here\n");
        exit(0);
    }
    CHECK(write(ready[1], "m", 1) == 1, "write: %s", strerror(errno));
    close(ready[0]), close(ready[1]);
    int status;
    MUST(waitpid(helper, &status, 0));
    CHECK_EQUAL(status, 0, "status of who writes the maps");
}

#endif
