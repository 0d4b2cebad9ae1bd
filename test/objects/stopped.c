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

int main(int argc, char **argv) {
    object_start(argc, argv);
    static const int signals[] = {SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU};
    pid_t children[COUNT_OF(signals) + 1];
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

    object_sleep_ms(50);
    object_ready_and_wait();
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
