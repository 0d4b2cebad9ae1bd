/* Processes that share memory of three kinds (anonymous, memfd, System V), write to it all the time and compare what it
 * holds with what they remember. Each page belongs to one of them; but now and then a child writes it, a second mapping, a
 * descriptor. Each prints "intact PROCESS N" again and again, or "damaged ..." and ends.
 * Arguments: pages of each kind; "plain" (writes and comparisons alone) or "odd"; microseconds between two steps. */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096ul
#define WORDS (PAGE / 8)

enum { ANONYMOUS, MEMFD, SYSV, KINDS, PROCESSES = 4 };

static unsigned char *memory[KINDS];
static uint64_t *model[KINDS]; /* what each word of a page holds */
static size_t pages;
static int fd, id;
static uint64_t state;

static uint64_t dice(void) {
    state ^= state << 13;
    state ^= state >> 7;
    return state ^= state << 17;
}

static void fill(unsigned char *page, uint64_t value) {
    volatile uint64_t *words = (volatile uint64_t *)page;
    for (size_t w = 0; w < WORDS; w++) words[w] = value;
}

static void must_hold(int kind, size_t i, int who) {
    const uint64_t *words = (const uint64_t *)(memory[kind] + i * PAGE);
    for (size_t w = 0; w < WORDS; w++) {
        if (words[w] == model[kind][i]) continue;
        printf("damaged kind %d page %zu word %zu of %d: %lx, not %lx\n", kind, i, w, who, words[w], model[kind][i]);
        exit(1);
    }
}

/* Writes a page in a way that leaves no trace in this process's own mapping of it. */
static void write_oddly(int kind, size_t i, uint64_t value) {
    size_t size = pages * PAGE;
    unsigned char *page = memory[kind] + i * PAGE, *twin = NULL;
    uint64_t words[WORDS];
    switch (dice() % 5) {
    case 0: { /* a child that ends */
        pid_t child = fork();
        if (child == 0) {
            fill(page, value);
            _exit(0);
        }
        waitpid(child, NULL, 0);
        break;
    }
    case 1: /* a second mapping of the mapping */
        twin = mremap(memory[kind], 0, size, MREMAP_MAYMOVE);
        if (twin == MAP_FAILED) _exit(3);
        fill(twin + i * PAGE, value);
        munmap(twin, size);
        break;
    case 2: /* a second mapping of the object */
        if (kind == ANONYMOUS) {
            fill(page, value);
            break;
        }
        twin = kind == SYSV ? shmat(id, NULL, 0) : mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (twin == MAP_FAILED) _exit(3);
        fill(twin + i * PAGE, value);
        if (kind == SYSV) shmdt(twin);
        else munmap(twin, size);
        break;
    case 3: /* no mapping at all */
        fill((unsigned char *)words, value);
        if (kind != MEMFD) fill(page, value);
        else if (pwrite(fd, words, PAGE, (off_t)(i * PAGE)) != (ssize_t)PAGE) _exit(3);
        break;
    default: /* emptied, and perhaps read again */
        madvise(page, PAGE, MADV_REMOVE);
        value = 0;
    }
    model[kind][i] = value;
}

static void run(int who, int odd, unsigned pause_us) {
    const uint64_t round = pause_us > 1000 ? 100 : 2000; /* steps between two comparisons of everything */
    state = 88172645463325252ull + (uint64_t)who * 7919;
    for (uint64_t n = 1;; n++) {
        int kind = (int)(dice() % KINDS);
        size_t i = dice() % (pages / PROCESSES) * PROCESSES + (size_t)who;
        unsigned step = (unsigned)(dice() % 1000);
        if (odd && step < 3) write_oddly(kind, i, dice() | 1);
        else if (step < 300) {
            uint64_t value = dice() | 1;
            fill(memory[kind] + i * PAGE, value);
            model[kind][i] = value;
        } else if (step < 310) madvise(memory[kind] + i * PAGE, PAGE, MADV_DONTNEED); /* the object keeps it */
        else must_hold(kind, i, who);
        if (n % round == 0) {
            for (int k = 0; k < KINDS; k++)
                for (size_t at = (size_t)who; at < pages; at += PROCESSES) must_hold(k, at, who);
            printf("intact %d %lu\n", who, (unsigned long)n);
        }
        if (pause_us > 0) usleep(pause_us);
    }
}

int main(int argc, char **argv) {
    pages = argc > 1 ? strtoul(argv[1], NULL, 10) / PROCESSES * PROCESSES : 1024;
    int odd = argc > 2 && strcmp(argv[2], "odd") == 0;
    unsigned pause_us = argc > 3 ? (unsigned)atoi(argv[3]) : 0;
    size_t size = pages * PAGE;
    int flags = MAP_SHARED;
    setvbuf(stdout, NULL, _IOLBF, 0);
    fd = memfd_create("sharing", MFD_CLOEXEC);
    id = shmget(IPC_PRIVATE, size, IPC_CREAT | 0600);
    if (fd < 0 || id < 0 || ftruncate(fd, (off_t)size) != 0) return 2;
    memory[ANONYMOUS] = mmap(NULL, size, PROT_READ | PROT_WRITE, flags | MAP_ANONYMOUS, -1, 0);
    memory[MEMFD] = mmap(NULL, size, PROT_READ | PROT_WRITE, flags, fd, 0);
    memory[SYSV] = shmat(id, NULL, 0);
    for (int k = 0; k < KINDS; k++) {
        model[k] = calloc(pages, sizeof **model);
        if (memory[k] == MAP_FAILED || model[k] == NULL) return 2;
        for (size_t i = 0; i < pages; i++) {
            model[k][i] = i + 1;
            fill(memory[k] + i * PAGE, i + 1);
        }
    }
    for (int who = 1; who < PROCESSES; who++)
        if (fork() == 0) run(who, odd, pause_us);
    run(0, odd, pause_us);
}
