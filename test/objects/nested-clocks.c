// Time namespaces below the root of the tree: their clocks go on and never step back. argv[2] names the kind.
#include <sched.h>

#include "support/object.h"

enum { AHEAD_S = 5000, BOOT_AHEAD_S = 70000 };

static ino_t inode_of(const char *path) {
    struct stat info;
    MUST(stat(path, &info));
    return info.st_ino;
}

static void make_space(void) {
    if (unshare(CLONE_NEWTIME) != 0) {
        object_put_file("result", "SKIP no time namespaces here\n");
        exit(0);
    }
    char text[128];
    int length = snprintf(text, sizeof text, "monotonic %d 500000000\nboottime %d 0\n", AHEAD_S, BOOT_AHEAD_S);
    int fd = MUST(open("/proc/self/timens_offsets", O_WRONLY | O_CLOEXEC));
    CHECK(write(fd, text, (size_t)length) == length, "timens_offsets: %s", strerror(errno));
    close(fd);
}

// What the clocks of the machine show: memory that the root keeps up to date.
static struct { int64_t monotonic, boottime; } *outside;

static void check_clocks(int64_t monotonic_before, int64_t boottime_before) {
    int64_t monotonic = object_now(CLOCK_MONOTONIC), boottime = object_now(CLOCK_BOOTTIME);
    CHECK(monotonic >= monotonic_before, "CLOCK_MONOTONIC stepped back by %lld ns", (long long)(monotonic_before - monotonic));
    CHECK(boottime >= boottime_before, "CLOCK_BOOTTIME stepped back by %lld ns", (long long)(boottime_before - boottime));
    CHECK_EQUAL((monotonic - outside->monotonic) / 1000000000, AHEAD_S, "seconds ahead");
    CHECK_EQUAL((boottime - outside->boottime) / 1000000000, BOOT_AHEAD_S, "seconds ahead since boot");
}

static void body(void *argument) {
    (void)argument;
    int64_t monotonic = object_now(CLOCK_MONOTONIC), boottime = object_now(CLOCK_BOOTTIME);
    object_child_wait();
    SABOTAGE(monotonic += 1000000000000);
    check_clocks(monotonic, boottime);
}

static void note_outside(void) {
    outside->monotonic = object_now(CLOCK_MONOTONIC);
    outside->boottime = object_now(CLOCK_BOOTTIME);
}

static void start(void) {
    outside = object_map(PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
}

static void check_space(pid_t in, ino_t space) {
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/ns/time", in);
    CHECK(inode_of(path) == space, "process %d is in another time namespace", in);
}

static void at_home(void *argument) {
    (void)argument;
    int64_t before = object_now(CLOCK_MONOTONIC);
    object_child_wait();
    int64_t ahead = object_now(CLOCK_MONOTONIC) - before;
    CHECK(ahead >= 0 && ahead < 100 * 1000000000ll, "the clock of the machine went on by %lld ns", (long long)ahead);
}

// One child from before, one that is born in the namespace, and room for one more.
static void children(void) {
    start();
    pid_t early = object_fork(at_home, NULL);
    make_space();
    pid_t child = object_fork(body, NULL);
    object_ready_and_wait();
    note_outside();
    ino_t own = inode_of("/proc/self/ns/time"), space = inode_of("/proc/self/ns/time_for_children");
    CHECK(own != space, "its children are not born elsewhere");
    check_space(child, space);
    check_space(early, own);
    int status;
    pid_t next = MUST(fork());
    if (next == 0) _exit(inode_of("/proc/self/ns/time") == space ? 0 : 1);
    CHECK(waitpid(next, &status, 0) == next && status == 0, "the next child is born elsewhere");
    object_join(early);
    object_join(child);
}

// Nobody has it for their children alone: the maker has gone home.
static void entered(void) {
    start();
    int home = MUST(open("/proc/self/ns/time", O_RDONLY | O_CLOEXEC));
    make_space();
    pid_t child = object_fork(body, NULL);
    int space = MUST(open("/proc/self/ns/time_for_children", O_RDONLY | O_CLOEXEC));
    MUST(setns(home, CLONE_NEWTIME));
    close(home);
    object_ready_and_wait();
    note_outside();
    struct stat info;
    MUST(fstat(space, &info));
    check_space(child, info.st_ino);
    object_join(child);
}

int main(int argc, char **argv) {
    static const struct object_kind kinds[] = {{"children", children}, {"entered", entered}};
    object_run_kinds(kinds, COUNT_OF(kinds), argc, argv);
}
