// What is done on each signal: handler, mask, flags, and the restorer glibc sets.
#include "support/object.h"

struct kernel_sigaction {
    void *handler;
    unsigned long flags;
    void *restorer;
    uint64_t mask;
};

static volatile sig_atomic_t seen[65];
static volatile sig_atomic_t payload;
static struct kernel_sigaction before[65];

static void plain(int number) {
    seen[number]++;
}

static void detailed(int number, siginfo_t *info, void *context) {
    (void)context;
    seen[number]++;
    payload = info->si_value.sival_int;
}

static long raw_sigaction(int number, const struct kernel_sigaction *set,
                          struct kernel_sigaction *get) {
    return syscall(SYS_rt_sigaction, number, set, get, 8);
}

int main(int argc, char **argv) {
    object_start(argc, argv);
    struct sigaction action = {.sa_handler = plain, .sa_flags = SA_RESTART};
    sigaddset(&action.sa_mask, SIGTERM);
    sigaddset(&action.sa_mask, SIGRTMAX);
    MUST(sigaction(SIGUSR2, &action, NULL));
    struct sigaction rich = {.sa_sigaction = detailed,
                             .sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK};
    MUST(sigaction(SIGRTMIN + 3, &rich, NULL));
    struct sigaction once = {.sa_handler = plain, .sa_flags = (int)SA_RESETHAND};
    MUST(sigaction(SIGHUP, &once, NULL));
    struct sigaction children = {.sa_handler = SIG_DFL, .sa_flags = SA_NOCLDWAIT | SA_NOCLDSTOP};
    MUST(sigaction(SIGCHLD, &children, NULL));
    MUST(signal(SIGPIPE, SIG_IGN) == SIG_ERR ? -1 : 0);
    MUST(signal(SIGRTMAX, SIG_IGN) == SIG_ERR ? -1 : 0);
    for (int number = 1; number <= 64; number++) {
        raw_sigaction(number, NULL, &before[number]);
    }
    object_ready_and_wait();
    SABOTAGE(signal(SIGPIPE, SIG_DFL));
    for (int number = 1; number <= 64; number++) {
        struct kernel_sigaction now = {0};
        raw_sigaction(number, NULL, &now);
        CHECK(now.handler == before[number].handler, "signal %d: handler %p, was %p", number,
              now.handler, before[number].handler);
        CHECK(now.restorer == before[number].restorer, "signal %d: restorer %p, was %p", number,
              now.restorer, before[number].restorer);
        CHECK_EQUAL(now.flags, before[number].flags, "flags");
        CHECK_EQUAL(now.mask, before[number].mask, "mask");
    }
    MUST(raise(SIGUSR2));
    MUST(raise(SIGPIPE));
    MUST(raise(SIGHUP));
    union sigval value = {.sival_int = 4711};
    MUST(sigqueue(getpid(), SIGRTMIN + 3, value));
    CHECK_EQUAL(seen[SIGUSR2], 1, "times SIGUSR2 was handled");
    CHECK_EQUAL(seen[SIGHUP], 1, "times SIGHUP was handled");
    CHECK_EQUAL(payload, 4711, "payload");
    struct sigaction now;
    MUST(sigaction(SIGHUP, NULL, &now));
    CHECK(now.sa_handler == SIG_DFL, "SA_RESETHAND did not reset");
    pid_t child = MUST(fork());
    if (child == 0) {
        _exit(0);
    }
    CHECK(waitpid(child, NULL, 0) == -1 && errno == ECHILD, "SA_NOCLDWAIT is lost");
    object_pass();
}
