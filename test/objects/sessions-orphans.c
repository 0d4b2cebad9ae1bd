// Sessions and groups whose members have lost their parents or leaders. The root is a child
// subreaper, so that orphans stay in its tree. argv[2]: dead-leader, living-leader, zombie-leader,
// deep, left-group, dead-groups.
#include <sys/prctl.h>

#include "support/object.h"

struct place {
    pid_t pid, parent, group, session;
    int ready;
};

static struct place *places; // shared with every process of the tree
static int count;

static struct place here(void) {
    return (struct place){getpid(), getppid(), getpgid(0), getsid(0), 1};
}

static void check(const struct place *was) {
    struct place is = here();
    CHECK(is.pid == was->pid && is.parent == was->parent && is.group == was->group &&
              is.session == was->session,
          "pid %d parent %d group %d session %d, was %d %d %d %d", is.pid, is.parent, is.group,
          is.session, was->pid, was->parent, was->group, was->session);
}

static void wait_for_place(int number) {
    for (int i = 0; i < 5000 && !places[number].ready; i++) {
        usleep(1000);
    }
    CHECK(places[number].ready, "process %d is not set up", number);
}

/// A process that waits, in place `number`, until its parent is `parent` (0: does not matter).
static void member(int number, pid_t parent) {
    while (parent != 0 && getppid() != parent) {
        usleep(1000);
    }
    places[number] = here();
    object_wait();
    SABOTAGE(if (number == 0) setpgid(0, 0));
    SABOTAGE(if (number == 0) places[0].group = -1);
    check(&places[number]);
    while (waitpid(-1, NULL, 0) > 0) { // children look who their parent is
    }
    _exit(0);
}

static pid_t start(int number, pid_t parent) {
    pid_t pid = MUST(fork());
    if (pid == 0) {
        member(number, parent);
    }
    return pid;
}

/// A session whose leader makes two members, one in a group of its own, and ends.
static void dead_leader(void) {
    pid_t root = getpid(), leader = MUST(fork());
    if (leader == 0) {
        setsid();
        start(0, root);
        pid_t second = start(1, root);
        MUST(setpgid(second, second));
        pid_t third = MUST(fork());
        if (third == 0) {
            start(3, third = getpid());
            member(2, root);
        }
        usleep(1000);
        _exit(0);
    }
    MUST(waitpid(leader, NULL, 0));
    count = 4;
}

/// A session whose leader lives; its grandchild is an orphan in the same session.
static void living_leader(void) {
    pid_t root = getpid(), leader = MUST(fork());
    if (leader == 0) {
        setsid();
        pid_t between = MUST(fork());
        if (between == 0) {
            start(0, root);
            _exit(0);
        }
        MUST(waitpid(between, NULL, 0));
        member(1, 0);
    }
    count = 2;
}

/// The leader is two steps below the process that takes its orphan.
static void deep(void) {
    pid_t root = getpid(), middle = MUST(fork());
    if (middle == 0) {
        pid_t leader = MUST(fork());
        if (leader == 0) {
            setsid();
            pid_t between = MUST(fork());
            if (between == 0) {
                start(0, root);
                _exit(0);
            }
            MUST(waitpid(between, NULL, 0));
            member(1, 0);
        }
        member(2, 0);
    }
    count = 3;
}

static pid_t zombie;

/// The leader has ended and nobody has waited for it.
static void zombie_leader(void) {
    pid_t root = getpid();
    zombie = MUST(fork());
    if (zombie == 0) {
        setsid();
        start(0, root);
        _exit(7);
    }
    count = 1;
}

/// A group whose leader has gone to another group.
static void left_group(void) {
    pid_t first = start(0, 0), second = start(1, 0);
    wait_for_place(0);
    wait_for_place(1);
    MUST(setpgid(first, first));
    MUST(setpgid(second, first));
    MUST(setpgid(first, getpgid(0)));
    places[0].group = getpgid(first);
    places[1].group = first;
    count = 2;
}

/// Groups whose leaders have ended: in this session and in one of a child.
static void dead_groups(void) {
    pid_t first = start(0, 0), leader = MUST(fork());
    if (leader == 0) {
        for (;;) {
            pause();
        }
    }
    MUST(setpgid(leader, leader));
    wait_for_place(0);
    MUST(setpgid(first, leader));
    places[0].group = leader;
    pid_t session = MUST(fork());
    if (session == 0) {
        setsid();
        pid_t inner = start(1, 0), gone = MUST(fork());
        if (gone == 0) {
            for (;;) {
                pause();
            }
        }
        MUST(setpgid(gone, gone));
        wait_for_place(1);
        MUST(setpgid(inner, gone));
        places[1].group = gone;
        MUST(kill(gone, SIGKILL));
        MUST(waitpid(gone, NULL, 0));
        member(2, 0);
    }
    MUST(kill(leader, SIGKILL));
    MUST(waitpid(leader, NULL, 0));
    count = 3;
}

static const struct {
    const char *name;
    void (*make)(void);
} kinds[] = {
    {"dead-leader", dead_leader},     {"living-leader", living_leader},
    {"zombie-leader", zombie_leader}, {"deep", deep},
    {"left-group", left_group},       {"dead-groups", dead_groups},
};

int main(int argc, char **argv) {
    object_start(argc, argv);
    places = object_map(PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    MUST(prctl(PR_SET_CHILD_SUBREAPER, 1));
    size_t kind = 0;
    while (strcmp(kinds[kind].name, argc > 2 ? argv[2] : "dead-leader") != 0) {
        CHECK(++kind < COUNT_OF(kinds), "there is no kind %s", argv[2]);
    }
    kinds[kind].make();
    for (int i = 0; i < count; i++) {
        wait_for_place(i);
    }
    struct place was = here();
    object_ready_and_wait();
    was.parent = getppid(); // outside the tree
    check(&was);
    if (zombie != 0) {
        siginfo_t info;
        MUST(waitid(P_PID, (id_t)zombie, &info, WEXITED | WNOWAIT));
        CHECK_EQUAL(info.si_status, 7, "the zombie's status");
        int status;
        CHECK_EQUAL(waitpid(zombie, &status, 0), zombie, "waitpid");
    }
    for (int i = 0; i < count; i++) {
        MUST(kill(places[i].pid, SIGUSR1));
    }
    for (int i = 0; i < count; i++) {
        int status;
        if (places[i].parent != getpid()) {
            continue;
        }
        CHECK_EQUAL(waitpid(places[i].pid, &status, 0), places[i].pid, "waitpid");
        CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0, "process %d ended with 0x%x", i,
              status);
    }
    object_pass();
}
