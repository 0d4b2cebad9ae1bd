/* Changes its memory in every way that moves, empties or replaces pages, keeps a model of what each must hold, and compares
 * all the time. Prints "intact N" again and again, or "damaged ..." and ends. Argument: pages; writes to make between two
 * pauses of a millisecond (0: no pause). */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096ul

static unsigned char *memory;
static uint64_t *model; /* what each page is full of; 0: it was never written, or emptied */
static size_t pages;
static uint64_t seed = 88172645463325252ull;

static uint64_t rnd(void) {
    seed ^= seed << 13;
    seed ^= seed >> 7;
    return seed ^= seed << 17;
}

static void map_new(size_t i) {
    void *want = memory + i * PAGE;
    if (mmap(want, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != want) _exit(2);
    model[i] = 0;
}

static void fill(size_t i, uint64_t value) {
    uint64_t *words = (uint64_t *)(memory + i * PAGE);
    for (size_t w = 0; w < PAGE / 8; w++) words[w] = value;
    model[i] = value;
}

static int wrong(size_t i) {
    const uint64_t *words = (const uint64_t *)(memory + i * PAGE);
    for (size_t w = 0; w < PAGE / 8; w++)
        if (words[w] != model[i]) return 1;
    return 0;
}

static void must_hold(size_t i) {
    if (!wrong(i)) return;
    printf("damaged page %zu: %lx, not %lx\n", i, *(uint64_t *)(memory + i * PAGE), model[i]);
    exit(1);
}

int main(int argc, char **argv) {
    pages = argc > 1 ? strtoul(argv[1], NULL, 10) : 1024;
    unsigned long burst = argc > 2 ? strtoul(argv[2], NULL, 10) : 0;
    int restless = argc > 3 && strcmp(argv[3], "restless") == 0;
    setvbuf(stdout, NULL, _IOLBF, 0);
    model = calloc(pages, sizeof *model);
    memory = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (model == NULL || memory == MAP_FAILED) return 2;
    for (size_t i = 0; i < pages; i++) fill(i, i + 1);
    for (uint64_t n = 1;; n++) {
        size_t i = rnd() % pages, j = rnd() % pages;
        unsigned kind = (unsigned)(rnd() % 1000);
        if (kind < 3) {
            madvise(memory + i * PAGE, PAGE, MADV_DONTNEED);
            model[i] = 0;
        } else if (kind < 5) map_new(i);
        else if (kind < 7 && i != j) {
            void *to = memory + j * PAGE;
            if (mremap(memory + i * PAGE, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, to) != to) return 2;
            model[j] = model[i];
            map_new(i);
        } else if (kind < 500) fill(i, rnd());
        else must_hold(i);
        if (n % 20000 != 0) {
            if (burst != 0 && n % burst == 0) usleep(1000);
            continue;
        }
        if (!restless) { /* a child shares all of it, compares, and changes its own */
            pid_t child = fork();
            if (child == 0) {
                for (size_t k = 0; k < pages; k++) {
                    if (wrong(k)) _exit(1);
                    if (k % 8 == 0) fill(k, 7);
                }
                _exit(0);
            }
            int status = 0;
            if (waitpid(child, &status, 0) != child || status != 0) {
                printf("damaged in a child: %x\n", status);
                return 1;
            }
            for (size_t k = 0; k < pages; k++) must_hold(k);
        }
        printf("intact %lu\n", n);
    }
}
