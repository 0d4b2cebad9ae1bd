// Threads that are in other control groups than the first one of their process. argv[2] is the hierarchy: of cgroup v1, where
// any thread may be anywhere, or cgroup v2 ("unified"), where that takes threaded groups.
#include "support/object.h"

static char top[PATH_MAX], folder[PATH_MAX];
static const char *members;

static void write_to(const char *directory, const char *below, const char *name, const char *text) {
    char path[3 * PATH_MAX];
    snprintf(path, sizeof path, "%s%s/%s", directory, below, name);
    int fd = MUST(open(path, O_WRONLY));
    CHECK(write(fd, text, strlen(text)) == (ssize_t)strlen(text), "write %s to %s: %s", text, path,
          strerror(errno));
    close(fd);
}

static pthread_barrier_t made, released;

static void *body(void *below) {
    char groups[4096], end[PATH_MAX], limit[3 * PATH_MAX];
    write_to(folder, below, members, "0");
    pthread_barrier_wait(&made);
    pthread_barrier_wait(&released);
    object_read("/proc/thread-self/cgroup", groups, sizeof groups);
    snprintf(end, sizeof end, "%.4000s%s\n", folder + strlen(top), (char *)below);
    bool is_right = strstr(groups, end) != NULL;
    if (strcmp(members, "tasks") == 0) {
        snprintf(limit, sizeof limit, "%s%s/pids.max", folder, (char *)below);
        object_read(limit, groups, sizeof groups);
        is_right = is_right && atoi(groups) == 70;
        write_to(top, "", members, "0");
    }
    return is_right ? NULL : below;
}

int main(int argc, char **argv) {
    static const char *const groups[] = {"/a", "/b", "/a/c"};
    char path[PATH_MAX + 16];
    pthread_t threads[COUNT_OF(groups)];
    object_start(argc, argv);
    snprintf(top, sizeof top, "/sys/fs/cgroup/%.64s", argv[2]);
    if (access(top, W_OK) != 0) {
        object_put_file("result", "SKIP no such hierarchy here\n");
        return 0;
    }
    bool is_unified = strcmp(argv[2], "unified") == 0;
    members = is_unified ? "cgroup.threads" : "tasks";
    snprintf(folder, sizeof folder, "%.100s/ferry-threads-%d", top, getpid());
    MUST(mkdir(folder, 0755));
    for (size_t i = 0; i < COUNT_OF(groups); i++) {
        snprintf(path, sizeof path, "%.4000s%s", folder, groups[i]);
        MUST(mkdir(path, 0755));
        if (is_unified) {
            write_to(folder, groups[i], "cgroup.type", "threaded");
        } else {
            write_to(folder, groups[i], "pids.max", "70");
        }
    }
    if (is_unified) {
        write_to(folder, "", "cgroup.procs", "0");
    }
    pthread_barrier_init(&made, NULL, COUNT_OF(groups) + 1);
    pthread_barrier_init(&released, NULL, COUNT_OF(groups) + 1);
    for (size_t i = 0; i < COUNT_OF(groups); i++) {
        MUST_BE_ZERO(pthread_create(&threads[i], NULL, body, (void *)(uintptr_t)groups[i]));
    }
    pthread_barrier_wait(&made);
    object_ready_and_wait();
    SABOTAGE(write_to(top, "", "cgroup.procs", "0"));
    pthread_barrier_wait(&released);
    const char *wrong_one = NULL;
    for (size_t i = 0; i < COUNT_OF(groups); i++) {
        void *wrong;
        MUST_BE_ZERO(pthread_join(threads[i], &wrong));
        wrong_one = wrong != NULL ? wrong : wrong_one;
    }
    write_to(top, "", "cgroup.procs", "0");
    for (size_t i = COUNT_OF(groups); i-- > 0;) {
        snprintf(path, sizeof path, "%.4000s%s", folder, groups[i]);
        MUST(rmdir(path));
    }
    MUST(rmdir(folder));
    CHECK(wrong_one == NULL, "the thread of %s is in another group, or its limit is gone", wrong_one);
    object_pass();
}
