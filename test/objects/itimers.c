// The three interval timers: remaining time and interval of long ones, and (argv[2] = ticking) a
// real timer of 20 ms that must go on ticking.
#include <sys/time.h>

#include "support/object.h"

static volatile sig_atomic_t ticks;

static void on_tick(int number) {
    (void)number;
    ticks = ticks + 1;
}

static int64_t microseconds(struct timeval time) {
    return (int64_t)time.tv_sec * 1000000 + time.tv_usec;
}

static const struct {
    int which;
    int64_t remaining, interval;
} timers[] = {
    {ITIMER_REAL, 5000123456, 7000000},
    {ITIMER_VIRTUAL, 1000234567, 0},
    {ITIMER_PROF, 2000345678, 1500000},
};

static void check_long_timers(void) {
    struct itimerval ready[COUNT_OF(timers)], now;
    for (size_t i = 0; i < COUNT_OF(timers); i++) {
        struct itimerval timer = {
            .it_value = {timers[i].remaining / 1000000, timers[i].remaining % 1000000},
            .it_interval = {timers[i].interval / 1000000, timers[i].interval % 1000000},
        };
        MUST(setitimer(timers[i].which, &timer, NULL));
    }
    object_sleep_ms(30);
    int64_t start = object_now(CLOCK_MONOTONIC);
    for (size_t i = 0; i < COUNT_OF(timers); i++) {
        MUST(getitimer(timers[i].which, &ready[i]));
    }
    object_ready_and_wait();
    int64_t elapsed = (object_now(CLOCK_MONOTONIC) - start) / 1000;
    SABOTAGE(struct itimerval off = {0}; MUST(setitimer(ITIMER_PROF, &off, NULL)));
    for (size_t i = 0; i < COUNT_OF(timers); i++) {
        MUST(getitimer(timers[i].which, &now));
        int64_t left = microseconds(now.it_value), before = microseconds(ready[i].it_value);
        // Whether the time it was gone counts is the restorer's choice; gaining time is not.
        CHECK(left <= before + 20000 && left >= before - elapsed - 20000,
              "timer %zu has %ld us left, had %ld us, %ld us ago", i, left, before, elapsed);
        CHECK_EQUAL(microseconds(now.it_interval), timers[i].interval, "interval");
    }
}

static void check_ticking(void) {
    struct sigaction action = {.sa_handler = on_tick, .sa_flags = SA_RESTART};
    MUST(sigaction(SIGALRM, &action, NULL));
    struct itimerval timer = {{0, 20000}, {0, 20000}};
    MUST(setitimer(ITIMER_REAL, &timer, NULL));
    object_sleep_ms(100);
    object_ready_and_wait();
    SABOTAGE(struct itimerval off = {0}; MUST(setitimer(ITIMER_REAL, &off, NULL)));
    int before = ticks;
    CHECK(before >= 3, "only %d ticks before the check", before);
    object_sleep_ms(300);
    CHECK(ticks - before >= 10 && ticks - before <= 20, "%d ticks in 300 ms", ticks - before);
}

int main(int argc, char **argv) {
    object_start(argc, argv);
    if (argc > 2) {
        check_ticking();
    } else {
        check_long_timers();
    }
    object_pass();
}
