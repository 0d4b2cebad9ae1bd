// A control group namespace below the root of the tree: what it shows as root is the group in which it was made.
#include <sched.h>

#include "support/object.h"

static char folder[PATH_MAX], below[PATH_MAX];

static void join(const char *directory) {
    char path[PATH_MAX + 64] = "";
    strcat(strcat(path, directory), "/cgroup.procs");
    int fd = MUST(open(path, O_WRONLY));
    CHECK(write(fd, "0", 1) == 1, "join %s: %s", directory, strerror(errno));
    close(fd);
}

// The group of a process in the hierarchy that argv[2] names, as the caller's namespace shows it.
static const char *hierarchy;

static void group_of(const char *process, char group[PATH_MAX]) {
    char path[64], text[8192], wanted[80];
    snprintf(path, sizeof path, "/proc/%.32s/cgroup", process);
    object_read(path, text, sizeof text);
    snprintf(wanted, sizeof wanted, ":%.64s:", strcmp(hierarchy, "unified") == 0 ? "" : hierarchy);
    char *at = strstr(text, wanted);
    CHECK(at != NULL, "no %s in %s", wanted, text);
    at += strlen(wanted);
    *strchrnul(at, '\n') = 0;
    strcpy(group, at);
}

static ino_t inode_of(const char *path) {
    struct stat info;
    MUST(stat(path, &info));
    return info.st_ino;
}

static void grandchild(void *argument) {
    (void)argument;
    join(below);
    object_child_wait();
    char group[PATH_MAX];
    group_of("self", group);
    CHECK(strcmp(group, "/below") == 0, "the grandchild is in %s", group);
    join(folder);
}

static void child(void *argument) {
    (void)argument;
    join(folder);
    MUST(unshare(CLONE_NEWCGROUP));
    pid_t inner = object_fork(grandchild, NULL);
    object_child_wait();
    char path[64], group[PATH_MAX];
    snprintf(path, sizeof path, "/proc/%d/ns/cgroup", inner);
    bool is_together = inode_of(path) == inode_of("/proc/self/ns/cgroup");
    // Whatever is wrong, nobody may be left in the groups.
    object_join(inner);
    SABOTAGE(join(below));
    group_of("self", group);
    join(folder);
    CHECK(is_together, "its child is in another namespace");
    CHECK(strcmp(group, "/") == 0, "the child is in %s", group);
}

int main(int argc, char **argv) {
    object_start(argc, argv);
    hierarchy = argv[2];
    snprintf(folder, sizeof folder, "/sys/fs/cgroup/%.64s", hierarchy);
    if (access(folder, W_OK) != 0) {
        object_put_file("result", "SKIP no such hierarchy here\n");
        return 0;
    }
    snprintf(folder + strlen(folder), 64, "/ferry-object-%d", getpid());
    strcat(strcpy(below, folder), "/below");
    MUST(mkdir(folder, 0755));
    MUST(mkdir(below, 0755));
    pid_t one = object_fork(child, NULL);
    object_ready_and_wait();
    char own[PATH_MAX], group[PATH_MAX], number[32], wanted[64];
    group_of("self", own);
    snprintf(number, sizeof number, "%d", one);
    group_of(number, group);
    snprintf(wanted, sizeof wanted, "/ferry-object-%d", getpid());
    size_t length = strlen(group);
    bool inside = length >= strlen(wanted) && strcmp(group + length - strlen(wanted), wanted) == 0;
    int status;
    MUST(kill(one, SIGUSR1));
    MUST(waitpid(one, &status, 0));
    MUST(rmdir(below));
    MUST(rmdir(folder));
    CHECK(inside, "the child is in %s, not in %s", group, wanted);
    CHECK_EQUAL(status, 0, "status of the child");
    object_pass();
}
