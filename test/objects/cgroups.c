// Membership in a control group of the program's own, with a limit set in it. argv[2] is the hierarchy, argv[3] says
// whether a child is in it too, or in one below.
#include "support/object.h"

static char folder[PATH_MAX], below[PATH_MAX];

static void write_to(const char *directory, const char *name, const char *text) {
    char path[PATH_MAX + 64] = "";
    strcat(strcat(strcat(path, directory), "/"), name);
    int fd = MUST(open(path, O_WRONLY));
    CHECK(write(fd, text, strlen(text)) == (ssize_t)strlen(text), "write %s to %s: %s", text, path, strerror(errno));
    close(fd);
}

static bool is_in(const char *directory) {
    char path[PATH_MAX + 64] = "", text[4096] = "", number[32];
    strcat(strcat(path, directory), "/cgroup.procs");
    int fd = MUST(open(path, O_RDONLY));
    CHECK(read(fd, text, sizeof text - 1) >= 0, "read %s", path);
    close(fd);
    snprintf(number, sizeof number, "%d\n", getpid());
    return strncmp(text, number, strlen(number)) == 0 || strstr(text, number) != NULL;
}

static void child(void *argument) {
    (void)argument;
    write_to(below, "cgroup.procs", "0");
    object_child_wait();
    CHECK(is_in(below), "the child is not in its group");
    write_to(folder, "cgroup.procs", "0");
}

int main(int argc, char **argv) {
    object_start(argc, argv);
    snprintf(folder, sizeof folder, "/sys/fs/cgroup/%.64s", argv[2]);
    if (access(folder, W_OK) != 0) {
        object_put_file("result", "SKIP no such hierarchy here\n");
        return 0;
    }
    char top[PATH_MAX];
    strcpy(top, folder);
    snprintf(folder + strlen(folder), 64, "/ferry-object-%d", getpid());
    strcat(strcpy(below, folder), "/below");
    MUST(mkdir(folder, 0755));
    MUST(mkdir(below, 0755));
    bool has_pids = strcmp(argv[2], "pids") == 0;
    if (has_pids) write_to(folder, "pids.max", "77");
    write_to(folder, "cgroup.procs", "0");
    object_fork(child, NULL);
    object_ready_and_wait();
    SABOTAGE(write_to(top, "cgroup.procs", "0"));
    bool inside = is_in(folder);
    object_join_all();
    write_to(top, "cgroup.procs", "0");
    char limit[64] = "77";
    if (has_pids) {
        char path[PATH_MAX + 16] = "";
        int fd = MUST(open(strcat(strcat(path, folder), "/pids.max"), O_RDONLY));
        CHECK(read(fd, limit, 63) > 0, "read %s", path);
    }
    MUST(rmdir(below));
    MUST(rmdir(folder));
    CHECK(inside, "the program is not in its group");
    CHECK_EQUAL(atoi(limit), 77, "the limit");
    object_pass();
}
