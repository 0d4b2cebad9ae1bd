// File mappings, private and shared: pages changed in a private one, pages never touched, an
// offset, a mapping that reaches beyond the end of the file, read-only, and one with PROT_NONE.
#include "support/object.h"

enum { PAGES = 20, SIZE = PAGES * PAGE };

static char want[SIZE];

static void check_same(const char *memory, int from, int count, const char *what) {
    CHECK(memcmp(memory, want + from * PAGE, (size_t)count * PAGE) == 0, "%s differs", what);
}

int main(int argc, char **argv) {
    object_start(argc, argv);
    object_fill(want, SIZE, 21);
    int read_write = PROT_READ | PROT_WRITE;
    int fd = object_file("data", O_RDWR, SIZE, 21);
    char *plain = object_map(SIZE, PROT_READ, MAP_PRIVATE, fd, 0);
    char *changed = object_map(SIZE, read_write, MAP_PRIVATE, fd, 0);
    char *shared = object_map(SIZE, read_write, MAP_SHARED, fd, 0);
    char *part = object_map(3 * PAGE, PROT_READ, MAP_SHARED, fd, 7 * PAGE);
    char *hidden = object_map(SIZE, read_write, MAP_PRIVATE, fd, 0);
    int read_only = MUST(openat(AT_FDCWD, "/proc/self/exe", O_RDONLY));
    char *code = object_map(PAGE, PROT_READ | PROT_EXEC, MAP_PRIVATE, read_only, 0);
    int short_fd = object_file("short", O_RDWR, PAGE + 100, 22);
    char *beyond = object_map(4 * PAGE, read_write, MAP_SHARED, short_fd, 0);
    close(read_only);
    close(short_fd);
    close(fd);
    object_fill(changed + 3 * PAGE, PAGE, 23);
    changed[9 * PAGE + 17] ^= 0x55;
    object_fill(hidden + 2 * PAGE, PAGE, 24);
    MUST(mprotect(hidden, SIZE, PROT_NONE));
    object_ready_and_wait();
    SABOTAGE(changed[9 * PAGE + 17] ^= 0x55);
    check_same(plain, 0, PAGES, "the untouched private mapping");
    check_same(changed, 0, 3, "the changed mapping before the change");
    CHECK_FILLED(changed + 3 * PAGE, PAGE, 23, "the changed page");
    check_same(changed + 4 * PAGE, 4, 5, "the changed mapping after it");
    CHECK_EQUAL(changed[9 * PAGE + 17], (char)(want[9 * PAGE + 17] ^ 0x55), "the changed byte");
    check_same(shared, 0, PAGES, "the shared mapping");
    check_same(part, 7, 3, "the part");
    CHECK(memcmp(code, "\177ELF", 4) == 0, "the mapping of the program differs");
    CHECK_FILLED(beyond, PAGE + 100, 22, "the short file");
    CHECK_ZERO(beyond + PAGE + 100, PAGE - 100, "the rest of its last page");
    MUST(mprotect(hidden, SIZE, PROT_READ));
    CHECK_FILLED(hidden + 2 * PAGE, PAGE, 24, "the changed page behind PROT_NONE");
    // Shared means shared: through the mapping into the file and into the other mapping.
    char path[PATH_MAX];
    object_fill(shared + 8 * PAGE, PAGE, 25);
    CHECK_FILLED(part + PAGE, PAGE, 25, "the page written through the other mapping");
    char byte[PAGE];
    fd = MUST(open(object_path(path, "data"), O_RDWR));
    CHECK_EQUAL(pread(fd, byte, PAGE, 8 * PAGE), PAGE, "pread");
    CHECK_FILLED(byte, PAGE, 25, "the file");
    CHECK_EQUAL(pread(fd, byte, PAGE, 3 * PAGE), PAGE, "pread");
    CHECK(memcmp(byte, want + 3 * PAGE, PAGE) == 0, "a private change went into the file");
    object_fill(byte, PAGE, 26);
    CHECK_EQUAL(pwrite(fd, byte, PAGE, 12 * PAGE), PAGE, "pwrite");
    CHECK_FILLED(shared + 12 * PAGE, PAGE, 26, "the shared mapping after a write to the file");
    CHECK_FILLED(plain + 12 * PAGE, PAGE, 26, "the untouched private page after it");
    object_pass();
}
