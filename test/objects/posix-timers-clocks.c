// POSIX timers of every clock and every way to tell, armed and not, with their numbers.
#include "support/object.h"

struct kind {
    clockid_t clock;
    int notify;
    bool armed;
};

static const struct kind kinds[] = {
    {CLOCK_REALTIME, SIGEV_SIGNAL, true},
    {CLOCK_MONOTONIC, SIGEV_SIGNAL, true},
    {CLOCK_BOOTTIME, SIGEV_SIGNAL, true},
    {CLOCK_TAI, SIGEV_SIGNAL, true},
    {CLOCK_PROCESS_CPUTIME_ID, SIGEV_SIGNAL, true},
    {CLOCK_THREAD_CPUTIME_ID, SIGEV_SIGNAL, true},
    {CLOCK_MONOTONIC, SIGEV_NONE, true},
    {CLOCK_MONOTONIC, SIGEV_NONE, false},
    {CLOCK_REALTIME, SIGEV_THREAD_ID, true},
    {CLOCK_REALTIME_ALARM, SIGEV_SIGNAL, true},
    {CLOCK_BOOTTIME_ALARM, SIGEV_NONE, true},
};

enum { COUNT = COUNT_OF(kinds) };

static timer_t timers[COUNT];
static int made[COUNT];
static volatile int fired[COUNT];

static void handler(int number, siginfo_t *info, void *context) {
    (void)number;
    (void)context;
    if (info->si_code == SI_TIMER) {
        fired[info->si_value.sival_int]++;
    }
}

int main(int argc, char **argv) {
    object_start(argc, argv);
    struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO | SA_RESTART};
    MUST(sigaction(SIGRTMIN + 2, &action, NULL));
    for (int i = 0; i < COUNT; i++) {
        struct sigevent event = {.sigev_notify = kinds[i].notify, .sigev_signo = SIGRTMIN + 2};
        event.sigev_value.sival_int = i;
        if (kinds[i].notify == SIGEV_THREAD_ID) {
            event._sigev_un._tid = object_tid();
        }
        if (timer_create(kinds[i].clock, &event, &timers[i]) != 0) {
            continue; // alarm clocks need a real-time clock device
        }
        made[i] = 1;
        bool cpu = kinds[i].clock == CLOCK_PROCESS_CPUTIME_ID || kinds[i].clock == CLOCK_THREAD_CPUTIME_ID;
        struct itimerspec spec = {.it_value = {cpu ? 1000 : 5000, 0}, .it_interval = {7, 5000}};
        if (kinds[i].armed) {
            MUST(timer_settime(timers[i], 0, &spec, NULL));
        }
    }
    object_ready_and_wait();
    SABOTAGE(timer_delete(timers[1]));
    for (int i = 0; i < COUNT; i++) {
        struct itimerspec spec;
        if (!made[i]) {
            continue;
        }
        CHECK(timer_gettime(timers[i], &spec) == 0, "timer %d: %s", i, strerror(errno));
        if (!kinds[i].armed) {
            CHECK(spec.it_value.tv_sec == 0 && spec.it_value.tv_nsec == 0, "timer %d is armed", i);
            continue;
        }
        bool cpu = kinds[i].clock == CLOCK_PROCESS_CPUTIME_ID || kinds[i].clock == CLOCK_THREAD_CPUTIME_ID;
        long whole = cpu ? 1000 : 5000;
        CHECK(spec.it_value.tv_sec <= whole && spec.it_value.tv_sec > whole - 100,
              "timer %d has %ld s left", i, (long)spec.it_value.tv_sec);
        CHECK(spec.it_interval.tv_sec == 7 && spec.it_interval.tv_nsec == 5000, "interval of %d", i);
        struct itimerspec soon = {.it_value = {0, 1000000}};
        MUST(timer_settime(timers[i], 0, &soon, NULL));
    }
    int64_t until = object_now(CLOCK_MONOTONIC) + 300000000;
    while (object_now(CLOCK_MONOTONIC) < until) { // burns time for the CPU clocks
    }
    for (int i = 0; i < COUNT; i++) {
        int wanted = made[i] && kinds[i].notify != SIGEV_NONE && kinds[i].armed;
        CHECK_EQUAL(fired[i], wanted, "signals of a timer");
    }
    object_pass();
}
