// Timer descriptors: one-shot, periodic, absolute, disarmed, expired and not yet read; on all
// clocks that need no hardware.
#include <sys/timerfd.h>

#include "support/object.h"

static struct itimerspec seconds(int64_t value, int64_t interval) {
    return (struct itimerspec){.it_value.tv_sec = value, .it_interval.tv_sec = interval};
}

static int make(clockid_t clock, int flags, struct itimerspec spec) {
    int fd = MUST(timerfd_create(clock, TFD_NONBLOCK | TFD_CLOEXEC));
    MUST(timerfd_settime(fd, flags, &spec, NULL));
    return fd;
}

static int64_t nanoseconds(struct timespec time) {
    return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

static int64_t left_of(int fd) {
    struct itimerspec now;
    MUST(timerfd_gettime(fd, &now));
    return nanoseconds(now.it_value);
}

static void check_fired(int fd, uint64_t least, const char *what) {
    uint64_t times = 0;
    CHECK(read(fd, &times, 8) == 8 && times >= least, "%s: fired %lu times: %s", what, times,
          strerror(errno));
}

int main(int argc, char **argv) {
    object_start(argc, argv);
    static const clockid_t clocks[] = {CLOCK_MONOTONIC, CLOCK_REALTIME, CLOCK_BOOTTIME};
    int far[3], absolute[3];
    int64_t due[3], before[3], slack = 50000000;
    for (int i = 0; i < 3; i++) {
        far[i] = make(clocks[i], 0, seconds(5000 + i, 7 + i));
        due[i] = object_now(clocks[i]) + (3000 + i) * 1000000000L;
        struct itimerspec spec = {.it_value = {due[i] / 1000000000, due[i] % 1000000000}};
        absolute[i] = make(clocks[i], TFD_TIMER_ABSTIME, spec);
    }
    struct itimerspec fast = {.it_value.tv_nsec = 10000000, .it_interval.tv_nsec = 10000000};
    struct itimerspec soon = {.it_value.tv_nsec = 1000000};
    int periodic = make(CLOCK_MONOTONIC, 0, fast);
    int expired = make(CLOCK_MONOTONIC, 0, soon); // fires and stays unread
    int read_out = make(CLOCK_MONOTONIC, 0, soon); // fires, is read
    int disarmed = make(CLOCK_MONOTONIC, 0, seconds(0, 0));
    object_sleep_ms(60);
    check_fired(read_out, 1, "the timer that is read");
    for (int i = 0; i < 3; i++) {
        before[i] = left_of(far[i]);
    }
    int64_t start = object_now(CLOCK_MONOTONIC);
    object_ready_and_wait();
    int64_t elapsed = object_now(CLOCK_MONOTONIC) - start;
    SABOTAGE(uint64_t times; CHECK(read(expired, &times, 8) == 8, "read"));
    for (int i = 0; i < 3; i++) {
        struct itimerspec now;
        MUST(timerfd_gettime(far[i], &now));
        int64_t left = nanoseconds(now.it_value);
        CHECK(left <= before[i] + slack && left >= before[i] - elapsed - slack,
              "clock %d: %ld ns left, had %ld ns, %ld ns ago", clocks[i], left, before[i], elapsed);
        CHECK_EQUAL(nanoseconds(now.it_interval), (7 + i) * 1000000000L, "interval");
        int64_t want = due[i] - object_now(clocks[i]);
        left = left_of(absolute[i]);
        CHECK(left >= want - slack && left <= want + slack + elapsed,
              "clock %d: %ld ns left, due in %ld ns", clocks[i], left, want);
        CHECK((fcntl(far[i], F_GETFL) & O_NONBLOCK) != 0, "flags");
    }
    uint64_t times = 0;
    check_fired(expired, 1, "the expired timer");
    CHECK(read(expired, &times, 8) == -1 && errno == EAGAIN, "it fired again");
    CHECK(read(read_out, &times, 8) == -1 && errno == EAGAIN, "the one read before fired again");
    CHECK(read(disarmed, &times, 8) == -1 && errno == EAGAIN, "the disarmed one fired");
    check_fired(periodic, 5, "the periodic timer");
    object_sleep_ms(60);
    check_fired(periodic, 4, "the periodic timer afterwards");
    MUST(timerfd_settime(disarmed, 0, &soon, NULL));
    object_sleep_ms(20);
    check_fired(disarmed, 1, "the timer armed afterwards");
    object_pass();
}
