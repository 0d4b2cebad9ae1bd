// Signals that wait, each with all of its siginfo and in its order: for the process and for threads.
#include "support/object.h"

static pthread_barrier_t barrier;
static pid_t tids[3];

static void queue(pid_t tid, int number, int code, int value) {
    siginfo_t info;
    memset(&info, 0, sizeof info);
    info.si_signo = number;
    info.si_code = code;
    info.si_pid = 12345;
    info.si_uid = 678;
    info.si_value.sival_ptr = (void *)(uintptr_t)(0x1234567800000000u + (unsigned)value);
    long result = tid == 0 ? syscall(SYS_rt_sigqueueinfo, getpid(), number, &info)
                           : syscall(SYS_rt_tgsigqueueinfo, getpid(), tid, number, &info);
    CHECK(result == 0, "queue: %s", strerror(errno));
}

static void fill(int which, pid_t tid) {
    queue(tid, SIGRTMIN + 1, SI_QUEUE, which * 10 + 1);
    queue(tid, SIGRTMIN + 1, SI_QUEUE, which * 10 + 2);
    queue(tid, SIGRTMIN + 3, SI_MESGQ, which * 10 + 3);
    queue(tid, SIGUSR2, SI_QUEUE, which * 10 + 4);
    queue(tid, SIGRTMAX, SI_ASYNCIO, which * 10 + 5);
    if (tid == 0) {
        MUST(kill(getpid(), SIGALRM));
    } else {
        MUST(syscall(SYS_tgkill, getpid(), tid, SIGALRM));
    }
}

static void take(int which) {
    sigset_t set;
    sigfillset(&set);
    sigdelset(&set, SIGUSR1);
    struct timespec now = {0, 0};
    int seen[8] = {0}, got = 0, last = 0;
    siginfo_t info;
    for (;;) {
        int number = (int)syscall(SYS_rt_sigtimedwait, &set, &info, &now, 8);
        if (number < 0) {
            break;
        }
        int value = (int)(uintptr_t)info.si_value.sival_ptr;
        if (number == SIGALRM) {
            CHECK(info.si_code == (which == 0 ? SI_USER : SI_TKILL), "code %d of SIGALRM", info.si_code);
            CHECK_EQUAL(info.si_pid, getpid(), "sender");
            seen[6]++;
        } else {
            CHECK_EQUAL(value / 10, which, "whose signal");
            CHECK_EQUAL((uintptr_t)info.si_value.sival_ptr >> 32, 0x12345678u, "upper half");
            CHECK_EQUAL(info.si_pid, 12345, "sender");
            CHECK_EQUAL(info.si_uid, 678, "sender's uid");
            seen[value % 10]++;
            if (number == SIGRTMIN + 1) {
                CHECK(value > last, "order");
                last = value;
                CHECK_EQUAL(info.si_code, SI_QUEUE, "code");
            } else if (number == SIGRTMIN + 3) {
                CHECK_EQUAL(info.si_code, SI_MESGQ, "code");
            } else if (number == SIGRTMAX) {
                CHECK_EQUAL(info.si_code, SI_ASYNCIO, "code");
            }
        }
        got++;
    }
    CHECK_EQUAL(got, 6, "signals");
    for (int i = 1; i <= 6; i++) {
        CHECK_EQUAL(seen[i], 1, "times");
    }
}

static void *body(void *argument) {
    int which = (int)(intptr_t)argument;
    tids[which] = object_tid();
    pthread_barrier_wait(&barrier);
    pthread_barrier_wait(&barrier);
    pthread_barrier_wait(&barrier);
    take(which);
    return NULL;
}

int main(int argc, char **argv) {
    object_start(argc, argv);
    sigset_t all;
    sigfillset(&all);
    sigprocmask(SIG_BLOCK, &all, NULL);
    pthread_t threads[2];
    pthread_barrier_init(&barrier, NULL, 3);
    for (intptr_t i = 0; i < 2; i++) {
        MUST_BE_ZERO(pthread_create(&threads[i], NULL, body, (void *)(i + 1)));
    }
    pthread_barrier_wait(&barrier);
    fill(0, 0);
    fill(1, tids[1]);
    fill(2, tids[2]);
    pthread_barrier_wait(&barrier);
    object_ready_and_wait();
    SABOTAGE(sigwaitinfo(&all, NULL));
    take(0);
    pthread_barrier_wait(&barrier);
    for (int i = 0; i < 2; i++) {
        MUST_BE_ZERO(pthread_join(threads[i], NULL));
    }
    object_pass();
}
