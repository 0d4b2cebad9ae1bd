// Two thousand mappings of different protections, each a page with its own content.
#include "support/object.h"

enum { COUNT = 2000 };

int main(int argc, char **argv) {
    object_start(argc, argv);
    static const int protections[] = {PROT_READ, PROT_READ | PROT_WRITE, PROT_NONE,
                                      PROT_READ | PROT_EXEC};
    int read_write = PROT_READ | PROT_WRITE;
    char *area = object_map(COUNT * PAGE, read_write, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (int i = 0; i < COUNT; i++) {
        object_fill(area + i * PAGE, PAGE, (uint64_t)i);
        MUST(mprotect(area + i * PAGE, PAGE, protections[i % 4]));
    }
    object_ready_and_wait();
    SABOTAGE(area[1001 * PAGE]++);
    MUST(mprotect(area, COUNT * PAGE, read_write));
    for (int i = 0; i < COUNT; i++) {
        CHECK_FILLED(area + i * PAGE, PAGE, (uint64_t)i, "a page");
    }
    object_pass();
}
