// A directory descriptor in the middle of its entries, an O_PATH descriptor, and use of a
// directory as the base of openat. Every entry must be read exactly once over both halves.
#include <dirent.h>

#include "support/object.h"

enum { ENTRIES = 600 };

static int seen[ENTRIES];

/// Reads at most `calls` buffers of entries; true at the end of the directory.
static bool read_some(int fd, int calls) {
    char buffer[1024] __attribute__((aligned(8)));
    for (int i = 0; i < calls; i++) {
        long length = syscall(SYS_getdents64, fd, buffer, sizeof buffer);
        CHECK(length >= 0, "getdents64: %s", strerror(errno));
        for (long at = 0; at < length;) {
            struct dirent64 *entry = (struct dirent64 *)(buffer + at);
            int number;
            if (sscanf(entry->d_name, "entry-%d", &number) == 1) {
                seen[number]++;
            }
            at += entry->d_reclen;
        }
        if (length == 0) {
            return true;
        }
    }
    return false;
}

int main(int argc, char **argv) {
    object_start(argc, argv);
    char path[PATH_MAX], name[64], got[PATH_MAX];
    MUST(mkdir(object_path(path, "folder"), 0777));
    for (int i = 0; i < ENTRIES; i++) {
        snprintf(name, sizeof name, "folder/entry-%d", i);
        object_write_file(name, 0, "x");
    }
    int fd = MUST(open(path, O_RDONLY | O_DIRECTORY));
    int place = MUST(open(path, O_PATH | O_CLOEXEC));
    int file_place = MUST(openat(fd, "entry-3", O_PATH));
    CHECK(!read_some(fd, 5), "the directory ended too soon");
    object_ready_and_wait();
    SABOTAGE(MUST(lseek(fd, 0, SEEK_SET)));
    CHECK(read_some(fd, 1000), "the directory does not end");
    for (int i = 0; i < ENTRIES; i++) {
        CHECK(seen[i] == 1, "entry %d was read %d times", i, seen[i]);
    }
    CHECK((fcntl(place, F_GETFL) & O_PATH) != 0, "O_PATH is lost");
    CHECK_EQUAL(fcntl(place, F_GETFD), FD_CLOEXEC, "close-on-exec");
    close(MUST(openat(place, "entry-5", O_RDONLY)));
    CHECK(read(file_place, got, 1) == -1 && errno == EBADF, "the O_PATH descriptor can be read");
    snprintf(name, sizeof name, "/proc/self/fd/%d", file_place);
    ssize_t length = MUST(readlink(name, got, sizeof got - 1));
    got[length] = 0;
    CHECK(strstr(got, "/folder/entry-3") != NULL, "the O_PATH descriptor names %s", got);
    object_pass();
}
