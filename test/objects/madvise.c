// Advice that stays with a mapping, read back from VmFlags and by what fork does with it.
#include "support/object.h"

enum { SIZE = 8 * PAGE };

static const struct {
    int advice;
    const char *flag;
} advices[] = {
    {MADV_DONTFORK, "dc"},    {MADV_WIPEONFORK, "wf"}, {MADV_NOHUGEPAGE, "nh"},
    {MADV_HUGEPAGE, "hg"},    {MADV_DONTDUMP, "dd"},   {MADV_MERGEABLE, "mg"},
    {MADV_RANDOM, "rr"},      {MADV_SEQUENTIAL, "sr"},
};

static bool has_flag(void *address, const char *flag) {
    char line[4096], want[8];
    unsigned long start = 0, end = 0;
    bool inside = false, found = false;
    FILE *smaps = fopen("/proc/self/smaps", "r");
    CHECK(smaps != NULL, "smaps: %s", strerror(errno));
    snprintf(want, sizeof want, " %s ", flag);
    while (fgets(line, sizeof line, smaps) != NULL) {
        if (strncmp(line, "VmFlags:", 8) == 0) {
            found |= inside && strstr(line, want) != NULL;
        } else if (sscanf(line, "%lx-%lx ", &start, &end) == 2) {
            inside = start <= (unsigned long)address && (unsigned long)address < end;
        }
    }
    fclose(smaps);
    return found;
}

int main(int argc, char **argv) {
    object_start(argc, argv);
    char *areas[COUNT_OF(advices)];
    bool taken[COUNT_OF(advices)];
    for (size_t i = 0; i < COUNT_OF(advices); i++) {
        // A guard on each side keeps the areas from being merged.
        char *area = object_map(SIZE + 2 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        areas[i] = area + PAGE;
        MUST(mprotect(areas[i], SIZE, PROT_READ | PROT_WRITE));
        object_fill(areas[i], SIZE, i);
        taken[i] = madvise(areas[i], SIZE, advices[i].advice) == 0;
        CHECK(taken[i] == has_flag(areas[i], advices[i].flag), "set-up of %s", advices[i].flag);
    }
    CHECK(taken[0] && taken[1] && taken[4], "fork or dump advice is not available");
    object_ready_and_wait();
    SABOTAGE(MUST(madvise(areas[4], SIZE, MADV_DODUMP)));
    for (size_t i = 0; i < COUNT_OF(advices); i++) {
        CHECK_FILLED(areas[i], SIZE, i, advices[i].flag);
        CHECK(has_flag(areas[i], advices[i].flag) == taken[i], "%s is lost", advices[i].flag);
    }
    pid_t child = MUST(fork());
    if (child == 0) {
        unsigned char resident[SIZE / PAGE];
        CHECK(mincore(areas[0], SIZE, resident) == -1, "DONTFORK memory was forked");
        CHECK_ZERO(areas[1], SIZE, "WIPEONFORK memory in the child");
        CHECK_FILLED(areas[2], SIZE, 2, "other memory in the child");
        _exit(0);
    }
    object_reap(child);
    object_pass();
}
