// A program that overwrites its arguments, as servers do to show their state, and one that moves
// them elsewhere with PR_SET_MM (as systemd does): /proc/self/cmdline must stay the same.
#include <sys/prctl.h>

#include "support/object.h"

/// Points the kernel at other arguments; what it knows of the layout otherwise stays.
static void move_arguments(void) {
    unsigned long field[52] = {0};
    char stat[4096];
    object_read("/proc/self/stat", stat, sizeof stat);
    char *rest = strrchr(stat, ')') + 2;
    for (int number = 3; number < 52; number++) {
        field[number] = strtoul(strsep(&rest, " "), NULL, 10);
    }
    char *area = object_map(PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    strcpy(area, "moved title");
    struct prctl_mm_map map = {
        .start_code = field[26],
        .end_code = field[27],
        .start_data = field[45],
        .end_data = field[46],
        .start_brk = field[47],
        .brk = (uintptr_t)sbrk(0),
        .start_stack = field[28],
        .arg_start = (uintptr_t)area,
        .arg_end = (uintptr_t)area + 12,
        .env_start = field[50],
        .env_end = field[51],
        .exe_fd = (uint32_t)-1,
    };
    MUST(prctl(PR_SET_MM, PR_SET_MM_MAP, &map, sizeof map, 0));
}

int main(int argc, char **argv) {
    object_start(argc, argv);
    char got[4096], want[4096];
    if (argc > 2 && strcmp(argv[2], "moved") == 0) {
        move_arguments();
    } else {
        size_t room = strlen(argv[0]);
        memset(argv[0], 0, room);
        snprintf(argv[0], room, "title: ready");
    }
    size_t length = object_read("/proc/self/cmdline", want, sizeof want);
    CHECK(strstr(want, "title") != NULL, "cmdline is %s", want);
    object_ready_and_wait();
    SABOTAGE(want[3] ^= 1);
    CHECK_EQUAL(object_read("/proc/self/cmdline", got, sizeof got), length, "length of cmdline");
    CHECK(memcmp(got, want, length) == 0, "cmdline is %s, was %s", got, want);
    object_pass();
}
