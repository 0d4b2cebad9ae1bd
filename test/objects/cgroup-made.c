// A control group that is gone when it is needed again: made anew with its owner and mode, the devices that it allows, and
// the empty groups below it. Somebody outside the tree removes it as soon as nobody is in it.
#include "support/object.h"

static char folder[PATH_MAX / 2], path[PATH_MAX];

static const char *in_group(const char *name) {
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

static void write_to(const char *file, const char *text) {
    int fd = MUST(open(file, O_WRONLY));
    CHECK(write(fd, text, strlen(text)) == (ssize_t)strlen(text), "write %s to %s: %s", text, file, strerror(errno));
    close(fd);
}

static bool is_gone(void) {
    rmdir(in_group("empty/lower"));
    rmdir(in_group("empty"));
    return rmdir(folder) == 0;
}

// Ends with the first removal.
static void start_remover(void) {
    pid_t between = MUST(fork());
    if (between == 0) {
        if (fork() != 0) _exit(0);
        setsid();
        struct stat info;
        bool was_used = false;
        while (stat(folder, &info) == 0) {
            char text[64] = "";
            int fd = open(in_group("tasks"), O_RDONLY);
            bool is_used = fd >= 0 && read(fd, text, 63) > 0;
            if (was_used && !is_used && is_gone()) break;
            was_used = was_used || is_used;
            if (fd >= 0) close(fd);
            usleep(3000);
        }
        _exit(0);
    }
    MUST(waitpid(between, NULL, 0));
}

int main(int argc, char **argv) {
    object_start(argc, argv);
    snprintf(folder, sizeof folder, "/sys/fs/cgroup/devices/ferry-made-%d", getpid());
    if (access("/sys/fs/cgroup/devices/devices.list", F_OK) != 0 || mkdir(folder, 0755) != 0) {
        object_put_file("result", "SKIP no such hierarchy here\n");
        return 0;
    }
    write_to(in_group("devices.deny"), "a");
    write_to(in_group("devices.allow"), "c 1:3 rwm");
    MUST(mkdir(in_group("empty"), 0755));
    MUST(mkdir(in_group("empty/lower"), 0755));
    MUST(chmod(in_group("empty/lower"), 0750));
    MUST(chown(folder, 5, 6));
    MUST(chmod(folder, 0711));
    MUST(chown(in_group("tasks"), 7, 8));
    start_remover();
    write_to(in_group("tasks"), "0");
    object_ready_and_wait();
    SABOTAGE(MUST(chown(folder, 0, 6)));
    struct stat group, tasks, lower;
    char list[256] = "";
    bool has_lower = stat(in_group("empty/lower"), &lower) == 0;
    MUST(stat(folder, &group));
    MUST(stat(in_group("tasks"), &tasks));
    int fd = MUST(open(in_group("devices.list"), O_RDONLY));
    CHECK(read(fd, list, sizeof list - 1) > 0, "nothing is allowed");
    close(fd);
    write_to("/sys/fs/cgroup/devices/tasks", "0");
    (void)is_gone();
    CHECK(strcmp(list, "c 1:3 rwm\n") == 0, "what is allowed is %s", list);
    CHECK(has_lower && (lower.st_mode & 0777) == 0750, "the empty groups are gone, or have another mode");
    CHECK_EQUAL(group.st_uid, 5, "owner");
    CHECK_EQUAL(group.st_gid, 6, "group");
    CHECK_EQUAL(group.st_mode & 0777, 0711, "mode");
    CHECK_EQUAL(tasks.st_uid, 7, "owner of a file");
    object_pass();
}
