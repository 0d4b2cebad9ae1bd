// Blocked signals that wait: for the process, for one thread, and queued real-time signals with
// their payload and order. Nothing may be lost, doubled, or delivered to the wrong thread.
#include "support/object.h"

static pid_t thread_tid;
static pthread_barrier_t set_up, checked;

static siginfo_t take(int number, const char *what) {
    sigset_t set;
    siginfo_t info = {0};
    struct timespec no_time = {0};
    sigemptyset(&set);
    sigaddset(&set, number);
    // The raw call: glibc shows SI_TKILL as SI_USER.
    long got = syscall(SYS_rt_sigtimedwait, &set, &info, &no_time, 8);
    CHECK(got == number, "%s: signal %d is not pending: %s", what, number, strerror(errno));
    return info;
}

static void check_none(const char *what) {
    sigset_t pending;
    sigpending(&pending);
    for (int number = 1; number <= 64; number++) {
        CHECK(sigismember(&pending, number) != 1, "%s: signal %d is pending", what, number);
    }
}

static void *other_thread(void *argument) {
    (void)argument;
    thread_tid = object_tid();
    pthread_barrier_wait(&set_up);
    pthread_barrier_wait(&checked);
    siginfo_t info = take(SIGTERM, "the thread");
    CHECK_EQUAL(info.si_code, SI_TKILL, "code of the thread's signal");
    CHECK_EQUAL(info.si_pid, getpid(), "sender of the thread's signal");
    for (int i = 0; i < 3; i++) {
        info = take(SIGRTMIN + 5, "the thread");
        CHECK_EQUAL(info.si_value.sival_int, 100 + i, "payload for the thread");
        CHECK_EQUAL(info.si_code, SI_QUEUE, "code of the queued signal");
    }
    check_none("the thread");
    return NULL;
}

static void queue_to_thread(pid_t tid, int number, int payload) {
    siginfo_t info = {.si_code = SI_QUEUE};
    info.si_pid = getpid();
    info.si_uid = getuid();
    info.si_value.sival_int = payload;
    MUST(syscall(SYS_rt_tgsigqueueinfo, getpid(), tid, number, &info));
}

int main(int argc, char **argv) {
    object_start(argc, argv);
    sigset_t all;
    sigfillset(&all);
    MUST(sigprocmask(SIG_BLOCK, &all, NULL));
    MUST_BE_ZERO(pthread_barrier_init(&set_up, NULL, 2));
    MUST_BE_ZERO(pthread_barrier_init(&checked, NULL, 2));
    pthread_t thread;
    MUST_BE_ZERO(pthread_create(&thread, NULL, other_thread, NULL));
    pthread_barrier_wait(&set_up);
    MUST(kill(getpid(), SIGINT));
    MUST(kill(getpid(), SIGINT)); // a standard signal is kept once
    for (int i = 0; i < 20; i++) {
        union sigval value = {.sival_ptr = (void *)(0x123400000000 + i)};
        MUST(sigqueue(getpid(), SIGRTMIN + 2, value));
    }
    MUST(syscall(SYS_tgkill, getpid(), thread_tid, SIGTERM));
    MUST(syscall(SYS_tgkill, getpid(), object_tid(), SIGQUIT));
    for (int i = 0; i < 3; i++) {
        queue_to_thread(thread_tid, SIGRTMIN + 5, 100 + i);
    }
    object_ready_and_wait();
    SABOTAGE(take(SIGRTMIN + 2, "sabotage"));
    siginfo_t info = take(SIGINT, "the process");
    CHECK_EQUAL(info.si_code, SI_USER, "code of SIGINT");
    CHECK_EQUAL(info.si_pid, getpid(), "sender of SIGINT");
    take(SIGQUIT, "the main thread");
    for (int i = 0; i < 20; i++) {
        info = take(SIGRTMIN + 2, "the process");
        CHECK(info.si_value.sival_ptr == (void *)(0x123400000000 + i), "payload %d is %p", i,
              info.si_value.sival_ptr);
    }
    check_none("the process");
    pthread_barrier_wait(&checked);
    MUST_BE_ZERO(pthread_join(thread, NULL));
    object_pass();
}
