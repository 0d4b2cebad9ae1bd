// Children that use their parent's memory until they execute their program (vfork), one after the
// other, at every moment: the parent cannot be stopped meanwhile.
#include <sched.h>

#include "support/object.h"

static volatile int made, wrong;

static void *make(void *argument) {
    char *const arguments[] = {"/proc/self/exe", "end", NULL};
    for (;;) {
        int status = 0;
        pid_t pid = vfork();
        if (pid == 0) {
            execv(arguments[0], arguments);
            _exit(3);
        }
        if (pid < 0 || waitpid(pid, &status, 0) != pid || status != 0) {
            wrong = wrong == 0 ? (pid < 0 ? -errno : status + 1) : wrong;
        }
        made++;
    }
    return argument;
}

int main(int argc, char **argv) {
    if (argc == 2 && strcmp(argv[1], "end") == 0) {
        return 0;
    }
    object_start(argc, argv);
    pthread_t thread;
    MUST_BE_ZERO(pthread_create(&thread, NULL, make, NULL));
    while (made < 3) {
        object_sleep_ms(1);
    }
    object_ready_and_wait();
    SABOTAGE(wrong = 1);
    int before = made;
    for (int i = 0; i < 2000 && made < before + 3; i++) {
        object_sleep_ms(1);
    }
    CHECK(made >= before + 3, "no more children are made");
    CHECK_EQUAL(wrong, 0, "what went wrong with a child");
    object_pass();
}
