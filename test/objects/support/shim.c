// Runs a program with its output in a pipe, and copies what comes out to the end of a file: what a
// container's shim does. Usage: shim FILE PROGRAM ARGUMENT...
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static int copy(int from, const char *path) {
    char buffer[65536];
    ssize_t got;
    // Nothing else stays open here: whoever waits for its end need not wait for ours.
    dup2(from, 0);
    from = 0;
    syscall(SYS_close_range, 1, ~0U, 0);
    int to = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (to < 0) {
        return 1;
    }
    setsid();
    while ((got = read(from, buffer, sizeof buffer)) > 0 || (got < 0 && errno == EINTR)) {
        if (got > 0 && write(to, buffer, (size_t)got) != got) {
            return 1;
        }
    }
    return 0;
}

int main(int argc, char **argv) {
    int ends[2];
    if (argc < 3 || pipe(ends) != 0) {
        fprintf(stderr, "usage: %s FILE PROGRAM ARGUMENT...\n", argv[0]);
        return 2;
    }
    if (fork() == 0) {
        close(ends[1]);
        _exit(copy(ends[0], argv[1]));
    }
    dup2(ends[1], 1);
    dup2(ends[1], 2);
    close(ends[0]);
    close(ends[1]);
    execvp(argv[2], argv + 2);
    fprintf(stderr, "shim: %s: %s\n", argv[2], strerror(errno));
    return 127;
}
