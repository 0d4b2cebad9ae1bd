// A process group, and a session, whose leader has ended while members live on. The root is a
// child subreaper, so the orphans stay in its tree.
#include <sys/prctl.h>

#include "support/object.h"

static pid_t orphan_pid;
static int orphan_pipe[2];

static void orphan(void *argument) {
    (void)argument;
    pid_t group = getpgid(0), session = getsid(0), self = getpid();
    close(orphan_pipe[0]);
    object_child_ready();
    while (getppid() != object_root_pid) {
        usleep(1000);
    }
    CHECK(write(orphan_pipe[1], &self, sizeof self) == sizeof self, "write");
    close(orphan_pipe[1]);
    object_wait();
    CHECK_EQUAL(getpid(), self, "the orphan's pid");
    CHECK_EQUAL(getppid(), object_root_pid, "the orphan's ppid");
    SABOTAGE(setpgid(0, 0));
    CHECK_EQUAL(getpgid(0), group, "the orphan's group");
    CHECK_EQUAL(getsid(0), session, "the orphan's session");
    CHECK(group != self && kill(group, 0) == -1 && errno == ESRCH, "the leader %d lives", group);
}

static void leader(void *argument) {
    if (argument != NULL) {
        MUST(setsid());
    } else {
        MUST(setpgid(0, 0));
    }
    object_fork(orphan, NULL);
    object_child_ready();
}

int main(int argc, char **argv) {
    object_start(argc, argv);
    MUST(prctl(PR_SET_CHILD_SUBREAPER, 1));
    pid_t orphans[2];
    for (int i = 0; i < 2; i++) {
        MUST(pipe(orphan_pipe));
        object_reap(object_fork(leader, i == 0 ? NULL : "session"));
        close(orphan_pipe[1]);
        CHECK(read(orphan_pipe[0], &orphan_pid, sizeof orphan_pid) == sizeof orphan_pid, "read");
        close(orphan_pipe[0]);
        orphans[i] = orphan_pid;
    }
    object_ready_and_wait();
    int subreaper = 0;
    MUST(prctl(PR_GET_CHILD_SUBREAPER, &subreaper));
    CHECK_EQUAL(subreaper, 1, "subreaper");
    object_join(orphans[0]);
    object_join(orphans[1]);
    object_pass();
}
