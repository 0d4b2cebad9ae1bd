// Stopped processes: by SIGSTOP, SIGTSTP, SIGTTIN; a stopped child of a stopped parent; one that was stopped and whose stop has been waited for.
#include "support/object.h"

static void body(void *argument) {
    (void)argument;
    object_child_wait();
}

static void body_with_child(void *argument) {
    (void)argument;
    pid_t child = object_fork(body, NULL);
    MUST(kill(child, SIGSTOP));
    object_child_wait();
    MUST(kill(child, SIGCONT));
    object_join(child);
}

static char state_of(pid_t pid) {
    char path[64], text[1024];
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    object_read(path, text, sizeof text);
    return strrchr(text, ')')[2];
}

static volatile sig_atomic_t signals_seen;

static void count(int signal) {
    (void)signal;
    signals_seen++;
}

/// Has a function for SIGCHLD, which has been called for the stop already.
static void counter(void *argument) {
    (void)argument;
    MUST(sigaction(SIGCHLD, &(struct sigaction){.sa_handler = count, .sa_flags = SA_RESTART}, NULL));
    pid_t waited = object_fork(body, NULL), unwaited = object_fork(body, NULL);
    int status;
    MUST(kill(waited, SIGSTOP));
    CHECK_EQUAL(waitpid(waited, &status, WUNTRACED), waited, "waitpid");
    MUST(kill(unwaited, SIGSTOP));
    object_sleep_ms(20);
    int before = signals_seen;
    CHECK(before > 0, "no SIGCHLD of a stop");
    object_child_wait();
    object_sleep_ms(20);
    CHECK_EQUAL(signals_seen, before, "calls of the function");
    CHECK_EQUAL(waitpid(waited, &status, WUNTRACED | WNOHANG), 0, "waitpid, once more");
    CHECK_EQUAL(waitpid(unwaited, &status, WUNTRACED | WNOHANG), unwaited, "waitpid");
    MUST(kill(waited, SIGCONT));
    MUST(kill(unwaited, SIGCONT));
    CHECK_EQUAL(waitpid(waited, &status, WCONTINUED), waited, "waitpid");
    object_sleep_ms(20);
    CHECK(signals_seen > before, "no SIGCHLD of a child that goes on");
    object_join_all();
}

int main(int argc, char **argv) {
    object_start(argc, argv);
    static const int signals[] = {SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU};
    pid_t children[COUNT_OF(signals) + 1], waited[2];
    sigset_t child_signal, pending;
    sigemptyset(&child_signal);
    sigaddset(&child_signal, SIGCHLD);
    for (size_t i = 0; i < COUNT_OF(signals); i++) {
        children[i] = object_fork(body, NULL);
        MUST(setpgid(children[i], children[i]));
    }
    children[COUNT_OF(signals)] = object_fork(body_with_child, NULL);
    for (size_t i = 0; i < COUNT_OF(signals); i++) {
        MUST(kill(children[i], signals[i]));
    }
    MUST(kill(children[COUNT_OF(signals)], SIGSTOP));
    int status;
    object_fork(counter, NULL);
    MUST_BE_ZERO(pthread_sigmask(SIG_BLOCK, &child_signal, NULL));
    for (size_t i = 0; i < COUNT_OF(waited); i++) {
        waited[i] = object_fork(body, NULL);
        MUST(setpgid(waited[i], waited[i]));
        MUST(kill(waited[i], i == 0 ? SIGSTOP : SIGTSTP));
        CHECK_EQUAL(waitpid(waited[i], &status, WUNTRACED), waited[i], "waitpid");
    }

    object_sleep_ms(50);
    sigtimedwait(&child_signal, NULL, &(struct timespec){0, 0});
    object_ready_and_wait();
    MUST(sigpending(&pending));
    CHECK(!sigismember(&pending, SIGCHLD), "a stop is told of once more");
    for (size_t i = 0; i < COUNT_OF(waited); i++) {
        CHECK_EQUAL(state_of(waited[i]), 'T', "state of one whose stop was waited for");
        CHECK_EQUAL(waitpid(waited[i], &status, WUNTRACED | WNOHANG), 0, "waitpid, once more");
        MUST(kill(waited[i], SIGCONT));
        CHECK_EQUAL(waitpid(waited[i], &status, WCONTINUED), waited[i], "waitpid");
    }
    for (size_t i = 0; i <= COUNT_OF(signals); i++) {
        SABOTAGE(kill(children[i], SIGCONT), object_sleep_ms(20));
        CHECK_EQUAL(state_of(children[i]), 'T', "state");
        pid_t got = waitpid(children[i], &status, WUNTRACED | WNOHANG);
        CHECK_EQUAL(got, children[i], "waitpid");
        CHECK(WIFSTOPPED(status), "status 0x%x", status);
        CHECK_EQUAL(WSTOPSIG(status), i < COUNT_OF(signals) ? signals[i] : SIGSTOP, "stopped by");
        MUST(kill(children[i], SIGCONT));
        CHECK_EQUAL(waitpid(children[i], &status, WCONTINUED), children[i], "waitpid");
    }
    object_join_all();
    object_pass();
}
