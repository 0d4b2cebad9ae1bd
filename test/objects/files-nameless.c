// Files that have no name any more, or never had one: argv[2] = unlinked, tmpfile, memfd, cwd,
// mapped (an unlinked file that is mapped and closed).
#include "support/object.h"

enum { SIZE = 3 * PAGE };

int main(int argc, char **argv) {
    object_start(argc, argv);
    const char *kind = argc > 2 ? argv[2] : "unlinked";
    char path[PATH_MAX], buffer[SIZE];
    int fd = -1;
    if (strcmp(kind, "memfd") == 0) {
        fd = MUST(memfd_create("a test", MFD_ALLOW_SEALING));
    } else if (strcmp(kind, "tmpfile") == 0) {
        fd = MUST(open(object_directory, O_TMPFILE | O_RDWR, 0600));
    } else {
        close(object_file("data", O_RDONLY, 10, 0));
        fd = MUST(open(object_path(path, "data"), O_RDWR | O_TRUNC));
    }
    object_fill(buffer, SIZE, 5);
    CHECK(write(fd, buffer, SIZE) == SIZE, "write: %s", strerror(errno));
    MUST(lseek(fd, 100, SEEK_SET));
    char *mapping = object_map(SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (strcmp(kind, "mapped") == 0) {
        close(fd);
        fd = -1;
    } else {
        munmap(mapping, SIZE);
    }
    if (strcmp(kind, "cwd") == 0) {
        MUST(mkdir(object_path(path, "folder"), 0777));
        MUST(chdir(path));
        MUST(rmdir(path));
    } else if (strcmp(kind, "unlinked") == 0 || strcmp(kind, "mapped") == 0) {
        MUST(unlink(path));
    }
    object_ready_and_wait();
    SABOTAGE(if (fd >= 0) lseek(fd, 0, SEEK_SET); else mapping[7]++);
    if (fd < 0) {
        CHECK_FILLED(mapping, SIZE, 5, "the mapping of the unlinked file");
        object_pass();
    }
    CHECK_EQUAL(lseek(fd, 0, SEEK_CUR), 100, "position");
    CHECK_EQUAL(pread(fd, buffer, SIZE, 0), SIZE, "pread");
    CHECK_FILLED(buffer, SIZE, 5, "the file");
    struct stat status;
    MUST(fstat(fd, &status));
    CHECK_EQUAL(status.st_nlink, strcmp(kind, "cwd") == 0 ? 1 : 0, "links");
    if (strcmp(kind, "cwd") == 0) {
        CHECK(getcwd(path, sizeof path) == NULL && errno == ENOENT, "the folder has a name again");
    }
    object_pass();
}
