// Sessions and process groups, made in several orders: own session, own group, a group joined from
// a sibling, a group made by the parent, a session with two groups.
#include "support/object.h"

struct place {
    pid_t pid, group, session;
};

static struct place here(void) {
    return (struct place){.pid = getpid(), .group = getpgid(0), .session = getsid(0)};
}

static void check(struct place was, const char *who) {
    struct place is = here();
    CHECK(is.pid == was.pid && is.group == was.group && is.session == was.session,
          "%s: pid %d group %d session %d, was %d %d %d", who, is.pid, is.group, is.session,
          was.pid, was.group, was.session);
}

static void member(void *argument) {
    if (argument != NULL) {
        MUST(setpgid(0, *(pid_t *)argument));
    }
    struct place was = here();
    object_child_wait();
    SABOTAGE(setpgid(0, 0));
    check(was, "a member");
}

static void session_leader(void *argument) {
    (void)argument;
    pid_t early = object_fork(member, NULL); // stays in the old session
    MUST(setsid());
    pid_t self = getpid(), zero = 0;
    pid_t plain = object_fork(member, NULL);
    pid_t second = object_fork(member, &zero); // leads a second group of this session
    object_fork(member, &second);              // joins it
    struct place was = here();
    CHECK(was.session == self && getsid(early) != self && getsid(plain) == self, "set-up");
    object_child_wait();
    check(was, "the session's leader");
    CHECK(getsid(early) == getsid(getppid()), "the early child changed session");
    object_join_all();
}

static void group_leader(void *argument) {
    (void)argument;
    MUST(setpgid(0, 0));
    struct place was = here();
    object_child_wait();
    check(was, "the group's leader");
}

int main(int argc, char **argv) {
    object_start(argc, argv);
    object_fork(session_leader, NULL);
    pid_t leader = object_fork(group_leader, NULL);
    object_fork(member, &leader);
    pid_t moved = object_fork(member, NULL);
    MUST(setpgid(moved, leader) == 0 || errno == EACCES ? 0 : -1);
    struct place was = here();
    pid_t moved_group = getpgid(moved);
    object_ready_and_wait();
    check(was, "the root");
    CHECK_EQUAL(getpgid(moved), moved_group, "the moved child's group");
    // `moved` noted its group before it was moved: put it back where it was then.
    MUST(setpgid(moved, was.group));
    object_join_all();
    object_pass();
}
