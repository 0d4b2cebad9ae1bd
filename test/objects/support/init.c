// The first process of a container under test: starts the program as its child, hands SIGUSR1 and
// SIGTERM on to it, reaps, and ends with its status. Usage: init PROGRAM ARGUMENT...
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static pid_t child;

static void hand_on(int number) {
    kill(child, number);
}

int main(int argc, char **argv) {
    sigset_t both, before;
    struct sigaction action = {.sa_handler = hand_on, .sa_flags = SA_RESTART};
    if (argc < 2) {
        fprintf(stderr, "usage: %s PROGRAM ARGUMENT...\n", argv[0]);
        return 2;
    }
    sigemptyset(&both);
    sigaddset(&both, SIGUSR1);
    sigaddset(&both, SIGTERM);
    sigprocmask(SIG_BLOCK, &both, &before); // until `child` is known
    child = fork();
    if (child == 0) {
        sigprocmask(SIG_SETMASK, &before, NULL);
        setsid();
        execv(argv[1], argv + 1);
        fprintf(stderr, "init: %s: %s\n", argv[1], strerror(errno));
        _exit(127);
    }
    sigaction(SIGUSR1, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    sigprocmask(SIG_SETMASK, &before, NULL);
    for (;;) {
        int status;
        pid_t ended = wait(&status);
        if (ended == child) {
            return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
        }
        if (ended < 0 && errno != EINTR) {
            return 126;
        }
    }
}
