/* Holds PAGES pages of memory until its standard input ends; prints where. Pages listed as further arguments become
 * inaccessible to itself. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

int main(int argc, char **argv) {
    size_t pages = strtoul(argv[1], NULL, 10);
    char *memory = mmap(NULL, pages * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return 1;
    for (size_t i = 0; i < pages; i++) memory[i * 4096] = 1;
    for (int i = 2; i < argc; i++) mprotect(memory + strtoul(argv[i], NULL, 10) * 4096, 4096, PROT_NONE);
    printf("%p\n", (void *)memory);
    fflush(stdout);
    char byte;
    while (read(0, &byte, 1) > 0) continue;
    return 0;
}
