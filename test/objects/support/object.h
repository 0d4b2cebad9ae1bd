// What every program in test/objects needs: readiness, the "check now" signal, the verdict.
//
//   int main(int argc, char **argv) {
//       object_start(argc, argv);
//       ... make the kernel object ...
//       object_ready_and_wait();            // here the program is dumped, restored, rolled back
//       SABOTAGE(... break the object ...); // only in the flavour that proves the check can fail
//       CHECK(object_is_right(), "position %ld, want %ld", got, want);
//       object_pass();
//   }
//
// argv[1] is the program's own directory. Files in it: `ready`, `result`, `failures`.
// SIGUSR1 is reserved: blocked from the start and taken with sigwait, so that waiting touches no
// signal disposition, no descriptor and no memory of the object under test.
#ifndef FERRY_TEST_OBJECT_H
#define FERRY_TEST_OBJECT_H

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define OBJECT_UNUSED __attribute__((unused))
#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))

enum { PAGE = 4096, OBJECT_CHILDREN_MAX = 256 };

static char object_directory[PATH_MAX];
static char object_home[PATH_MAX]; // where failures are told; object_directory but for object_run_kinds
static pid_t object_root_pid;
static bool object_is_sabotaged;
static int object_handshake = -1;
static pid_t object_children[OBJECT_CHILDREN_MAX];
static int object_children_count;

/// Path of a file in the program's own directory; the buffer is the caller's.
OBJECT_UNUSED static const char *object_path(char path[PATH_MAX], const char *name) {
    size_t room = PATH_MAX - strlen(object_directory) - 2;
    if (strlen(name) > room) {
        abort();
    }
    stpcpy(stpcpy(stpcpy(path, object_directory), "/"), name);
    return path;
}

OBJECT_UNUSED static void object_write_file(const char *name, int flags, const char *text) {
    char path[PATH_MAX];
    int fd = open(object_path(path, name), O_WRONLY | O_CREAT | O_CLOEXEC | flags, 0666);
    if (fd < 0 || write(fd, text, strlen(text)) != (ssize_t)strlen(text)) {
        dprintf(2, "pid %d: cannot write %s: %s\n", getpid(), path, strerror(errno));
        _exit(3);
    }
    close(fd);
}

/// Puts a whole file in place at once, so that the harness never reads half of it.
OBJECT_UNUSED static void object_put_file(const char *name, const char *text) {
    char from[PATH_MAX], to[PATH_MAX], temporary[64];
    snprintf(temporary, sizeof temporary, ".%s.new", name);
    object_write_file(temporary, O_TRUNC, text);
    if (rename(object_path(from, temporary), object_path(to, name)) != 0) {
        dprintf(2, "pid %d: cannot rename to %s: %s\n", getpid(), to, strerror(errno));
        _exit(3);
    }
}

/// Ends this process with the reason. The root's verdict is FAIL whichever process calls it.
OBJECT_UNUSED __attribute__((noreturn, format(printf, 3, 4))) static void
object_fail_at(const char *file, int line, const char *format, ...) {
    char why[1024], text[1400];
    strcpy(object_directory, object_home);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(why, sizeof why, format, arguments);
    va_end(arguments);
    const char *name = strrchr(file, '/');
    snprintf(text, sizeof text, "%s:%d: pid %d: %s\n", name ? name + 1 : file, line, getpid(), why);
    object_write_file("failures", O_APPEND, text);
    if (getpid() == object_root_pid) {
        char verdict[1500];
        snprintf(verdict, sizeof verdict, "FAIL %s", text);
        object_put_file("result", verdict);
    }
    _exit(1);
}

#define object_fail(...) object_fail_at(__FILE__, __LINE__, __VA_ARGS__)

/// Fails with the given words (printf style) when the condition does not hold.
#define CHECK(condition, ...)                                                                      \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            object_fail(__VA_ARGS__);                                                              \
        }                                                                                          \
    } while (0)

/// CHECK for two integers, printing both.
#define CHECK_EQUAL(actual, expected, what)                                                        \
    do {                                                                                           \
        long long actual_ = (long long)(actual), expected_ = (long long)(expected);                \
        if (actual_ != expected_) {                                                                \
            object_fail("%s is %lld (0x%llx), want %lld (0x%llx)", what, actual_, actual_,         \
                        expected_, expected_);                                                     \
        }                                                                                          \
    } while (0)

/// A call that returns a value >= 0 or -1 with errno; the value.
#define MUST(call)                                                                                 \
    __extension__({                                                                                \
        long must_ = (long)(call);                                                                 \
        if (must_ < 0) {                                                                           \
            object_fail("%s: %s", #call, strerror(errno));                                         \
        }                                                                                          \
        (int)must_;                                                                                \
    })

/// A pthread call, which returns 0 or an error number.
#define MUST_BE_ZERO(call)                                                                         \
    do {                                                                                           \
        int must_ = (call);                                                                        \
        if (must_ != 0) {                                                                          \
            object_fail("%s: %s", #call, strerror(must_));                                         \
        }                                                                                          \
    } while (0)

/// Runs the statement only in the flavour that proves that the following checks can fail.
#define SABOTAGE(...)                                                                              \
    do {                                                                                           \
        if (object_is_sabotaged) {                                                                 \
            __VA_ARGS__;                                                                           \
        }                                                                                          \
    } while (0)

/// First call of every program.
OBJECT_UNUSED static void object_start(int argc, char **argv) {
    if (argc < 2 || strlen(argv[1]) > PATH_MAX / 2) {
        dprintf(2, "usage: %s DIRECTORY [ARGUMENT...]\n", argv[0]);
        _exit(2);
    }
    strcpy(object_directory, argv[1]);
    strcpy(object_home, argv[1]);
    object_root_pid = getpid();
    object_is_sabotaged = getenv("OBJECT_SABOTAGE") != NULL;
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigprocmask(SIG_BLOCK, &set, NULL);
}

/// Tells the harness that the object is set up. Leaves no descriptor open.
OBJECT_UNUSED static void object_ready(void) {
    char text[32];
    snprintf(text, sizeof text, "READY %d\n", getpid());
    object_put_file("ready", text);
}

/// Sleeps until "check now". sigwait restarts after EINTR by itself.
OBJECT_UNUSED static void object_wait(void) {
    sigset_t set;
    int got = 0;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    int error = sigwait(&set, &got);
    CHECK(error == 0 && got == SIGUSR1, "sigwait: %s, signal %d", strerror(error), got);
}

OBJECT_UNUSED static void object_ready_and_wait(void) {
    object_ready();
    object_wait();
}

/// Starts a child that runs `body(argument)` and exits 0 when it returns. Comes back only after
/// the child has called object_child_wait(); the pipe used for that is closed on both sides then.
OBJECT_UNUSED static pid_t object_fork(void (*body)(void *), void *argument) {
    int handshake[2];
    char byte = 0;
    MUST(pipe2(handshake, O_CLOEXEC));
    pid_t child = MUST(fork());
    if (child == 0) {
        close(handshake[0]);
        if (object_handshake >= 0) {
            close(object_handshake); // the parent's own, when it is not set up itself yet
        }
        object_handshake = handshake[1];
        object_children_count = 0;
        body(argument);
        _exit(0);
    }
    close(handshake[1]);
    ssize_t got;
    do {
        got = read(handshake[0], &byte, 1);
    } while (got < 0 && errno == EINTR);
    CHECK(got == 1, "child %d ended before it was set up", child);
    close(handshake[0]);
    CHECK(object_children_count < OBJECT_CHILDREN_MAX, "too many children");
    object_children[object_children_count++] = child;
    return child;
}

/// Tells the parent that this child is set up, without waiting.
OBJECT_UNUSED static void object_child_ready(void) {
    CHECK(write(object_handshake, "r", 1) == 1, "handshake: %s", strerror(errno));
    close(object_handshake);
    object_handshake = -1;
}

/// In a child: set up, now sleep until the parent releases it.
OBJECT_UNUSED static void object_child_wait(void) {
    object_child_ready();
    object_wait();
}

/// Waits for one child to exit 0.
OBJECT_UNUSED static void object_reap(pid_t child) {
    int status = 0;
    pid_t got;
    do {
        got = waitpid(child, &status, 0);
    } while (got < 0 && errno == EINTR);
    CHECK(got == child, "waitpid(%d) gave %d: %s", child, got, strerror(errno));
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0, "child %d ended with status 0x%x", child,
          status);
}

/// Lets one child check itself, and waits for its verdict.
OBJECT_UNUSED static void object_join(pid_t child) {
    MUST(kill(child, SIGUSR1));
    object_reap(child);
}

/// object_join for every child of object_fork, in the order of their making.
OBJECT_UNUSED static void object_join_all(void) {
    for (int i = 0; i < object_children_count; i++) {
        object_join(object_children[i]);
    }
    object_children_count = 0;
}

/// Last call of the root: PASS, unless some other process of the tree failed.
OBJECT_UNUSED __attribute__((noreturn)) static void object_pass(void) {
    char path[PATH_MAX];
    CHECK(getpid() == object_root_pid, "the root's pid is %d, was %d", getpid(), object_root_pid);
    CHECK(access(object_path(path, "failures"), F_OK) != 0, "another process failed: see failures");
    object_put_file("result", "PASS\n");
    exit(0);
}

/// Nanoseconds on a clock.
OBJECT_UNUSED static int64_t object_now(clockid_t clock) {
    struct timespec now;
    MUST(clock_gettime(clock, &now));
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

OBJECT_UNUSED static void object_sleep_ms(int64_t milliseconds) {
    int64_t until = object_now(CLOCK_MONOTONIC) + milliseconds * 1000000;
    struct timespec time = {.tv_sec = until / 1000000000, .tv_nsec = until % 1000000000};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &time, NULL) == EINTR) {
    }
}

/// One word of the sequence that belongs to a seed (splitmix64's finisher).
OBJECT_UNUSED static uint64_t object_word(uint64_t seed, uint64_t index) {
    uint64_t x = seed * 0x9e3779b97f4a7c15u + (index + 1) * 0xd1342543de82ef95u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

/// Fills memory with the sequence that belongs to a seed.
OBJECT_UNUSED static void object_fill(void *memory, size_t size, uint64_t seed) {
    unsigned char *bytes = memory;
    for (size_t at = 0; at < size; at += 8) {
        uint64_t word = object_word(seed, at / 8);
        memcpy(bytes + at, &word, size - at < 8 ? size - at : 8);
    }
}

/// Offset of the first byte that differs from object_fill(), or -1.
OBJECT_UNUSED static ssize_t object_differs(const void *memory, size_t size, uint64_t seed) {
    const unsigned char *bytes = memory;
    for (size_t at = 0; at < size; at += 8) {
        uint64_t word = object_word(seed, at / 8);
        size_t length = size - at < 8 ? size - at : 8;
        if (memcmp(bytes + at, &word, length) != 0) {
            return (ssize_t)at;
        }
    }
    return -1;
}

/// Offset of the first byte that is not zero, or -1.
OBJECT_UNUSED static ssize_t object_not_zero(const void *memory, size_t size) {
    const unsigned char *bytes = memory;
    for (size_t at = 0; at < size; at++) {
        if (bytes[at] != 0) {
            return (ssize_t)at;
        }
    }
    return -1;
}

#define CHECK_FILLED(memory, size, seed, what)                                                     \
    do {                                                                                           \
        ssize_t differs_ = object_differs(memory, size, seed);                                     \
        CHECK(differs_ < 0, "%s: content differs at offset %zd", what, differs_);                  \
    } while (0)

#define CHECK_ZERO(memory, size, what)                                                             \
    do {                                                                                           \
        ssize_t differs_ = object_not_zero(memory, size);                                          \
        CHECK(differs_ < 0, "%s: not zero at offset %zd", what, differs_);                         \
    } while (0)

/// mmap that must succeed; anonymous and private unless flags say otherwise.
OBJECT_UNUSED static void *object_map(size_t size, int protection, int flags, int fd, off_t at) {
    void *memory = mmap(NULL, size, protection, flags, fd, at);
    CHECK(memory != MAP_FAILED, "mmap of %zu bytes: %s", size, strerror(errno));
    return memory;
}

/// Creates (or empties) a file in the program's directory holding object_fill(seed).
OBJECT_UNUSED static int object_file(const char *name, int flags, size_t size, uint64_t seed) {
    char path[PATH_MAX], *content = malloc(size + 1);
    CHECK(content != NULL, "malloc of %zu bytes", size);
    int fd = MUST(open(object_path(path, name), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666));
    object_fill(content, size, seed);
    CHECK(write(fd, content, size) == (ssize_t)size, "write %s: %s", path, strerror(errno));
    close(fd);
    free(content);
    return MUST(open(path, flags, 0666));
}

/// Reads a whole small file (/proc mostly) into a NUL-terminated buffer; its length.
OBJECT_UNUSED static size_t object_read(const char *path, char *buffer, size_t size) {
    int fd = MUST(open(path, O_RDONLY | O_CLOEXEC));
    size_t length = 0;
    ssize_t got;
    while ((got = read(fd, buffer + length, size - 1 - length)) > 0) {
        length += (size_t)got;
    }
    CHECK(got == 0, "read %s: %s", path, strerror(errno));
    close(fd);
    buffer[length] = 0;
    return length;
}

/// One of several things that a program tries, each in a process of its own.
struct object_kind {
    const char *name;
    void (*run)(void);
};

/// For kinds, in place of object_ready_and_wait: also right in a process that is not the root.
OBJECT_UNUSED static void object_pause(void) {
    if (getpid() == object_root_pid) {
        object_ready_and_wait();
    } else {
        object_child_wait();
    }
}

OBJECT_UNUSED static void object_run_kind(void *argument) {
    const struct object_kind *kind = argument;
    char path[PATH_MAX];
    MUST(mkdir(object_path(path, kind->name), 0777));
    strcpy(object_directory, path);
    kind->run();
}

/// Runs the kind that argv[2] names in this process; without one all of them, each in a child and a
/// folder of its own. Does not return.
OBJECT_UNUSED __attribute__((noreturn)) static void
object_run_kinds(const struct object_kind *kinds, size_t count, int argc, char **argv) {
    object_start(argc, argv);
    for (size_t i = 0; i < count; i++) {
        if (argc <= 2) {
            object_fork(object_run_kind, (void *)(uintptr_t)&kinds[i]);
        } else if (strcmp(kinds[i].name, argv[2]) == 0) {
            kinds[i].run();
            object_pass();
        }
    }
    CHECK(argc <= 2, "there is no kind %s", argv[2]);
    object_ready_and_wait();
    object_join_all();
    object_pass();
}

OBJECT_UNUSED static pid_t object_tid(void) {
    return (pid_t)syscall(SYS_gettid);
}

#endif
