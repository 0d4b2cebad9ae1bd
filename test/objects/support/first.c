// Runs a program as the first process of a PID namespace (and of a mount namespace with a /proc of that), and ends as it
// does. For what only the restorer of a whole namespace can carry.
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

static int fail(const char *what) {
    fprintf(stderr, "first: %s: %s\n", what, strerror(errno));
    return 3;
}

int main(int argc, char **argv) {
    if (argc < 2) return 2;
    if (unshare(CLONE_NEWPID) != 0) return fail("unshare");
    pid_t child = fork();
    if (child < 0) return fail("fork");
    if (child == 0) {
        if (unshare(CLONE_NEWNS) != 0) return fail("unshare");
        if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0) return fail("private mounts");
        if (mount("proc", "/proc", "proc", 0, NULL) != 0) return fail("mount /proc");
        setsid();
        execv(argv[1], argv + 1);
        return fail(argv[1]);
    }
    int status;
    while (waitpid(child, &status, 0) < 0) {
        if (errno != EINTR) return fail("waitpid");
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : 3;
}
