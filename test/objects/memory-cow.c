// Memory copied on write by three generations: each sees its own words in some pages and what it
// inherited in the others; none sees another's.
#include "support/object.h"

enum { PAGES = 90, GENERATIONS = 3 };

static char *area;

static void generation(void *argument) {
    uintptr_t level = (uintptr_t)argument;
    for (int page = (int)level; page < PAGES; page += GENERATIONS + 1) {
        object_fill(area + page * PAGE, PAGE, 100 + level);
    }
    if (level > 0) {
        if (level < GENERATIONS) {
            object_fork(generation, (void *)(level + 1));
        }
        object_child_wait();
    } else {
        object_fork(generation, (void *)1);
        object_ready_and_wait();
    }
    SABOTAGE(if (level == 2) area[2 * PAGE]++);
    for (int page = 0; page < PAGES; page++) {
        uint64_t owner = (uint64_t)page % (GENERATIONS + 1);
        CHECK_FILLED(area + page * PAGE, PAGE, owner <= level ? 100 + owner : 99, "a page");
    }
    if (level < GENERATIONS) {
        object_join_all();
    }
}

int main(int argc, char **argv) {
    object_start(argc, argv);
    area = object_map(PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (int page = 0; page < PAGES; page++) {
        object_fill(area + page * PAGE, PAGE, 99);
    }
    generation((void *)0);
    object_pass();
}
