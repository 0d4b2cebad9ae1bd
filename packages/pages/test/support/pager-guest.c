/* Runs while its memory is still to come, and checks that it finds what it must: by threads, children, system calls, after
 * mremap(2), munmap(2) and MADV_DONTNEED. Word w of page p is to be p * 512 + w + 1.
 *   pager-guest PAGES    says "DESCRIPTOR ADDRESS", waits for a line, then says "intact" or what is damaged */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096ul
static uint8_t *memory;
static size_t pages;

static void damaged(const char *what, size_t page) {
    printf("damaged: %s, page %zu\n", what, page);
    fflush(stdout);
    _exit(1);
}

static void check_at(const uint8_t *at, size_t page, const char *what) {
    const uint64_t *words = (const uint64_t *)at;
    for (size_t w = 0; w < 512; w += 73)
        if (words[w] != page * 512 + w + 1) damaged(what, page);
}

static void check(size_t page, const char *what) { check_at(memory + page * PAGE, page, what); }

static void check_zero(const uint8_t *at, size_t page, const char *what) {
    for (size_t b = 0; b < PAGE; b += 61)
        if (at[b] != 0) damaged(what, page);
}

/* Sixteenths of the memory. */
static size_t part(int i) { return pages / 16 * (size_t)i; }

static void *reader(void *arg) {
    unsigned seed = (unsigned)(uintptr_t)arg;
    for (size_t n = part(4); n > 0; n--) {
        size_t page = (size_t)rand_r(&seed) % part(4);
        check(page, "a thread");
    }
    return NULL;
}

static void *forker(void *arg) {
    (void)arg;
    for (int i = 0; i < 4; i++) {
        pid_t child = fork();
        if (child == 0) {
            for (size_t p = part(4 + i); p < part(5 + i); p++) {
                check(p, "a child");
                memory[p * PAGE] = 99; /* nobody else sees it */
            }
            pid_t grandchild = fork();
            if (grandchild == 0) {
                for (size_t p = part(8); p < part(9); p++) check(p, "a grandchild");
                _exit(0);
            }
            int status;
            waitpid(grandchild, &status, 0);
            _exit(status == 0 ? 0 : 1);
        }
        int status;
        waitpid(child, &status, 0);
        if (status != 0) damaged("a child's end", 0);
    }
    for (size_t p = part(4); p < part(8); p++) check(p, "after children");
    return NULL;
}

static void *mover(void *arg) {
    (void)arg;
    size_t from = part(9), count = part(1);
    uint8_t *to = mremap(memory + from * PAGE, count * PAGE, count * PAGE * 2, MREMAP_MAYMOVE);
    if (to == MAP_FAILED) damaged("mremap", from);
    /* Once more, and out of step with larger pages. */
    uint8_t *place = mmap(NULL, (count * 2 + 8) * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    to = mremap(to, count * PAGE * 2, count * PAGE * 2, MREMAP_MAYMOVE | MREMAP_FIXED, place + 3 * PAGE);
    if (to == MAP_FAILED) damaged("mremap to a place", from);
    for (size_t p = 0; p < count; p++) check_at(to + p * PAGE, from + p, "moved");
    for (size_t p = count; p < 2 * count; p++) check_zero(to + p * PAGE, p, "grown");
    pid_t child = fork();
    if (child == 0) {
        for (size_t p = 0; p < count; p++) check_at(to + p * PAGE, from + p, "moved, in a child");
        _exit(0);
    }
    int status;
    waitpid(child, &status, 0);
    if (status != 0) damaged("a mover's child", 0);
    return NULL;
}

static void *dropper(void *arg) {
    (void)arg;
    size_t from = part(10), count = part(1);
    uint8_t *at = memory + from * PAGE;
    check(from + 1, "before it is dropped");
    if (madvise(at, count / 2 * PAGE, MADV_DONTNEED) != 0) damaged("madvise", from);
    for (size_t p = 0; p < count / 2; p++) check_zero(at + p * PAGE, from + p, "dropped");
    at[0] = 7;
    for (size_t p = count / 2; p < count; p++) check(from + p, "beside what was dropped");
    if (at[0] != 7) damaged("written after it was dropped", from);
    from = part(11);
    at = memory + from * PAGE;
    if (munmap(at, count * PAGE) != 0) damaged("munmap", from);
    uint8_t *again = mmap(at, count * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    if (again != at) damaged("mmap", from);
    for (size_t p = 0; p < count; p++) check_zero(at + p * PAGE, from + p, "mapped anew");
    return NULL;
}

static void *caller(void *arg) {
    (void)arg;
    int ends[2];
    if (pipe(ends) != 0) damaged("pipe", 0);
    for (size_t p = part(12); p < part(13); p++) {
        static uint8_t copy[PAGE];
        /* The kernel itself touches a page that is not there. */
        if (write(ends[1], memory + p * PAGE, PAGE) != (ssize_t)PAGE) damaged("write", p);
        if (read(ends[0], copy, PAGE) != (ssize_t)PAGE) damaged("read", p);
        check_at(copy, p, "written out");
        if (write(ends[1], "ferry", 5) != 5 || read(ends[0], memory + p * PAGE + 8 * 100, 5) != 5) damaged("read into", p);
        check(p, "read into");
        if (memcmp(memory + p * PAGE + 800, "ferry", 5) != 0) damaged("read into", p);
    }
    if (mprotect(memory + part(13) * PAGE, part(1) * PAGE, PROT_READ) != 0) damaged("mprotect", 0);
    for (size_t p = part(13); p < part(14); p++) check(p, "read-only");
    for (size_t p = part(14); p < part(15); p++) {
        memory[p * PAGE + 5000 % PAGE] ^= 1; /* a write comes first */
        memory[p * PAGE + 5000 % PAGE] ^= 1;
        check(p, "written first");
    }
    /* Never sent: zeros. */
    for (size_t p = part(15); p < pages; p++) check_zero(memory + p * PAGE, p, "never there");
    return NULL;
}

int main(int argc, char **argv) {
    (void)argc;
    pages = strtoul(argv[1], NULL, 10);
    memory = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
    printf("%d %p\n", fd, (void *)memory);
    fflush(stdout);
    if (getchar() == EOF) return 1;
    close(fd); /* the pager has it */
    void *(*work[])(void *) = {reader, reader, forker, mover, dropper, caller};
    pthread_t threads[6];
    for (size_t i = 0; i < 6; i++) pthread_create(&threads[i], NULL, work[i], (void *)(i + 1));
    for (size_t i = 0; i < 6; i++) pthread_join(threads[i], NULL);
    printf("intact\n");
    fflush(stdout);
    while (getchar() != EOF) {}
    return 0;
}
