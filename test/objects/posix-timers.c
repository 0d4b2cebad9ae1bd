// POSIX timers: by signal, to one thread, without notice; on three clocks; relative, absolute and
// periodic; ids with gaps; an overrun count that waits in a pending signal.
#include "support/object.h"

enum { LONG_SECONDS = 5000 };

static int make(clockid_t clock, int notify, int number, int payload, pid_t tid) {
    struct sigevent event = {.sigev_notify = notify, .sigev_signo = number};
    event.sigev_value.sival_int = payload;
    event._sigev_un._tid = tid;
    int id = -1;
    // The raw call: its ids are the kernel's numbers, which must be kept.
    MUST(syscall(SYS_timer_create, clock, &event, &id));
    return id;
}

static void set(int id, int flags, struct timespec value, struct timespec interval) {
    struct itimerspec spec = {.it_value = value, .it_interval = interval};
    MUST(syscall(SYS_timer_settime, id, flags, &spec, NULL));
}

static struct itimerspec get(int id) {
    struct itimerspec spec;
    CHECK(syscall(SYS_timer_gettime, id, &spec) == 0, "timer %d: %s", id, strerror(errno));
    return spec;
}

static int64_t nanoseconds(struct timespec time) {
    return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

static pid_t thread_tid;
static pthread_barrier_t set_up, checked;

static siginfo_t take(int number, int seconds) {
    sigset_t one;
    siginfo_t info;
    struct timespec limit = {.tv_sec = seconds};
    sigemptyset(&one);
    sigaddset(&one, number);
    int got;
    do {
        got = sigtimedwait(&one, &info, &limit);
    } while (got == -1 && errno == EINTR);
    CHECK(got == number, "no signal %d within %d s", number, seconds);
    return info;
}

static void *thread(void *argument) {
    thread_tid = object_tid();
    pthread_barrier_wait(&set_up);
    pthread_barrier_wait(&checked);
    for (int i = 0; i < 3; i++) {
        siginfo_t info = take(SIGRTMIN + 1, 5);
        CHECK(info.si_code == SI_TIMER && info.si_value.sival_int == 11, "the thread's signal");
    }
    return argument;
}

int main(int argc, char **argv) {
    object_start(argc, argv);
    sigset_t all;
    sigfillset(&all);
    MUST(sigprocmask(SIG_BLOCK, &all, NULL));
    MUST_BE_ZERO(pthread_barrier_init(&set_up, NULL, 2));
    MUST_BE_ZERO(pthread_barrier_init(&checked, NULL, 2));
    pthread_t other;
    MUST_BE_ZERO(pthread_create(&other, NULL, thread, NULL));
    pthread_barrier_wait(&set_up);
    int unused = make(CLOCK_MONOTONIC, SIGEV_NONE, 0, 0, 0);
    int relative = make(CLOCK_MONOTONIC, SIGEV_SIGNAL, SIGRTMIN, 10, 0);
    const int to_tid = SIGEV_THREAD_ID | SIGEV_SIGNAL;
    int to_thread = make(CLOCK_MONOTONIC, to_tid, SIGRTMIN + 1, 11, thread_tid);
    int silent = make(CLOCK_REALTIME, SIGEV_NONE, 0, 0, 0);
    int absolute = make(CLOCK_REALTIME, SIGEV_SIGNAL, SIGRTMIN + 2, 12, 0);
    int disarmed = make(CLOCK_BOOTTIME, SIGEV_SIGNAL, SIGRTMIN + 3, 13, 0);
    int periodic = make(CLOCK_MONOTONIC, SIGEV_SIGNAL, SIGRTMIN + 4, 14, 0);
    MUST(syscall(SYS_timer_delete, unused));
    struct timespec none = {0}, far = {.tv_sec = LONG_SECONDS}, often = {.tv_nsec = 20000000};
    set(relative, 0, far, (struct timespec){.tv_sec = 3});
    set(to_thread, 0, often, often);
    set(silent, 0, far, none);
    struct timespec wall;
    MUST(clock_gettime(CLOCK_REALTIME, &wall));
    wall.tv_sec += LONG_SECONDS;
    set(absolute, TIMER_ABSTIME, wall, none);
    set(periodic, 0, (struct timespec){.tv_nsec = 5000000}, (struct timespec){.tv_nsec = 5000000});
    object_sleep_ms(50);
    struct itimerspec before[] = {get(relative), get(silent)};
    int64_t start = object_now(CLOCK_MONOTONIC);
    object_ready_and_wait();
    int64_t elapsed = object_now(CLOCK_MONOTONIC) - start, slack = 20000000;
    SABOTAGE(set(relative, 0, far, (struct timespec){.tv_sec = 3}));
    struct itimerspec now;
    CHECK(syscall(SYS_timer_gettime, unused, &now) == -1 && errno == EINVAL,
          "the deleted timer %d exists", unused);
    now = get(relative);
    CHECK_EQUAL(nanoseconds(now.it_interval), 3000000000, "interval");
    struct itimerspec after[] = {now, get(silent)};
    for (int i = 0; i < 2; i++) {
        int64_t left = nanoseconds(after[i].it_value), was = nanoseconds(before[i].it_value);
        CHECK(left <= was && left >= was - elapsed - slack,
              "timer %d has %ld ns left, had %ld ns, %ld ns ago", i, left, was, elapsed);
    }
    // An absolute timer on the wall clock fires when the wall clock says so, gone or not.
    int64_t due = nanoseconds(wall) - object_now(CLOCK_REALTIME);
    int64_t left = nanoseconds(get(absolute).it_value);
    CHECK(left >= due - slack && left <= due + slack + elapsed, "%ld ns left, due in %ld ns", left,
          due);
    CHECK_EQUAL(nanoseconds(get(disarmed).it_value), 0, "remaining time of the disarmed timer");
    siginfo_t info = take(SIGRTMIN + 4, 5);
    CHECK(info.si_code == SI_TIMER && info.si_value.sival_int == 14, "the periodic signal");
    // The first may have been queued before the dump, with few expirations; the next one has many.
    object_sleep_ms(60);
    info = take(SIGRTMIN + 4, 5);
    CHECK(info.si_overrun >= 5, "overrun is %d", info.si_overrun);
    set(disarmed, 0, (struct timespec){.tv_nsec = 1000000}, none);
    info = take(SIGRTMIN + 3, 5);
    CHECK(info.si_value.sival_int == 13, "payload of the timer armed afterwards");
    pthread_barrier_wait(&checked);
    MUST_BE_ZERO(pthread_join(other, NULL));
    object_pass();
}
