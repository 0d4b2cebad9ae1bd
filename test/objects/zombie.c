// Children that have ended and are not waited for yet: one by exit status, one by a signal. Their
// parent must still be able to learn how they ended.
#include "support/object.h"

static pid_t ended(int status, int signal_number) {
    pid_t child = MUST(fork());
    if (child == 0) {
        if (signal_number != 0) {
            raise(signal_number);
        }
        _exit(status);
    }
    siginfo_t info;
    MUST(waitid(P_PID, (id_t)child, &info, WEXITED | WNOWAIT));
    return child;
}

int main(int argc, char **argv) {
    object_start(argc, argv);
    pid_t exited = ended(42, 0), killed = ended(0, SIGTERM);
    object_ready_and_wait();
    SABOTAGE(waitpid(exited, NULL, 0));
    int status = 0;
    CHECK_EQUAL(waitpid(exited, &status, WNOHANG), exited, "waitpid for the one that exited");
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 42, "it exited with 0x%x", status);
    CHECK_EQUAL(waitpid(killed, &status, WNOHANG), killed, "waitpid for the one that was killed");
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGTERM, "it was killed with 0x%x", status);
    CHECK(waitpid(-1, NULL, 0) == -1 && errno == ECHILD, "there is another child");
    object_pass();
}
