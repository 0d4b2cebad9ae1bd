// 256 MiB of memory, every page with a content of its own.
#include "support/object.h"

enum { PAGES = 65536 };

int main(int argc, char **argv) {
    object_start(argc, argv);
    uint64_t *words = object_map((size_t)PAGES * PAGE, PROT_READ | PROT_WRITE,
                                 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    // A quarter of each page is random, the rest repeats: half-compressible, quick to make.
    for (size_t page = 0; page < PAGES; page++) {
        object_fill(words + page * 512, PAGE / 4, page);
        memset(words + page * 512 + 128, (int)page, PAGE * 3 / 4);
    }
    object_ready_and_wait();
    SABOTAGE(words[60000 * 512 + 511]++);
    for (size_t page = 0; page < PAGES; page++) {
        CHECK_FILLED(words + page * 512, PAGE / 4, page, "the random part of a page");
        const unsigned char *rest = (unsigned char *)(words + page * 512 + 128);
        CHECK(rest[0] == (unsigned char)page && memcmp(rest, rest + 1, PAGE * 3 / 4 - 1) == 0,
              "the rest of page %zu", page);
    }
    object_pass();
}
