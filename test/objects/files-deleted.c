// Files and folders that lost their names while they are in use.
#include <sys/xattr.h>

#include "support/object.h"

enum { SIZE = 3 * PAGE + 17 };

static char path[PATH_MAX], other[PATH_MAX], buffer[SIZE];

static void check_content(int fd, const char *what) {
    CHECK_EQUAL(pread(fd, buffer, SIZE, 0), SIZE, what);
    CHECK_FILLED(buffer, SIZE, 5, what);
}

static int links_of(int fd) {
    struct stat status;
    MUST(fstat(fd, &status));
    return (int)status.st_nlink;
}

/// Another name of the file stays: both are still one file.
static void hard_link(void) {
    int fd = object_file("data", O_RDWR, SIZE, 5);
    MUST(link(object_path(path, "data"), object_path(other, "other")));
    MUST(unlink(path));
    MUST(lseek(fd, 100, SEEK_SET));
    object_pause();
    SABOTAGE(MUST(unlink(other)); close(object_file("other", O_RDONLY, SIZE, 5)));
    CHECK_EQUAL(lseek(fd, 0, SEEK_CUR), 100, "position");
    CHECK_EQUAL(links_of(fd), 1, "links");
    check_content(fd, "the file");
    CHECK(pwrite(fd, "changed", 7, 0) == 7, "pwrite: %s", strerror(errno));
    int now = MUST(open(other, O_RDONLY));
    CHECK(read(now, buffer, 7) == 7 && memcmp(buffer, "changed", 7) == 0, "it is another file");
    CHECK(access(path, F_OK) != 0, "the old name is back");
}

/// Opened in several ways, read-only and write-only, and shared with a child.
static int reader, writer, appender;

static void child_of_many(void *argument) {
    (void)argument;
    object_child_wait();
    CHECK_EQUAL(lseek(reader, 0, SEEK_CUR), 0, "the child's position");
    check_content(reader, "the child's file");
    MUST(lseek(reader, 55, SEEK_SET));
}

static void many(void) {
    close(object_file("data", O_RDWR, SIZE, 5));
    reader = MUST(open(object_path(path, "data"), O_RDONLY));
    writer = MUST(open(path, O_WRONLY));
    appender = MUST(open(path, O_WRONLY | O_APPEND | O_CLOEXEC));
    MUST(unlink(path));
    pid_t child = object_fork(child_of_many, NULL);
    object_pause();
    SABOTAGE(MUST(ftruncate(writer, 0)));
    object_join(child);
    CHECK_EQUAL(lseek(reader, 0, SEEK_CUR), 55, "the shared position");
    CHECK(write(appender, "end", 3) == 3, "write: %s", strerror(errno));
    CHECK_EQUAL(pread(reader, buffer, 10, SIZE), 3, "what was appended");
    CHECK(pwrite(writer, "begin", 5, 0) == 5, "pwrite: %s", strerror(errno));
    CHECK_EQUAL(pread(reader, buffer, 5, 0), 5, "what was written");
    CHECK(memcmp(buffer, "begin", 5) == 0, "they are different files");
    CHECK_EQUAL(fcntl(appender, F_GETFL) & (O_APPEND | O_ACCMODE), O_APPEND | O_WRONLY, "flags");
    CHECK_EQUAL(fcntl(appender, F_GETFD), FD_CLOEXEC, "close on exec");
}

/// Only a descriptor that cannot read is left.
static void write_only(void) {
    close(object_file("data", O_RDWR, SIZE, 5));
    writer = MUST(open(object_path(path, "data"), O_WRONLY));
    MUST(unlink(path));
    object_pause();
    SABOTAGE(MUST(ftruncate(writer, 7)));
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", writer);
    check_content(MUST(open(link, O_RDONLY)), "the file");
}

/// Gigabytes long, and nearly empty.
static void sparse(void) {
    enum { AT = 300 << 20 };
    off_t size = (off_t)5 << 30;
    int fd = object_file("data", O_RDWR, 10, 5);
    object_fill(buffer, SIZE, 5);
    MUST(ftruncate(fd, size));
    CHECK(pwrite(fd, buffer, SIZE, AT) == SIZE, "pwrite: %s", strerror(errno));
    CHECK(pwrite(fd, buffer, 100, size - 100) == 100, "pwrite: %s", strerror(errno));
    MUST(unlink(object_path(path, "data")));
    MUST(lseek(fd, size - 100, SEEK_SET));
    object_pause();
    SABOTAGE(MUST(ftruncate(fd, size - 1)));
    struct stat status;
    MUST(fstat(fd, &status));
    CHECK_EQUAL(status.st_size, size, "size");
    CHECK(status.st_blocks < 4096, "it takes %ld blocks", (long)status.st_blocks);
    CHECK_EQUAL(read(fd, buffer, SIZE), 100, "the end");
    CHECK_FILLED(buffer, 100, 5, "the end");
    CHECK_EQUAL(pread(fd, buffer, SIZE, AT), SIZE, "the middle");
    CHECK_FILLED(buffer, SIZE, 5, "the middle");
    CHECK_EQUAL(pread(fd, buffer, 1000, 5000), 1000, "a hole");
    CHECK_ZERO(buffer, 1000, "a hole");
}

static void large(void) {
    enum { LENGTH = 4 << 20 };
    int fd = object_file("data", O_RDWR, LENGTH, 5);
    MUST(unlink(object_path(path, "data")));
    object_pause();
    SABOTAGE(pwrite(fd, "x", 1, LENGTH - 2));
    char *content = malloc(LENGTH);
    CHECK_EQUAL(pread(fd, content, LENGTH, 0), LENGTH, "length");
    CHECK_FILLED(content, LENGTH, 5, "the file");
}

/// Mode, owner, times and attributes.
static void attributes(void) {
    struct stat before, now;
    int fd = object_file("data", O_RDWR, SIZE, 5);
    MUST(fchown(fd, 12, 34));
    MUST(fchmod(fd, 04751));
    bool has_attributes = fsetxattr(fd, "user.ferry", "value", 5, 0) == 0;
    struct timespec times[2] = {{1000000, 5}, {2000000, 7}};
    MUST(futimens(fd, times));
    MUST(unlink(object_path(path, "data")));
    MUST(fstat(fd, &before));
    object_pause();
    SABOTAGE(MUST(fchmod(fd, 0600)));
    MUST(fstat(fd, &now));
    CHECK_EQUAL(now.st_mode, before.st_mode, "mode");
    CHECK_EQUAL(now.st_uid, 12, "user");
    CHECK_EQUAL(now.st_gid, 34, "group");
    CHECK_EQUAL(now.st_mtim.tv_sec, 2000000, "time of the last change");
    CHECK_EQUAL(now.st_mtim.tv_nsec, 7, "its nanoseconds");
    CHECK_EQUAL(now.st_atim.tv_sec, 1000000, "time of the last access");
    if (has_attributes) {
        CHECK_EQUAL(fgetxattr(fd, "user.ferry", buffer, sizeof buffer), 5, "its attribute");
        CHECK(memcmp(buffer, "value", 5) == 0, "the attribute's value differs");
    }
    CHECK_EQUAL(links_of(fd), 0, "links");
}

/// The name belongs to somebody else by now.
static void replaced(void) {
    int fd = object_file("data", O_RDWR, SIZE, 5);
    MUST(unlink(object_path(path, "data")));
    close(object_file("data", O_RDWR, 10, 6));
    object_pause();
    SABOTAGE(MUST(ftruncate(fd, 10)));
    check_content(fd, "the file");
    CHECK_EQUAL(links_of(fd), 0, "links");
    int now = MUST(open(path, O_RDONLY));
    CHECK_EQUAL(read(now, buffer, SIZE), 10, "length of the other file");
    CHECK_FILLED(buffer, 10, 6, "the other file");
}

/// A file in a folder that is gone as well, the folder, and the folder above.
static void in_folder(void) {
    MUST(mkdir(object_path(path, "upper"), 0755));
    MUST(mkdir(object_path(path, "upper/lower"), 0711));
    int fd = object_file("upper/lower/data", O_RDWR, SIZE, 5);
    int lower = MUST(open(object_path(path, "upper/lower"), O_RDONLY | O_DIRECTORY));
    MUST(unlink(object_path(path, "upper/lower/data")));
    MUST(rmdir(object_path(path, "upper/lower")));
    MUST(rmdir(object_path(path, "upper")));
    object_pause();
    SABOTAGE(MUST(ftruncate(fd, 10)));
    check_content(fd, "the file");
    CHECK_EQUAL(links_of(fd), 0, "links of the file");
    CHECK_EQUAL(links_of(lower), 0, "links of the folder");
    struct stat status;
    MUST(fstat(lower, &status));
    CHECK_EQUAL(status.st_mode, S_IFDIR | 0711, "mode of the folder");
    CHECK(openat(lower, "new", O_CREAT | O_RDWR, 0600) < 0 && errno == ENOENT, "it can be used");
    CHECK(access(path, F_OK) != 0, "the folder is back");
}

/// Working directory, and a root directory, that are gone.
static void here(void) {
    MUST(mkdir(object_path(path, "upper"), 0755));
    MUST(mkdir(object_path(path, "upper/lower"), 0755));
    MUST(chdir(path));
    MUST(rmdir(path));
    MUST(rmdir(object_path(path, "upper")));
    object_pause();
    SABOTAGE(MUST(chdir("/")));
    struct stat status;
    MUST(stat(".", &status));
    CHECK_EQUAL(status.st_nlink, 0, "links");
    CHECK(getcwd(buffer, sizeof buffer) == NULL && errno == ENOENT, "it has a name again");
    CHECK(access(path, F_OK) != 0, "it is back");
    int fd = MUST(open(".", O_RDONLY | O_DIRECTORY));
    CHECK_EQUAL(links_of(fd), 0, "links");
}

/// Names that look like what the kernel says of deleted files, and unusual letters.
static void odd_names(void) {
    static const char *names[] = {"a (deleted)", "b\nc d", "e (deleted) (deleted)", "tab\t\\012"};
    int fds[2 * COUNT_OF(names)];
    for (size_t i = 0; i < COUNT_OF(names); i++) {
        fds[2 * i] = object_file(names[i], O_RDWR, SIZE, 5);
        char gone[64];
        snprintf(gone, sizeof gone, "x %s", names[i]);
        fds[2 * i + 1] = object_file(gone, O_RDWR, SIZE, 5);
        MUST(unlink(object_path(path, gone)));
    }
    object_pause();
    SABOTAGE(MUST(ftruncate(fds[1], 10)));
    for (size_t i = 0; i < COUNT_OF(names); i++) {
        check_content(fds[2 * i], names[i]);
        check_content(fds[2 * i + 1], names[i]);
        CHECK_EQUAL(links_of(fds[2 * i]), 1, "links");
        CHECK_EQUAL(links_of(fds[2 * i + 1]), 0, "links");
    }
}

/// Moved to another name, and to another folder, while open.
static void renamed(void) {
    MUST(mkdir(object_path(path, "folder"), 0755));
    int fd = object_file("data", O_RDWR, SIZE, 5);
    int folder = MUST(open(path, O_RDONLY | O_DIRECTORY));
    MUST(rename(object_path(path, "data"), object_path(other, "folder/new")));
    MUST(rename(object_path(path, "folder"), object_path(other, "place")));
    object_pause();
    SABOTAGE(MUST(ftruncate(fd, 10)));
    check_content(fd, "the file");
    int again = MUST(openat(folder, "new", O_RDONLY));
    check_content(again, "the file below its folder");
    CHECK_EQUAL(links_of(fd), 1, "links");
}

/// Opened with O_TMPFILE: it can still be given a name.
static void nameless(void) {
    int fd = MUST(open(object_directory, O_TMPFILE | O_RDWR, 0640));
    object_fill(buffer, SIZE, 5);
    CHECK(write(fd, buffer, SIZE) == SIZE, "write: %s", strerror(errno));
    object_pause();
    SABOTAGE(MUST(ftruncate(fd, 10)));
    CHECK_EQUAL(lseek(fd, 0, SEEK_CUR), SIZE, "position");
    check_content(fd, "the file");
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    MUST(linkat(AT_FDCWD, link, AT_FDCWD, object_path(path, "named"), AT_SYMLINK_FOLLOW));
    check_content(MUST(open(path, O_RDONLY)), "the file by its name");
}

/// FIFOs without a name: both ends, and one that nobody else has.
static void fifo(void) {
    MUST(mkfifo(object_path(path, "fifo"), 0600));
    MUST(chmod(path, 0642));
    int both = MUST(open(path, O_RDWR | O_NONBLOCK));
    reader = MUST(open(path, O_RDONLY));
    writer = MUST(open(path, O_WRONLY));
    MUST(unlink(path));
    MUST(mkfifo(object_path(other, "lonely"), 0600));
    int lonely = MUST(open(other, O_RDWR));
    MUST(unlink(other));
    CHECK(write(lonely, "alone", 5) == 5, "write: %s", strerror(errno));
    CHECK(write(writer, "waiting", 7) == 7, "write: %s", strerror(errno));
    object_pause();
    SABOTAGE(CHECK(read(reader, buffer, 1) == 1, "read"));
    CHECK_EQUAL(read(reader, buffer, sizeof buffer), 7, "what was waiting");
    CHECK(memcmp(buffer, "waiting", 7) == 0, "other bytes were waiting");
    CHECK(read(both, buffer, 1) < 0 && errno == EAGAIN, "more was waiting");
    CHECK(write(both, "x", 1) == 1 && read(reader, buffer, 2) == 1, "they are different FIFOs");
    CHECK(read(lonely, buffer, 9) == 5 && memcmp(buffer, "alone", 5) == 0, "the lonely one");
    CHECK_EQUAL(links_of(lonely), 0, "links");
    struct stat status;
    MUST(fstat(reader, &status));
    CHECK_EQUAL(status.st_mode, S_IFIFO | 0642, "mode");
}

static const struct object_kind kinds[] = {
    {"hard-link", hard_link},   {"many", many},           {"write-only", write_only},
    {"sparse", sparse},         {"large", large},         {"attributes", attributes},
    {"replaced", replaced},     {"in-folder", in_folder}, {"here", here},
    {"odd-names", odd_names},   {"renamed", renamed},     {"nameless", nameless},
    {"fifo", fifo},
};

int main(int argc, char **argv) {
    object_run_kinds(kinds, COUNT_OF(kinds), argc, argv);
}
