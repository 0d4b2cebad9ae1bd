// Dumped inside two nested signal handlers: their frames, the masks they return to, and the
// interrupted computation must come through. The inner handler arrives in the middle of the outer.
#include "support/object.h"

static volatile sig_atomic_t outer_done, inner_done;

static uint64_t mask_now(void) {
    uint64_t mask = 0;
    MUST(syscall(SYS_rt_sigprocmask, SIG_BLOCK, NULL, &mask, 8));
    return mask;
}

static uint64_t bit(int number) {
    return 1ull << (number - 1);
}

static void inner(int number, siginfo_t *info, void *context) {
    (void)context;
    uint64_t want = bit(SIGUSR1) | bit(SIGUSR2) | bit(SIGHUP) | bit(SIGWINCH) | bit(SIGRTMIN);
    CHECK_EQUAL(mask_now(), want, "mask in the inner handler");
    object_ready_and_wait();
    SABOTAGE(sigset_t one; sigemptyset(&one); sigaddset(&one, SIGALRM);
             sigprocmask(SIG_BLOCK, &one, NULL));
    CHECK_EQUAL(mask_now(), want, "mask in the inner handler afterwards");
    CHECK(number == SIGHUP && info->si_value.sival_int == 99, "the inner handler's siginfo");
    inner_done = 1;
}

static void outer(int number) {
    char frame[1000];
    uint64_t want = bit(SIGUSR1) | bit(SIGUSR2) | bit(SIGRTMIN);
    object_fill(frame, sizeof frame, 3);
    MUST(sigqueue(getpid(), SIGHUP, (union sigval){.sival_int = 99}));
    CHECK(inner_done == 1, "the inner handler has not returned");
    CHECK_EQUAL(mask_now(), want, "mask in the outer handler");
    CHECK_FILLED(frame, sizeof frame, 3, "the outer handler's frame");
    CHECK_EQUAL(number, SIGUSR2, "number of the outer signal");
    outer_done = 1;
}

int main(int argc, char **argv) {
    object_start(argc, argv);
    struct sigaction first = {.sa_handler = outer};
    sigaddset(&first.sa_mask, SIGRTMIN);
    MUST(sigaction(SIGUSR2, &first, NULL));
    struct sigaction second = {.sa_sigaction = inner, .sa_flags = SA_SIGINFO};
    sigaddset(&second.sa_mask, SIGWINCH);
    MUST(sigaction(SIGHUP, &second, NULL));
    double before = 1.0 / 3.0;
    volatile double divisor = 3.0;
    MUST(raise(SIGUSR2));
    CHECK(outer_done == 1, "the outer handler has not returned");
    CHECK_EQUAL(mask_now(), bit(SIGUSR1), "mask after both");
    CHECK(before == 1.0 / divisor, "a floating point value differs");
    object_pass();
}
