// Mapped files that have no name any more: the content must come along, and what processes share
// must stay shared. argv[2]: private, shared, recreated, forked, open, big.
#include "support/object.h"

enum { SIZE = 5 * PAGE };

static char *one, *two;

static void child_body(void *argument) {
    (void)argument;
    object_child_wait();
    CHECK_FILLED(one, SIZE - PAGE, 1, "the child's mapping");
    one[SIZE - 1] = 42;
    for (int i = 0; i < 2000 && one[SIZE - 2] != 43; i++) {
        usleep(1000);
    }
    CHECK_EQUAL(one[SIZE - 2], 43, "what the parent wrote");
}

int main(int argc, char **argv) {
    object_start(argc, argv);
    const char *kind = argc > 2 ? argv[2] : "shared";
    bool is_private = strcmp(kind, "private") == 0;
    char path[PATH_MAX];
    int fd = object_file("mapped", O_RDWR, SIZE, 1);
    one = object_map(SIZE, PROT_READ | PROT_WRITE, is_private ? MAP_PRIVATE : MAP_SHARED, fd, 0);
    two = object_map(2 * PAGE, PROT_READ, is_private ? MAP_PRIVATE : MAP_SHARED, fd, PAGE);
    if (strcmp(kind, "open") != 0) {
        close(fd);
        fd = -1;
    } else {
        MUST(lseek(fd, 77, SEEK_SET));
    }
    MUST(unlink(object_path(path, "mapped")));
    if (strcmp(kind, "recreated") == 0) {
        close(object_file("mapped", O_RDWR, PAGE, 9));
    }
    if (is_private) {
        one[3 * PAGE] ^= 1; // a page of its own among those of the file
    }
    pid_t child = strcmp(kind, "forked") == 0 ? object_fork(child_body, NULL) : 0;
    object_ready_and_wait();
    SABOTAGE(one[5]++);
    if (is_private) {
        one[3 * PAGE] ^= 1;
    }
    CHECK_FILLED(one, SIZE, 1, "the mapping");
    CHECK(memcmp(two, one + PAGE, 2 * PAGE) == 0, "the second mapping differs");
    one[PAGE + 9] ^= 1;
    CHECK((two[9] == one[PAGE + 9]) == !is_private, "sharing of the two mappings changed");
    one[PAGE + 9] ^= 1;
    if (fd >= 0) {
        char byte;
        struct stat stat;
        CHECK_EQUAL(lseek(fd, 0, SEEK_CUR), 77, "the position");
        CHECK_EQUAL(pread(fd, &byte, 1, 2 * PAGE), 1, "pread");
        CHECK(byte == one[2 * PAGE], "the descriptor shows another content than the mapping");
        one[2 * PAGE] ^= 1;
        CHECK_EQUAL(pread(fd, &byte, 1, 2 * PAGE), 1, "pread");
        CHECK(byte == one[2 * PAGE], "the descriptor is not the mapped file");
        MUST(fstat(fd, &stat));
        CHECK_EQUAL(stat.st_nlink, 0, "links");
        CHECK_EQUAL(stat.st_size, SIZE, "size");
    }
    if (strcmp(kind, "recreated") == 0) {
        char content[PAGE];
        object_read(path, content, sizeof content);
        CHECK_FILLED(content, PAGE - 1, 9, "the new file of that name");
    } else {
        CHECK(access(path, F_OK) != 0, "the file has a name again");
    }
    if (child != 0) {
        MUST(kill(child, SIGUSR1));
        for (int i = 0; i < 2000 && one[SIZE - 1] != 42; i++) {
            usleep(1000);
        }
        CHECK_EQUAL(one[SIZE - 1], 42, "what the child wrote");
        one[SIZE - 2] = 43;
        object_reap(child);
    }
    object_pass();
}
