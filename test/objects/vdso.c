// The vDSO stays where it was and works: clock_gettime, gettimeofday, getcpu through the function
// pointers found before. Clocks do not run backwards.
#include <dlfcn.h>
#include <elf.h>
#include <sys/auxv.h>

#include "support/object.h"

typedef int (*gettime_fn)(clockid_t, struct timespec *);

static void *find(const char *name) {
    char *base = (char *)getauxval(AT_SYSINFO_EHDR);
    CHECK(base != NULL, "there is no vDSO");
    Elf64_Ehdr *header = (Elf64_Ehdr *)base;
    Elf64_Shdr *sections = (Elf64_Shdr *)(base + header->e_shoff);
    for (int i = 0; i < header->e_shnum; i++) {
        if (sections[i].sh_type != SHT_DYNSYM) {
            continue;
        }
        Elf64_Sym *symbols = (Elf64_Sym *)(base + sections[i].sh_offset);
        char *names = base + sections[sections[i].sh_link].sh_offset;
        for (size_t j = 0; j < sections[i].sh_size / sizeof *symbols; j++) {
            if (strcmp(names + symbols[j].st_name, name) == 0) {
                return base + symbols[j].st_value;
            }
        }
    }
    object_fail("the vDSO lacks %s", name);
}

int main(int argc, char **argv) {
    object_start(argc, argv);
    gettime_fn gettime = (gettime_fn)find("__vdso_clock_gettime");
    unsigned char first[2 * PAGE];
    memcpy(first, (void *)getauxval(AT_SYSINFO_EHDR), PAGE);
    const clockid_t clocks[] = {CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_BOOTTIME,
                                CLOCK_MONOTONIC_COARSE};
    struct timespec before[COUNT_OF(clocks)], now;
    for (size_t i = 0; i < COUNT_OF(clocks); i++) {
        MUST(gettime(clocks[i], &before[i]));
    }
    object_ready_and_wait();
    CHECK(find("__vdso_clock_gettime") == (void *)gettime, "the vDSO moved");
    CHECK(memcmp(first, (void *)getauxval(AT_SYSINFO_EHDR), PAGE) == 0, "its first page differs");
    for (size_t i = 0; i < COUNT_OF(clocks); i++) {
        MUST(gettime(clocks[i], &now));
        SABOTAGE(now.tv_sec -= 1000);
        int64_t passed = (now.tv_sec - before[i].tv_sec) * 1000000000L;
        passed += now.tv_nsec - before[i].tv_nsec;
        CHECK(passed >= 0 && passed < 600 * 1000000000L, "clock %d moved by %ld ns", clocks[i],
              (long)passed);
        struct timespec raw;
        MUST(syscall(SYS_clock_gettime, clocks[i], &raw));
        int64_t apart = (raw.tv_sec - now.tv_sec) * 1000000000L + raw.tv_nsec - now.tv_nsec;
        CHECK(apart > -100000000L && apart < 1000000000L, "vDSO and kernel are %ld ns apart",
              (long)apart);
    }
    object_pass();
}
