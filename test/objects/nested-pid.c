// PID namespaces below the root of the tree: every process keeps its number in each of them. argv[2] names the kind.
#include <sched.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>

#include "support/object.h"

// What processes of nested namespaces note about themselves, in memory that all have.
struct notes {
    pid_t own, outer, parent, group, session;
    ino_t space;
};
static struct notes *notes;

static ino_t inode_of(const char *path) {
    struct stat info;
    MUST(stat(path, &info));
    return info.st_ino;
}

// The number that the namespace of the root has for the caller: /proc is that of the root.
static pid_t outer_number(void) {
    char text[32] = "";
    CHECK(readlink("/proc/self", text, sizeof text - 1) > 0, "readlink: %s", strerror(errno));
    return atoi(text);
}

static struct notes look(void) {
    return (struct notes){
        .own = getpid(),
        .outer = outer_number(),
        .parent = getppid(),
        .group = getpgid(0),
        .session = getsid(0),
        .space = inode_of("/proc/self/ns/pid"),
    };
}

static void check_notes(const struct notes *noted) {
    struct notes now = look();
    CHECK_EQUAL(now.own, noted->own, "PID in its own namespace");
    CHECK_EQUAL(now.outer, noted->outer, "PID in the root's namespace");
    CHECK_EQUAL(now.parent, noted->parent, "parent");
    CHECK_EQUAL(now.group, noted->group, "group");
    CHECK_EQUAL(now.session, noted->session, "session");
}

static void start_notes(void) {
    notes = object_map(PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
}

// Forks a child whose own children are born in a new namespace, and waits until it has let the first one go.
static pid_t object_fork_into(int flags, void (*body)(void *), void *argument) {
    MUST(unshare(flags));
    return object_fork(body, argument);
}

static void note_and_check(int at) {
    notes[at] = look();
    object_child_wait();
    check_notes(&notes[at]);
}

static void grandchild(void *argument) {
    (void)argument;
    note_and_check(1);
}

static void other_grandchild(void *argument) {
    (void)argument;
    MUST(setsid());
    note_and_check(2);
}

static void group_grandchild(void *argument) {
    (void)argument;
    MUST(setpgid(0, 0));
    note_and_check(3);
}

static void init(void *argument) {
    (void)argument;
    CHECK_EQUAL(getpid(), 1, "PID of the first process");
    object_fork(grandchild, NULL);
    object_fork(other_grandchild, NULL);
    object_fork(group_grandchild, NULL);
    notes[0] = look();
    object_child_wait();
    SABOTAGE(notes[0].own = 2);
    check_notes(&notes[0]);
    object_join_all();
}

static void tree(void) {
    start_notes();
    pid_t first = object_fork_into(CLONE_NEWPID, init, NULL);
    CHECK(first > 1, "the first process is number %d here", first);
    ino_t own = inode_of("/proc/self/ns/pid");
    object_ready_and_wait();
    CHECK(inode_of("/proc/self/ns/pid") == own, "the root is in another namespace");
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/ns/pid", first);
    CHECK(inode_of(path) != own, "the child is in the namespace of the root");
    // The next child is born there too, with the next number.
    int status;
    pid_t next = MUST(fork());
    if (next == 0) _exit(getpid() > 1 && inode_of("/proc/self/ns/pid") == inode_of(path) ? 0 : 1);
    CHECK(waitpid(next, &status, 0) == next && status == 0, "the next child is born elsewhere: status 0x%x", status);
    object_join(first);
}

// Two levels, each with a thread and a zombie.
static void *sleeper(void *argument) {
    pid_t *tid = argument;
    *tid = object_tid();
    for (;;) pause();
    return NULL;
}

static void inner_init(void *argument) {
    (void)argument;
    static pid_t tid;
    pthread_t thread;
    MUST_BE_ZERO(pthread_create(&thread, NULL, sleeper, &tid));
    while (__atomic_load_n(&tid, __ATOMIC_SEQ_CST) == 0) sched_yield();
    pid_t zombie = MUST(fork());
    if (zombie == 0) _exit(7);
    siginfo_t info;
    MUST(waitid(P_PID, (id_t)zombie, &info, WEXITED | WNOWAIT));
    notes[2] = look();
    object_child_wait();
    check_notes(&notes[2]);
    CHECK_EQUAL(tgkill(1, tid, 0), 0, "its thread");
    int status = 0;
    CHECK_EQUAL(waitpid(zombie, &status, 0), zombie, "waitpid of the zombie");
    CHECK_EQUAL(WEXITSTATUS(status), 7, "status of the zombie");
}

static void outer_init(void *argument) {
    (void)argument;
    pid_t inner = object_fork_into(CLONE_NEWPID, inner_init, NULL);
    notes[1] = look();
    object_child_wait();
    SABOTAGE(notes[2].own = 2);
    check_notes(&notes[1]);
    object_join(inner);
}

static void deep(void) {
    start_notes();
    pid_t first = object_fork_into(CLONE_NEWPID, outer_init, NULL);
    object_ready_and_wait();
    object_join(first);
}

// A process that enters the namespace of another one's child, and orphans that its first process has taken.
static void orphan_maker(void *argument) {
    (void)argument;
    object_fork(grandchild, NULL);
    object_child_ready();
    _exit(0);
}

static void adopting_init(void *argument) {
    (void)argument;
    int status;
    pid_t between = object_fork(orphan_maker, NULL);
    CHECK_EQUAL(waitpid(between, &status, 0), between, "waitpid");
    notes[0] = look();
    notes[1].parent = 1;
    object_child_wait();
    SABOTAGE(notes[1].parent = 0);
    check_notes(&notes[0]);
    CHECK_EQUAL(notes[1].own, 3, "number of the orphan");
    MUST(kill(3, SIGUSR1));
    object_reap(3);
}

static void visitor(void *argument) {
    (void)argument;
    MUST(unshare(CLONE_NEWUTS));
    note_and_check(4);
}

static void visitors_parent(void *argument) {
    int space = *(int *)argument;
    MUST(setns(space, CLONE_NEWPID));
    close(space);
    pid_t child = object_fork(visitor, NULL);
    object_child_wait();
    object_join(child);
}

static void entered(void) {
    start_notes();
    // Its first process was made by somebody who is not born there and who has other children at home.
    int home = MUST(open("/proc/self/ns/pid", O_RDONLY | O_CLOEXEC));
    pid_t first = object_fork_into(CLONE_NEWPID, adopting_init, NULL);
    MUST(setns(home, CLONE_NEWPID));
    close(home);
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/ns/pid", first);
    int space = MUST(open(path, O_RDONLY | O_CLOEXEC));
    pid_t parent = object_fork(visitors_parent, &space);
    object_ready_and_wait();
    struct stat info;
    MUST(fstat(space, &info));
    CHECK(info.st_ino == inode_of(path), "the descriptor shows another namespace");
    object_join(parent);
    object_join(first);
}

// Namespaces for children that are not born yet, or cannot be any more.
static void unborn(void) {
    MUST(unshare(CLONE_NEWPID));
    object_ready_and_wait();
    pid_t child = MUST(fork());
    if (child == 0) _exit(getpid() == 1 ? 0 : 1);
    int status;
    MUST(waitpid(child, &status, 0));
    SABOTAGE(status = 1);
    CHECK_EQUAL(status, 0, "status of the first process");
    CHECK(fork() < 0 && errno == ENOMEM, "it had a second one: %s", strerror(errno));
}

static void over(void) {
    MUST(unshare(CLONE_NEWPID));
    pid_t child = MUST(fork());
    if (child == 0) _exit(0);
    MUST(waitpid(child, NULL, 0));
    object_ready_and_wait();
    child = fork();
    if (child == 0) _exit(0);
    SABOTAGE(child = 1);
    CHECK(child < 0 && errno == ENOMEM, "a child was born: %d, %s", child, strerror(errno));
}

// With mounts of its own: the /proc there shows its processes only.
static void mounts_init(void *argument) {
    (void)argument;
    MUST(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL));
    MUST(mount("proc", "/proc", "proc", 0, NULL));
    pid_t child = object_fork(grandchild, NULL);
    int status_file = MUST(open("/proc/1/status", O_RDONLY));
    int childs_file = MUST(open("/proc/2/comm", O_RDONLY));
    object_child_wait();
    SABOTAGE(MUST(umount("/proc")));
    CHECK_EQUAL(outer_number(), 1, "number in the /proc of its own");
    CHECK(access("/proc/2/status", F_OK) == 0, "/proc/2 is missing");
    CHECK(access("/proc/3/status", F_OK) != 0, "/proc/3 is there");
    char text[16] = "";
    CHECK(read(status_file, text, 5) == 5 && memcmp(text, "Name:", 5) == 0, "the open /proc/1/status: %s", text);
    CHECK(read(childs_file, text, 15) > 0, "the open /proc/2/comm: %s", strerror(errno));
    object_join(child);
}

static void mounted(void) {
    start_notes();
    pid_t first = object_fork_into(CLONE_NEWPID | CLONE_NEWNS, mounts_init, NULL);
    object_ready_and_wait();
    object_join(first);
}

// Signals that carry a sender's number, pidfds, and signal owners, as seen inside.
static void signals_child(void *argument) {
    (void)argument;
    note_and_check(1);
}

static void signals_init(void *argument) {
    (void)argument;
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGRTMIN);
    sigaddset(&set, SIGTERM);
    MUST(sigprocmask(SIG_BLOCK, &set, NULL));
    pid_t child = object_fork(signals_child, NULL);
    int pidfd = MUST(syscall(SYS_pidfd_open, child, 0));
    MUST(sigqueue(1, SIGRTMIN, (union sigval){.sival_int = 42}));
    int pair[2];
    MUST(socketpair(AF_UNIX, SOCK_DGRAM, 0, pair));
    MUST(fcntl(pair[0], F_SETOWN, child));
    object_child_wait();
    siginfo_t info = {0};
    SABOTAGE(MUST(fcntl(pair[0], F_SETOWN, 1)));
    CHECK_EQUAL(sigwaitinfo(&set, &info), SIGRTMIN, "signal");
    CHECK_EQUAL(info.si_pid, 1, "its sender");
    CHECK_EQUAL(info.si_value.sival_int, 42, "its value");
    CHECK_EQUAL(fcntl(pair[0], F_GETOWN), child, "who gets signals of the socket");
    MUST(syscall(SYS_pidfd_send_signal, pidfd, SIGUSR1, NULL, 0));
    object_reap(child);
}

static void signals(void) {
    start_notes();
    pid_t first = object_fork_into(CLONE_NEWPID, signals_init, NULL);
    int pidfd = MUST(syscall(SYS_pidfd_open, first, 0));
    object_ready_and_wait();
    MUST(syscall(SYS_pidfd_send_signal, pidfd, SIGUSR1, NULL, 0));
    object_reap(first);
}

int main(int argc, char **argv) {
    static const struct object_kind kinds[] = {
        {"tree", tree}, {"deep", deep}, {"entered", entered}, {"unborn", unborn},
        {"over", over}, {"mounted", mounted}, {"signals", signals}};
    object_run_kinds(kinds, COUNT_OF(kinds), argc, argv);
}
