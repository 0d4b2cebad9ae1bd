// The main thread has ended (it shows as a zombie), others carry on. argv[2] = family: three of
// them, one with a timer, of a user without privileges, with a child that is like it.
#include <sys/prctl.h>
#include <sys/sem.h>

#include "support/object.h"

static char state[4096];

/// The state of the process's first thread.
static char first_state(void) {
    char path[64];
    snprintf(path, sizeof path, "/proc/self/task/%d/stat", getpid());
    object_read(path, state, sizeof state);
    return strrchr(state, ')')[2];
}

static void await_end(void) {
    while (first_state() != 'Z') {
        usleep(1000);
    }
}

static void *survivor(void *argument) {
    (void)argument;
    await_end();
    pid_t self = object_tid();
    object_ready_and_wait();
    SABOTAGE(self++);
    CHECK_EQUAL(object_tid(), self, "tid");
    CHECK(first_state() == 'Z', "the main thread is not over: %s", state);
    object_pass();
}

static volatile int ticks;

static void on_tick(int signal) {
    (void)signal;
    ticks++;
}

static void *other(void *argument) {
    (void)argument;
    for (;;) {
        pause();
    }
    return NULL;
}

static void start_others(void) {
    pthread_t thread;
    for (int i = 0; i < 2; i++) {
        MUST_BE_ZERO(pthread_create(&thread, NULL, other, NULL));
    }
}

static void *in_child(void *argument) {
    await_end();
    object_child_wait();
    CHECK(first_state() == 'Z', "the child's main thread is not over: %s", state);
    CHECK(strstr(state, "(first of two)") != NULL, "its name is %s", state);
    _exit(0);
    return argument;
}

static void child(void *argument) {
    pthread_t thread;
    start_others();
    MUST_BE_ZERO(pthread_create(&thread, NULL, in_child, argument));
    MUST(prctl(PR_SET_NAME, "first of two"));
    pthread_exit(NULL);
}

static void *family(void *argument) {
    await_end();
    start_others();
    MUST(setgid(1234));
    MUST(setuid(1234));
    pid_t made = object_fork(child, argument);
    // Where there is one, it is looked at who may have used it, and how.
    int semaphore = MUST(semget(IPC_PRIVATE, 1, IPC_CREAT | 0600));
    signal(SIGALRM, on_tick);
    timer_t timer;
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGALRM};
    struct itimerspec every = {{.tv_nsec = 10000000}, {.tv_nsec = 10000000}};
    MUST(timer_create(CLOCK_MONOTONIC, &event, &timer));
    MUST(timer_settime(timer, 0, &every, NULL));
    struct stat was, is;
    MUST(stat("/proc/self", &was)); // as its first thread was
    object_ready_and_wait();
    semctl(semaphore, 0, IPC_RMID);
    SABOTAGE(timer_delete(timer));
    int before = ticks;
    object_sleep_ms(200);
    CHECK(ticks > before, "the timer does not tick");
    CHECK(first_state() == 'Z', "the main thread is not over: %s", state);
    CHECK_EQUAL(getuid(), 1234, "user");
    MUST(stat("/proc/self", &is));
    CHECK_EQUAL(is.st_uid, was.st_uid, "the owner of the process");
    object_join(made);
    object_pass();
}

int main(int argc, char **argv) {
    object_start(argc, argv);
    bool is_family = argc > 2 && strcmp(argv[2], "family") == 0;
    pthread_t thread;
    MUST(chmod(argv[1], 0777));
    MUST_BE_ZERO(pthread_create(&thread, NULL, is_family ? family : survivor, NULL));
    pthread_exit(NULL);
}
