// A process that has its working directory, root and umask in common with its parent, without being
// a thread (clone(2) CLONE_FS). argv[2] = session: one that its brother has made, in the session of that one.
#include <sched.h>

#include "support/object.h"

static void try_session(void) {
    int ready[2];
    pid_t pids[2];
    MUST(pipe(ready));
    pids[0] = (pid_t)MUST(syscall(SYS_clone, CLONE_FS | SIGCHLD, NULL, NULL, NULL, 0));
    if (pids[0] == 0) {
        MUST(setsid());
        pid_t brother =
            (pid_t)MUST(syscall(SYS_clone, CLONE_FS | CLONE_PARENT | SIGCHLD, NULL, NULL, NULL, 0));
        if (brother != 0) {
            CHECK_EQUAL(write(ready[1], &brother, sizeof brother), sizeof brother, "write");
        }
        object_wait();
        _exit(0);
    }
    CHECK_EQUAL(read(ready[0], &pids[1], sizeof pids[1]), sizeof pids[1], "read");
    object_ready_and_wait();
    SABOTAGE(pids[0] = getpid());
    CHECK_EQUAL(getsid(pids[1]), pids[0], "session");
    for (int i = 0; i < 2; i++) {
        object_join(pids[i]);
    }
}

int main(int argc, char **argv) {
    object_start(argc, argv);
    if (argc > 2) {
        try_session();
        object_pass();
    }
    int ready[2], again[2];
    char byte, cwd[100];
    MUST(pipe(ready));
    MUST(pipe(again));
    pid_t pid = (pid_t)syscall(SYS_clone, CLONE_FS | SIGCHLD, NULL, NULL, NULL, 0);
    if (pid == 0) {
        CHECK_EQUAL(write(ready[1], "r", 1), 1, "write");
        object_wait();
        umask(077);
        MUST(chdir("/"));
        CHECK_EQUAL(write(again[1], "r", 1), 1, "write");
        object_wait();
        _exit(0);
    }
    CHECK_EQUAL(read(ready[0], &byte, 1), 1, "read");
    MUST(chdir(object_directory));
    umask(022);
    object_ready_and_wait();
    CHECK(getcwd(cwd, sizeof cwd) != NULL, "getcwd");
    CHECK(strcmp(cwd, object_directory) == 0, "working directory %s", cwd);
    MUST(kill(pid, SIGUSR1));
    CHECK_EQUAL(read(again[0], &byte, 1), 1, "read");
    SABOTAGE(unshare(CLONE_FS), umask(0));
    CHECK_EQUAL(umask(0), 077, "umask");
    CHECK(getcwd(cwd, sizeof cwd) != NULL, "getcwd");
    CHECK(strcmp(cwd, "/") == 0, "working directory %s", cwd);
    object_join(pid);
    object_pass();
}
