/* Does to its memory what it is told on standard input, one word and a page number a line, and answers with a line. The
 * first line tells where its memory is. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096ul

int main(int argc, char **argv) {
    close_range(3, ~0u, 0); /* what the test was started with is not the test's */
    size_t pages = argc > 1 ? strtoul(argv[1], NULL, 10) : 64;
    unsigned char *at = (unsigned char *)0x500000000000ul;
    if (mmap(at, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != at) return 1;
    if (argc > 2 && strcmp(argv[2], "huge") == 0) madvise(at, pages * PAGE, MADV_HUGEPAGE);
    else madvise(at, pages * PAGE, MADV_NOHUGEPAGE);
    for (size_t i = 0; i < pages; i++) at[i * PAGE] = (unsigned char)(i + 1);
    setvbuf(stdout, NULL, _IONBF, 0);
    printf("%p\n", (void *)at);
    char line[128], word[32];
    while (fgets(line, sizeof line, stdin) != NULL) {
        size_t n = 0;
        if (sscanf(line, "%31s %zu", word, &n) < 1) continue;
        unsigned char *page = at + n * PAGE;
        if (strcmp(word, "write") == 0) page[7]++;
        else if (strcmp(word, "read") == 0) printf("%d ", page[7]);
        else if (strcmp(word, "drop") == 0) madvise(page, PAGE, MADV_DONTNEED);
        else if (strcmp(word, "replace") == 0)
            mmap(page, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
        else if (strcmp(word, "unmap") == 0) munmap(page, PAGE);
        else if (strcmp(word, "move") == 0) /* page 0 to page n */
            mremap(at, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, page);
        else if (strcmp(word, "grow") == 0) { /* n pages behind the rest */
            unsigned char *more = at + pages * PAGE;
            mmap(more, n * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
            memset(more, 1, n * PAGE);
        } else if (strcmp(word, "kernel") == 0) { /* written by the kernel, not by an instruction */
            int ends[2];
            if (pipe(ends) != 0 || write(ends[1], "x", 1) != 1 || read(ends[0], page + 9, 1) != 1) return 1;
            close(ends[0]);
            close(ends[1]);
        } else if (strcmp(word, "fork") == 0) { /* a child that waits; the parent writes page n */
            if (fork() == 0) for (;;) pause();
            page[7]++;
        } else if (strcmp(word, "exec") == 0) execv("/proc/self/exe", argv);
        printf("done\n");
    }
    return 0;
}
