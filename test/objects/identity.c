// argv, environ, /proc/self/{cmdline,environ,exe,auxv,comm,cwd}, umask, and the mm layout fields.
#include <sys/auxv.h>
#include <sys/prctl.h>

#include "support/object.h"

enum { ROOM = 65536 };

static const char *const files[] = {"cmdline", "environ", "auxv", "comm", "coredump_filter"};
static char before[COUNT_OF(files)][ROOM], after[ROOM];
static size_t lengths[COUNT_OF(files)];

static void link_of(const char *name, char target[PATH_MAX]) {
    char path[64];
    snprintf(path, sizeof path, "/proc/self/%s", name);
    ssize_t length = MUST(readlink(path, target, PATH_MAX - 1));
    target[length] = 0;
}

/// Fields start_code..env_end of /proc/self/stat that the restorer must set with PR_SET_MM.
static void layout(char text[ROOM]) {
    char stat[4096];
    object_read("/proc/self/stat", stat, sizeof stat);
    char *field = strrchr(stat, ')') + 2;
    size_t length = 0;
    for (int number = 3; field != NULL; number++) {
        char *value = strsep(&field, " ");
        if (number == 26 || number == 27 || (number >= 45 && number <= 51)) {
            length += (size_t)snprintf(text + length, ROOM - length, "%d=%s ", number, value);
        }
    }
}

int main(int argc, char **argv) {
    object_start(argc, argv);
    char path[PATH_MAX], folder[PATH_MAX], exe[PATH_MAX], got[PATH_MAX];
    static char layout_before[ROOM], layout_after[ROOM];
    MUST(mkdir(object_path(folder, "work here"), 0777));
    MUST(chdir(folder));
    umask(0137);
    MUST(prctl(PR_SET_NAME, "a (strange) nam"));
    object_write_file("plain", 0, "");
    setenv("ADDED", "later", 1);
    MUST(prctl(PR_SET_TIMERSLACK, 123456));
    for (size_t i = 0; i < COUNT_OF(files); i++) {
        snprintf(path, sizeof path, "/proc/self/%s", files[i]);
        lengths[i] = object_read(path, before[i], ROOM);
    }
    CHECK(lengths[0] > 0 && lengths[1] > 0 && lengths[2] > 0, "something in /proc is empty");
    link_of("exe", exe);
    layout(layout_before);
    unsigned long random = getauxval(AT_RANDOM), vdso = getauxval(AT_SYSINFO_EHDR);
    uint64_t random_value;
    memcpy(&random_value, (void *)random, 8);
    object_ready_and_wait();
    SABOTAGE(umask(0));
    for (size_t i = 0; i < COUNT_OF(files); i++) {
        snprintf(path, sizeof path, "/proc/self/%s", files[i]);
        size_t length = object_read(path, after, ROOM);
        CHECK(length == lengths[i] && memcmp(before[i], after, length) == 0,
              "/proc/self/%s: %zu bytes, was %zu, or other content", files[i], length, lengths[i]);
    }
    link_of("exe", got);
    CHECK(strcmp(got, exe) == 0, "exe is %s, was %s", got, exe);
    link_of("cwd", got);
    CHECK(strcmp(got, folder) == 0, "cwd is %s, want %s", got, folder);
    CHECK(access("../plain", F_OK) == 0, "the working directory is not where it was");
    layout(layout_after);
    CHECK(strcmp(layout_before, layout_after) == 0, "layout %s, was %s", layout_after,
          layout_before);
    CHECK(getauxval(AT_RANDOM) == random && memcmp(&random_value, (void *)random, 8) == 0,
          "AT_RANDOM differs");
    CHECK(getauxval(AT_SYSINFO_EHDR) == vdso, "AT_SYSINFO_EHDR differs");
    CHECK(strcmp(getenv("ADDED"), "later") == 0, "the environment's addition");
    CHECK_EQUAL(prctl(PR_GET_TIMERSLACK), 123456, "timer slack");
    mode_t mask = umask(0);
    CHECK_EQUAL(mask, 0137, "umask");
    object_pass();
}
