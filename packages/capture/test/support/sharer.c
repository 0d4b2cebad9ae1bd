/* Does to its shared memory what it is told on standard input, one word and a page number a line, and answers with a line.
 * Arguments: how the memory is made (anonymous, memfd, sysv), pages. */
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/shm.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096ul

static unsigned char *at = (unsigned char *)0x600000000000ul;
static size_t pages;
static int fd = -1, id = -1;

static void *map(void *where, int flags) {
    return mmap(where, pages * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | flags, fd, 0);
}

static int make(const char *kind) {
    if (strcmp(kind, "sysv") == 0) {
        id = shmget(IPC_PRIVATE, pages * PAGE, IPC_CREAT | 0600);
        int failed = shmat(id, at, 0) != at;
        shmctl(id, IPC_RMID, NULL); /* goes with the program; Linux lets it be attached still */
        return failed;
    }
    if (strcmp(kind, "memfd") == 0) {
        fd = memfd_create("sharer", MFD_CLOEXEC);
        if (ftruncate(fd, (off_t)(pages * PAGE)) != 0) return 1;
    }
    return map(at, MAP_FIXED | (fd < 0 ? MAP_ANONYMOUS : 0)) != at;
}

int main(int argc, char **argv) {
    close_range(3, ~0u, 0);
    pages = argc > 2 ? strtoul(argv[2], NULL, 10) : 64;
    if (argc < 2 || make(argv[1]) != 0) return 1;
    for (size_t i = 0; i < pages / 2; i++) at[i * PAGE] = (unsigned char)(i + 1);
    int orders[2], done[2];
    if (pipe(orders) != 0 || pipe(done) != 0) return 1;
    if (fork() == 0) { /* another one that has it mapped from the start */
        unsigned n;
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        while (read(orders[0], &n, sizeof n) == sizeof n) {
            at[n * PAGE + 8]++;
            if (write(done[1], "x", 1) != 1) break;
        }
        _exit(0);
    }
    setvbuf(stdout, NULL, _IONBF, 0);
    printf("ready\n");
    char line[128], word[32];
    while (fgets(line, sizeof line, stdin) != NULL) {
        size_t n = 0;
        char byte;
        if (sscanf(line, "%31s %zu", word, &n) < 1) continue;
        unsigned char *page = at + n * PAGE;
        if (strcmp(word, "write") == 0) page[7]++;
        else if (strcmp(word, "read") == 0) *(volatile unsigned char *)page;
        else if (strcmp(word, "other") == 0) { /* the other process writes */
            unsigned number = (unsigned)n;
            if (write(orders[1], &number, sizeof number) < 0 || read(done[0], &byte, 1) != 1) return 1;
        } else if (strcmp(word, "child") == 0) { /* one that writes and ends */
            pid_t child = fork();
            if (child == 0) {
                page[9]++;
                _exit(0);
            }
            waitpid(child, NULL, 0);
        } else if (strcmp(word, "stay") == 0) { /* one that stays, and writes whenever it gets a signal: now */
            if (fork() == 0) {
                prctl(PR_SET_PDEATHSIG, SIGKILL);
                page[9]++;
                for (;;) pause();
            }
        } else if (strcmp(word, "dup") == 0) { /* a second mapping of a mapping, for a moment */
            unsigned char *twin = mremap(at, 0, pages * PAGE, MREMAP_MAYMOVE);
            if (twin == MAP_FAILED) return 1;
            twin[n * PAGE + 10]++;
            munmap(twin, pages * PAGE);
        } else if (strcmp(word, "again") == 0) { /* a second mapping of the object, for a moment */
            unsigned char *twin = id >= 0 ? shmat(id, NULL, 0) : map(NULL, 0);
            if (twin == MAP_FAILED) return 1;
            twin[n * PAGE + 11]++;
            if (id >= 0) shmdt(twin);
            else munmap(twin, pages * PAGE);
        } else if (strcmp(word, "away") == 0) { /* its page is somewhere else, for a moment, and written there */
            unsigned char *moved = mremap(page, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, at - PAGE * 16);
            moved[12]++;
            mremap(moved, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, page);
        } else if (strcmp(word, "pwrite") == 0) {
            if (pwrite(fd, "w", 1, (off_t)(n * PAGE + 13)) != 1) return 1;
        } else if (strcmp(word, "remove") == 0) madvise(page, PAGE, MADV_REMOVE);
        else if (strcmp(word, "forget") == 0) { /* its page table's entry, not the page */
            page[7]++;
            madvise(page, PAGE, MADV_DONTNEED);
        } else if (strcmp(word, "pageout") == 0) {
            page[7]++;
            madvise(at, pages * PAGE, MADV_PAGEOUT);
        } else if (strcmp(word, "unmap") == 0) {
            page[7]++;
            munmap(page, PAGE);
        }
        printf("done\n");
    }
    return 0;
}
