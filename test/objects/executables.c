// Programs that are executed from a file without a name. argv[2]: memfd, held (the memfd is open, too), deleted. What is
// executed gets one argument more.
#include "support/object.h"

enum { HELD = 77 };

static void copy_self(int to) {
    static char bytes[1 << 16];
    int from = MUST(open("/proc/self/exe", O_RDONLY | O_CLOEXEC));
    for (ssize_t n; (n = MUST(read(from, bytes, sizeof bytes))) > 0;) CHECK_EQUAL(write(to, bytes, (size_t)n), n, "write");
    close(from);
}

static void again(char **argv) {
    char path[PATH_MAX], by_number[64];
    int file = strcmp(argv[2], "deleted") == 0
                   ? MUST(open(object_path(path, "program"), O_WRONLY | O_CREAT | O_CLOEXEC, 0755))
                   : MUST(memfd_create("program", MFD_CLOEXEC));
    copy_self(file);
    if (strcmp(argv[2], "held") == 0) MUST(dup2(file, HELD));
    snprintf(by_number, sizeof by_number, "/proc/self/fd/%d", file);
    char *const arguments[] = {argv[0], argv[1], argv[2], "again", NULL};
    if (strcmp(argv[2], "deleted") == 0) close(file);
    MUST(execv(strcmp(argv[2], "deleted") == 0 ? path : by_number, arguments));
}

static void check_magic(int fd) {
    char magic[4] = "";
    CHECK_EQUAL(pread(fd, magic, 4, 0), 4, "read");
    CHECK(memcmp(magic, "\177ELF", 4) == 0, "it holds something else");
}

int main(int argc, char **argv) {
    object_start(argc, argv);
    if (argc == 3) again(argv);
    char path[PATH_MAX], was[PATH_MAX] = "", is[PATH_MAX] = "";
    if (strcmp(argv[2], "deleted") == 0) MUST(unlink(object_path(path, "program")));
    MUST(readlink("/proc/self/exe", was, sizeof was - 1));
    object_ready_and_wait();
    MUST(readlink("/proc/self/exe", is, sizeof is - 1));
    SABOTAGE(is[1]++);
    CHECK(strcmp(was, is) == 0, "the executable is %s, was %s", is, was);
    check_magic(MUST(open("/proc/self/exe", O_RDONLY)));
    if (strcmp(argv[2], "held") == 0) {
        check_magic(HELD);
        struct stat held, run;
        MUST(fstat(HELD, &held));
        MUST(stat("/proc/self/exe", &run));
        CHECK(held.st_ino == run.st_ino, "it runs another file than it holds");
    }
    object_pass();
}
