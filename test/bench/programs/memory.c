// Holds MiB mebibytes of memory of which LZ4 saves about a half, says "ready", and waits. At SIGUSR1 it says whether
// the memory still holds what was written: "intact" or "damaged at page N".
// Usage: memory MIB
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE 4096u
#define WORDS (PAGE / 8)

static uint64_t mix(uint64_t x) {
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

// One half of a page is noise, the other a value that repeats.
static uint64_t word(uint64_t page, unsigned i) {
    return i < WORDS / 2 ? mix(page * WORDS + i) : page;
}

int main(int argc, char **argv) {
    uint64_t pages = (argc > 1 ? strtoull(argv[1], NULL, 10) : 64) * 256;
    uint64_t *memory = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
        perror("mmap");
        return 1;
    }
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigprocmask(SIG_BLOCK, &set, NULL);
    for (uint64_t page = 0; page < pages; page++)
        for (unsigned i = 0; i < WORDS; i++)
            memory[page * WORDS + i] = word(page, i);
    setvbuf(stdout, NULL, _IOLBF, 0);
    printf("ready\n");
    for (;;) {
        int signal_number;
        if (sigwait(&set, &signal_number) != 0)
            continue;
        uint64_t wrong = pages;
        for (uint64_t page = 0; page < pages && wrong == pages; page++)
            for (unsigned i = 0; i < WORDS; i++)
                if (memory[page * WORDS + i] != word(page, i))
                    wrong = page;
        if (wrong == pages)
            printf("intact\n");
        else
            printf("damaged at page %llu\n", (unsigned long long)wrong);
    }
}
