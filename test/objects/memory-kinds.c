// Kinds of mappings. argv[2]: sealed, executable, memfd-private, read-only, zero-shared, zero-private,
// truncated, prot-none, exec-only, dontfork, wipeonfork, guard, shared-fork, moved, past-end,
// droppable.
#include <linux/memfd.h>

#include "support/object.h"

#ifndef MAP_DROPPABLE
#define MAP_DROPPABLE 8
#endif
#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#endif

enum { SIZE = 4 * PAGE };

static char *memory, *other;
static int fd = -1;
static const char *kind;
static pid_t child;

static bool is(const char *name) {
    return strcmp(kind, name) == 0;
}

static void *map(int prot, int flags, int from, off_t at) {
    return object_map(SIZE, prot, flags, from, at);
}

static bool readable(const char *at) {
    int ends[2];
    MUST(pipe(ends));
    bool ok = write(ends[1], at, 1) == 1;
    close(ends[0]);
    close(ends[1]);
    return ok;
}

static void child_body(void *argument) {
    (void)argument;
    if (is("shared-fork")) {
        MUST(munmap(memory, PAGE));
        MUST(mprotect(memory + PAGE, PAGE, PROT_READ));
    }
    object_child_wait();
    if (is("shared-fork")) {
        CHECK(*(uint64_t *)(other + PAGE) == object_word(1, PAGE / 8), "the second page");
        memory[3 * PAGE + 1] = 77;
    }
}

static void set_up(void) {
    int rw = PROT_READ | PROT_WRITE;
    if (is("sealed") || is("executable") || is("memfd-private") || is("read-only")) {
        fd = MUST(memfd_create("object", MFD_CLOEXEC | MFD_ALLOW_SEALING));
        MUST(ftruncate(fd, SIZE));
        memory = map(rw, MAP_SHARED, fd, 0);
        object_fill(memory, SIZE, 1);
        if (is("sealed")) {
            MUST(munmap(memory, SIZE));
            MUST(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE));
            memory = map(PROT_READ, MAP_SHARED, fd, 0);
            MUST(fcntl(fd, F_ADD_SEALS, F_SEAL_SEAL));
        } else if (is("executable")) {
            MUST(fchmod(fd, 0755));
            other = map(PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
        } else if (is("memfd-private")) {
            other = map(rw, MAP_PRIVATE, fd, 0);
            other[5] ^= 1;
            MUST(munmap(memory, SIZE));
            memory = map(PROT_READ, MAP_SHARED, fd, 0);
        } else {
            MUST(munmap(memory, SIZE));
            char path[64];
            snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
            int reader = MUST(open(path, O_RDONLY | O_CLOEXEC));
            memory = map(PROT_READ, MAP_SHARED, reader, 0);
            close(reader);
        }
    } else if (is("zero-shared") || is("zero-private")) {
        int zero = MUST(open("/dev/zero", O_RDWR));
        memory = map(rw, is("zero-shared") ? MAP_SHARED : MAP_PRIVATE, zero, 0);
        close(zero);
        object_fill(memory, SIZE, 1);
    } else if (is("truncated") || is("past-end")) {
        fd = object_file("data", O_RDWR, SIZE, 1);
        memory = map(rw, is("truncated") ? MAP_SHARED : MAP_PRIVATE, fd, 0);
        if (is("past-end")) {
            object_fill(memory, SIZE, 1);
        }
        MUST(ftruncate(fd, PAGE + 100));
    } else if (is("moved")) {
        fd = object_file("data", O_RDWR, 3 * SIZE, 1);
        char *first = object_map(3 * SIZE, rw, MAP_SHARED, fd, 0);
        memory = mremap(first + SIZE, SIZE, SIZE, MREMAP_MAYMOVE | MREMAP_FIXED, map(rw, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
        CHECK(memory != MAP_FAILED, "mremap");
        close(fd);
    } else {
        int type = is("shared-fork") ? MAP_SHARED : is("droppable") ? MAP_DROPPABLE : MAP_PRIVATE;
        memory = map(rw, type | MAP_ANONYMOUS, -1, 0);
        object_fill(memory, SIZE, 1);
        other = memory;
        if (is("prot-none")) {
            MUST(mprotect(memory, SIZE, PROT_NONE));
        } else if (is("exec-only")) {
            MUST(mprotect(memory, SIZE, PROT_EXEC));
        } else if (is("dontfork")) {
            MUST(madvise(memory, SIZE, MADV_DONTFORK));
        } else if (is("wipeonfork")) {
            MUST(madvise(memory, SIZE, MADV_WIPEONFORK));
        } else if (is("guard")) {
            if (madvise(memory + PAGE, PAGE, MADV_GUARD_INSTALL) != 0) {
                object_put_file("result", "SKIP no guard pages\n");
                exit(0);
            }
        } else if (is("shared-fork")) {
            child = object_fork(child_body, NULL);
        }
    }
}

static void check(void) {
    if (is("prot-none") || is("exec-only")) {
        CHECK(is("exec-only") || !readable(memory), "it can be read");
        MUST(mprotect(memory, SIZE, PROT_READ));
        CHECK_FILLED(memory, SIZE, 1, "the memory");
    } else if (is("guard")) {
        CHECK_FILLED(memory, PAGE, 1, "the memory");
        CHECK(!readable(memory + PAGE), "the guard page is gone");
    } else if (is("truncated")) {
        CHECK(readable(memory + PAGE) && !readable(memory + 2 * PAGE), "the file's end");
    } else if (is("past-end")) {
        CHECK_FILLED(memory, PAGE + 100, 1, "the memory");
        CHECK(!readable(memory + 2 * PAGE), "pages past the end");
    } else if (is("moved")) {
        CHECK(object_word(1, SIZE / 8) == *(uint64_t *)memory, "the file's second part");
    } else {
        CHECK_FILLED(memory, SIZE, 1, "the memory");
    }
    if (is("sealed")) {
        CHECK_EQUAL(fcntl(fd, F_GET_SEALS), F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL, "seals");
        CHECK(mprotect(memory, SIZE, PROT_READ | PROT_WRITE) != 0, "it can be made writable");
    } else if (is("executable")) {
        struct stat stat;
        MUST(fstat(fd, &stat));
        CHECK_EQUAL(stat.st_mode & 07777, 0755, "mode");
        memory[9] ^= 1;
        CHECK_EQUAL(other[9], memory[9], "sharing");
    } else if (is("memfd-private")) {
        CHECK_EQUAL(other[5], memory[5] ^ 1, "the private page");
    } else if (is("read-only")) {
        CHECK(mprotect(memory, SIZE, PROT_READ | PROT_WRITE) != 0, "it can be made writable");
    } else if (is("shared-fork")) {
        object_join(child);
        CHECK_EQUAL(memory[3 * PAGE + 1], 77, "what the child wrote");
    }
}

int main(int argc, char **argv) {
    object_start(argc, argv);
    kind = argc > 2 ? argv[2] : "sealed";
    set_up();
    object_ready_and_wait();
    SABOTAGE(CHECK(munmap(memory, SIZE) != 0, "unmapped"));
    check();
    object_pass();
}
