// Starts a program with nothing inherited but its standard descriptors: whatever else this process
// got from the shell, the editor or the CI above it is closed, signals are as after boot.
// Usage: launch PROGRAM ARGUMENT...
#include <errno.h>
#include <linux/close_range.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

int main(int argc, char **argv) {
    if (argc < 2) {
        fprintf(stderr, "usage: %s PROGRAM ARGUMENT...\n", argv[0]);
        return 2;
    }
    syscall(SYS_close_range, 3, ~0U, 0);
    for (int number = 1; number < 32; number++) {
        signal(number, SIG_DFL);
    }
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    execvp(argv[1], argv + 1);
    fprintf(stderr, "launch: %s: %s\n", argv[1], strerror(errno));
    return 127;
}
