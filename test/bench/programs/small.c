// A small process for measuring how long a freeze takes: it makes its mappings up to 40 and its descriptors up to 10,
// says "ready", and counts in memory, awake for a moment each millisecond.
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static int mappings(void) {
    FILE *maps = fopen("/proc/self/maps", "r");
    int lines = 0;
    for (int c = fgetc(maps); c != EOF; c = fgetc(maps))
        lines += c == '\n';
    fclose(maps);
    return lines;
}

int main(void) {
    // Whatever a shell or an editor above us left open is not ours.
    syscall(SYS_close_range, 3, ~0U, 0);
    // Neighbours differ in their protection, so that the kernel does not merge them.
    for (int i = 0; mappings() < 40 && i < 100; i++) {
        int writable = i % 2 == 0;
        char *area = mmap(NULL, 65536, PROT_READ | (writable ? PROT_WRITE : 0), MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (area != MAP_FAILED && writable)
            memset(area, i, 16384);
    }
    for (int fd = dup(0); fd >= 0 && fd < 9; fd = open("/dev/null", O_RDWR)) {
    }
    printf("ready %d\n", mappings());
    fflush(stdout);
    for (volatile unsigned long count = 0;; count++) {
        struct timespec pause = {0, 1000000};
        nanosleep(&pause, NULL);
    }
}
