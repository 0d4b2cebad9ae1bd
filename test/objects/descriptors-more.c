// Descriptors of kinds that programs seldom have: names only (O_PATH), files of /proc and of
// processes that have ended, pidfds, owners and signals, leases and locks over processes, epoll
// sets whose members are gone, high numbers, BPF maps.
#include <linux/bpf.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <sys/socket.h>
#include <poll.h>

#include "support/object.h"

#ifndef F_GETOWNER_UIDS
#define F_GETOWNER_UIDS 17
#endif

static char path[PATH_MAX], buffer[8192];

static void check_status(int fd, mode_t type, const char *what) {
    struct stat status;
    CHECK(fstat(fd, &status) == 0, "%s: fstat: %s", what, strerror(errno));
    CHECK_EQUAL(status.st_mode & S_IFMT, type, what);
    CHECK_EQUAL(fcntl(fd, F_GETFL) & O_PATH, O_PATH, what);
}

/// O_PATH of a file, a folder, a symbolic link, a FIFO, a socket, a device, and of removed ones.
static void names_only(void) {
    close(object_file("data", O_RDONLY, 100, 1));
    int file = MUST(open(object_path(path, "data"), O_PATH));
    int folder = MUST(open(object_directory, O_PATH | O_DIRECTORY));
    MUST(symlink("somewhere/else", object_path(path, "link")));
    int link = MUST(open(path, O_PATH | O_NOFOLLOW));
    MUST(symlink("gone", object_path(path, "gone link")));
    int gone_link = MUST(open(path, O_PATH | O_NOFOLLOW));
    MUST(unlink(path));
    MUST(mkfifo(object_path(path, "fifo"), 0600));
    int fifo = MUST(open(path, O_PATH));
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    CHECK(chdir(object_directory) == 0, "chdir");
    strcpy(address.sun_path, "socket");
    int listener = MUST(socket(AF_UNIX, SOCK_STREAM, 0));
    MUST(bind(listener, (struct sockaddr *)&address, sizeof address));
    int named = MUST(open("socket", O_PATH));
    int device = MUST(open("/dev/null", O_PATH));
    close(object_file("unlinked", O_RDONLY, 100, 2));
    int unlinked = MUST(open(object_path(path, "unlinked"), O_PATH));
    MUST(unlink(path));
    object_pause();
    SABOTAGE(close(link));
    check_status(file, S_IFREG, "the file");
    check_status(folder, S_IFDIR, "the folder");
    check_status(link, S_IFLNK, "the link");
    check_status(gone_link, S_IFLNK, "the removed link");
    check_status(fifo, S_IFIFO, "the FIFO");
    check_status(named, S_IFSOCK, "the socket");
    check_status(device, S_IFCHR, "the device");
    check_status(unlinked, S_IFREG, "the unlinked file");
    CHECK_EQUAL(readlinkat(link, "", buffer, sizeof buffer), 14, "the link's target");
    CHECK_EQUAL(readlinkat(gone_link, "", buffer, sizeof buffer), 4, "the removed link's target");
    CHECK_EQUAL(openat(folder, "data", O_RDONLY) >= 0, true, "the folder can be used");
    snprintf(path, sizeof path, "/proc/self/fd/%d", unlinked);
    int again = MUST(open(path, O_RDONLY));
    CHECK_EQUAL(read(again, buffer, sizeof buffer), 100, "length of the unlinked file");
    CHECK_FILLED(buffer, 100, 2, "the unlinked file");
}

static void sleeper(void *argument) {
    (void)argument;
    object_child_wait();
}

static pid_t make_dead(int *fds, size_t count, const char *const *names) {
    pid_t child = MUST(fork());
    if (child == 0) {
        pause();
        _exit(0);
    }
    for (size_t i = 0; i < count; i++) {
        snprintf(path, sizeof path, "/proc/%d%s", child, names[i]);
        fds[i] = MUST(open(path, O_RDONLY));
    }
    MUST(kill(child, SIGKILL));
    CHECK(waitpid(child, NULL, 0) == child, "waitpid");
    return child;
}

/// Files of /proc and /sys: of this process, another one, one that has ended, and of nobody.
static void proc(void) {
    static const char *const names[] = {"/status", "", "/task", "/fd"};
    int own = MUST(open("/proc/self/status", O_RDONLY)), dead[4];
    CHECK(read(own, buffer, 10) == 10, "read");
    int own_folder = MUST(open("/proc/self", O_RDONLY | O_DIRECTORY));
    pid_t child = object_fork(sleeper, NULL);
    snprintf(path, sizeof path, "/proc/%d/status", child);
    int theirs = MUST(open(path, O_RDONLY));
    snprintf(path, sizeof path, "/proc/%d/task", child);
    int tasks = MUST(open(path, O_RDONLY | O_DIRECTORY));
    int none = MUST(open("/proc/version", O_RDONLY));
    int setting = MUST(open("/proc/sys/kernel/ostype", O_RDONLY));
    int kernel = MUST(open("/sys/kernel", O_RDONLY | O_DIRECTORY));
    int space = MUST(open("/proc/self/ns/uts", O_RDONLY));
    make_dead(dead, 4, names);
    object_pause();
    SABOTAGE(close(own));
    CHECK_EQUAL(lseek(own, 0, SEEK_CUR), 10, "position");
    CHECK(pread(own, buffer, 5, 0) == 5 && memcmp(buffer, "Name:", 5) == 0, "its own status");
    int below = MUST(openat(own_folder, "stat", O_RDONLY));
    CHECK(read(below, buffer, sizeof buffer) > 0, "its own folder");
    CHECK_EQUAL(atoi(buffer), getpid(), "pid in its own folder");
    ssize_t length = MUST(pread(theirs, buffer, sizeof buffer - 1, 0));
    buffer[length] = 0;
    char want[32];
    snprintf(want, sizeof want, "\nPid:\t%d\n", child);
    CHECK(strstr(buffer, want) != NULL, "the child's status is not the child's");
    snprintf(want, sizeof want, "%d", child);
    MUST(openat(tasks, want, O_RDONLY | O_DIRECTORY));
    CHECK(pread(none, buffer, 5, 0) == 5 && memcmp(buffer, "Linux", 5) == 0, "/proc/version");
    CHECK(pread(setting, buffer, 5, 0) == 5 && memcmp(buffer, "Linux", 5) == 0, "a setting");
    CHECK(faccessat(kernel, "mm", F_OK, 0) == 0, "/sys/kernel");
    struct stat now, open_now;
    MUST(fstat(space, &open_now));
    MUST(stat("/proc/self/ns/uts", &now));
    CHECK_EQUAL(open_now.st_ino, now.st_ino, "namespace");
    CHECK(pread(dead[0], buffer, 5, 0) < 0 && errno == ESRCH, "status of a dead process: %s",
          strerror(errno));
    CHECK(openat(dead[1], "stat", O_RDONLY) < 0 && (errno == ENOENT || errno == ESRCH),
          "folder of a dead process: %s", strerror(errno));
    object_join(child);
}

/// pidfds: its own, a child's in two processes, one of a process that has ended, and of a thread.
static int shared_pidfd;

static void holder(void *argument) {
    (void)argument;
    object_child_wait();
    struct pollfd poller = {.fd = shared_pidfd, .events = POLLIN};
    CHECK_EQUAL(poll(&poller, 1, 5000), 1, "events in the other holder");
}

static void pidfds(void) {
    int own = MUST(syscall(SYS_pidfd_open, getpid(), 0));
    pid_t child = object_fork(sleeper, NULL);
    shared_pidfd = (int)MUST(syscall(SYS_pidfd_open, child, O_NONBLOCK));
    pid_t second = object_fork(holder, NULL);
    pid_t ended = MUST(fork());
    if (ended == 0) {
        _exit(7);
    }
    int dead = (int)MUST(syscall(SYS_pidfd_open, ended, 0));
    CHECK(waitpid(ended, NULL, 0) == ended, "waitpid");
    object_pause();
    SABOTAGE(close(own));
    CHECK_EQUAL(syscall(SYS_pidfd_send_signal, own, 0, NULL, 0), 0, "signal to itself");
    CHECK_EQUAL(fcntl(shared_pidfd, F_GETFL) & O_NONBLOCK, O_NONBLOCK, "flags");
    struct pollfd pollers[] = {{own, POLLIN, 0}, {shared_pidfd, POLLIN, 0}, {dead, POLLIN, 0}};
    poll(pollers, 3, 0);
    CHECK_EQUAL(pollers[0].revents, 0, "events of its own");
    CHECK_EQUAL(pollers[1].revents, 0, "events of the child's");
    CHECK_EQUAL(pollers[2].revents & POLLIN, POLLIN, "events of one that has ended");
    CHECK(syscall(SYS_pidfd_send_signal, dead, 0, NULL, 0) < 0 && errno == ESRCH,
          "it can be signalled");
    MUST(syscall(SYS_pidfd_send_signal, shared_pidfd, SIGUSR1, NULL, 0));
    object_reap(child);
    object_join(second);
}

/// Who gets signals, and which, for files of every kind.
static void owners(void) {
    pid_t child = object_fork(sleeper, NULL);
    int pipes[2], fds[4];
    MUST(pipe(pipes));
    fds[0] = object_file("data", O_RDWR, 10, 1);
    fds[1] = pipes[0];
    fds[2] = MUST(socket(AF_INET, SOCK_DGRAM, 0));
    fds[3] = MUST(open("/dev/null", O_RDWR));
    struct f_owner_ex before = {F_OWNER_PID, child}, now;
    uid_t setter[2];
    for (int i = 0; i < 4; i++) {
        MUST(fcntl(fds[i], F_SETOWN_EX, &before));
        MUST(fcntl(fds[i], F_SETSIG, SIGRTMIN + i));
    }
    MUST(fcntl(pipes[0], F_SETFL, O_ASYNC | O_NONBLOCK));
    // The kernel notes who has set it, and asks whether that one may send the signal.
    MUST(setresuid(-1, 1234, -1));
    MUST(fcntl(pipes[1], F_SETOWN, -getpgrp()));
    MUST(setresuid(-1, 0, -1));
    MUST(prctl(PR_SET_DUMPABLE, 1));
    object_pause();
    SABOTAGE(MUST(fcntl(fds[2], F_SETSIG, 0)));
    for (int i = 0; i < 4; i++) {
        MUST(fcntl(fds[i], F_GETOWN_EX, &now));
        CHECK(now.type == F_OWNER_PID && now.pid == child, "file %d: owner %d of type %d", i,
              now.pid, now.type);
        CHECK_EQUAL(fcntl(fds[i], F_GETSIG), SIGRTMIN + i, "signal");
    }
    CHECK_EQUAL(fcntl(pipes[0], F_GETFL) & (O_ASYNC | O_NONBLOCK), O_ASYNC | O_NONBLOCK, "flags");
    MUST(fcntl(pipes[1], F_GETOWN_EX, &now));
    CHECK(now.type == F_OWNER_PGRP && now.pid == getpgrp(), "group: %d of type %d", now.pid,
          now.type);
    MUST(fcntl(pipes[1], F_GETOWNER_UIDS, setter));
    CHECK(setter[0] == 0 && setter[1] == 1234, "set by %u, effective %u", setter[0], setter[1]);
    object_join(child);
}

static struct flock range(short type, off_t start, off_t length) {
    return (struct flock){.l_type = type, .l_whence = SEEK_SET, .l_start = start, .l_len = length};
}

/// Record locks of two processes on one file, an inherited flock, leases of both kinds.
static void locker(void *argument) {
    int fd = MUST(open(object_path(path, "data"), O_RDWR));
    struct flock lock = range(F_RDLCK, 50, 0);
    (void)argument;
    MUST(fcntl(fd, F_SETLK, &lock));
    object_child_wait();
    lock = range(F_WRLCK, 10, 5);
    MUST(fcntl(fd, F_GETLK, &lock));
    CHECK(lock.l_type == F_WRLCK && lock.l_pid == getppid(), "lock of type %d by %d", lock.l_type,
          lock.l_pid);
    CHECK(lock.l_start == 10 && lock.l_len == 20, "lock at %ld+%ld", lock.l_start, lock.l_len);
    lock = range(F_UNLCK, 50, 10);
    MUST(fcntl(fd, F_SETLK, &lock));
}

static void locks(void) {
    int fd = object_file("data", O_RDWR, 100, 1), second = object_file("second", O_RDWR, 10, 1);
    struct flock lock = range(F_WRLCK, 10, 20), ofd = range(F_WRLCK, 3, 4);
    MUST(fcntl(fd, F_SETLK, &lock));
    MUST(fcntl(second, F_OFD_SETLK, &ofd));
    MUST(flock(second, LOCK_SH));
    close(object_file("read", O_RDONLY, 10, 1));
    close(object_file("write", O_RDONLY, 10, 1));
    int reader = MUST(open(object_path(path, "read"), O_RDONLY));
    int writer = MUST(open(object_path(path, "write"), O_RDWR));
    MUST(fcntl(reader, F_SETLEASE, F_RDLCK));
    MUST(fcntl(writer, F_SETLEASE, F_WRLCK));
    MUST(fcntl(writer, F_SETSIG, SIGRTMIN + 3));
    pid_t child = object_fork(locker, NULL);
    object_pause();
    SABOTAGE(lock.l_type = F_UNLCK; MUST(fcntl(fd, F_SETLK, &lock)));
    CHECK_EQUAL(fcntl(reader, F_GETLEASE), F_RDLCK, "read lease");
    CHECK_EQUAL(fcntl(writer, F_GETLEASE), F_WRLCK, "write lease");
    CHECK_EQUAL(fcntl(writer, F_GETSIG), SIGRTMIN + 3, "signal of the lease");
    lock = range(F_WRLCK, 60, 1);
    MUST(fcntl(fd, F_GETLK, &lock));
    CHECK(lock.l_type == F_RDLCK && lock.l_pid == child, "lock of type %d by %d", lock.l_type,
          lock.l_pid);
    int again = MUST(open(object_path(path, "second"), O_RDWR));
    CHECK(flock(again, LOCK_EX | LOCK_NB) < 0 && errno == EWOULDBLOCK, "the flock is gone");
    MUST(flock(again, LOCK_SH | LOCK_NB));
    ofd = range(F_WRLCK, 0, 0);
    CHECK(fcntl(again, F_OFD_SETLK, &ofd) < 0 && errno == EAGAIN, "the OFD lock is gone");
    object_join(child);
}

/// Members that were closed under their number, nested sets, the same file twice.
static void epoll(void) {
    int set = MUST(epoll_create1(0)), outer = MUST(epoll_create1(0)), pipes[2];
    MUST(pipe(pipes));
    int closed = dup(pipes[0]), twice = dup(pipes[0]);
    struct epoll_event event = {EPOLLIN, {.u64 = 0x1234567812345678}}, events[4];
    MUST(epoll_ctl(set, EPOLL_CTL_ADD, closed, &event));
    event.data.u64++;
    MUST(epoll_ctl(set, EPOLL_CTL_ADD, twice, &event));
    close(closed);
    event.data.u64++;
    MUST(epoll_ctl(outer, EPOLL_CTL_ADD, set, &event));
    int counter = MUST(eventfd(0, 0));
    event = (struct epoll_event){EPOLLIN | EPOLLET, {.u64 = 99}};
    MUST(epoll_ctl(outer, EPOLL_CTL_ADD, counter, &event));
    object_pause();
    SABOTAGE(MUST(epoll_ctl(set, EPOLL_CTL_DEL, twice, &event)));
    CHECK_EQUAL(epoll_wait(outer, events, 4, 0), 0, "events before");
    CHECK(write(pipes[1], "x", 1) == 1, "write");
    CHECK_EQUAL(epoll_wait(outer, events, 4, 1000), 1, "events of the outer set");
    CHECK_EQUAL(events[0].data.u64, 0x123456781234567a, "data of the outer set");
    CHECK_EQUAL(epoll_wait(set, events, 4, 0), 2, "events of the inner set");
    CHECK_EQUAL(events[0].data.u64 + events[1].data.u64, 2 * 0x1234567812345678 + 1, "data");
    CHECK(read(pipes[0], buffer, 1) == 1 && eventfd_write(counter, 1) == 0, "read");
    CHECK_EQUAL(epoll_wait(outer, events, 4, 1000), 1, "events of the counter");
    CHECK_EQUAL(epoll_wait(outer, events, 4, 0), 0, "edges of the counter");
}

/// Numbers beyond 1,024, with gaps; flags that stay.
static void numbers(void) {
    int fd = object_file("data", O_RDWR | O_SYNC | O_NOATIME, 10, 1);
    int high = fd;
    for (int number = 900; number < 1020; number += 7) {
        high = MUST(dup2(fd, number));
    }
    MUST(fcntl(high, F_SETFD, FD_CLOEXEC));
    int direct = open(object_path(path, "data"), O_RDONLY | O_DIRECT);
    uint64_t hint = 3, now = 0;
    bool hinted = fcntl(fd, F_SET_RW_HINT, &hint) == 0;
    object_pause();
    SABOTAGE(close(907));
    for (int number = 900; number < 1020; number += 7) {
        MUST(fcntl(number, F_GETFD));
    }
    CHECK_EQUAL(fcntl(high, F_GETFD), FD_CLOEXEC, "close on exec");
    CHECK_EQUAL(fcntl(fd, F_GETFL) & (O_SYNC | O_NOATIME), O_SYNC | O_NOATIME, "flags");
    if (direct >= 0) {
        CHECK_EQUAL(fcntl(direct, F_GETFL) & O_DIRECT, O_DIRECT, "O_DIRECT");
    }
    if (hinted) {
        MUST(fcntl(fd, F_GET_RW_HINT, &now));
        CHECK_EQUAL(now, hint, "hint");
    }
}

static int bpf_call(int command, union bpf_attr *attributes) {
    return (int)syscall(SYS_bpf, command, attributes, sizeof *attributes);
}

/// An array and a hash, the second one frozen.
static void bpf(void) {
    union bpf_attr array = {.map_type = BPF_MAP_TYPE_ARRAY, .key_size = 4, .value_size = 8,
                            .max_entries = 5, .map_name = "an_array"};
    union bpf_attr hash = {.map_type = BPF_MAP_TYPE_HASH, .key_size = 8, .value_size = 4,
                           .max_entries = 10, .map_flags = BPF_F_NO_PREALLOC};
    int one = bpf_call(BPF_MAP_CREATE, &array), two = bpf_call(BPF_MAP_CREATE, &hash);
    if (one < 0 || two < 0) {
        object_pause();
        return;
    }
    for (uint64_t i = 0; i < 5; i++) {
        uint64_t value = 1000 + i, key = i * 3;
        union bpf_attr put = {.map_fd = (uint32_t)one, .key = (uintptr_t)&i,
                              .value = (uintptr_t)&value};
        MUST(bpf_call(BPF_MAP_UPDATE_ELEM, &put));
        put.map_fd = (uint32_t)two;
        put.key = (uintptr_t)&key;
        MUST(bpf_call(BPF_MAP_UPDATE_ELEM, &put));
    }
    union bpf_attr freeze = {.map_fd = (uint32_t)two};
    MUST(bpf_call(BPF_MAP_FREEZE, &freeze));
    object_pause();
    SABOTAGE(close(one));
    for (uint64_t i = 0; i < 5; i++) {
        uint64_t value = 0, key = i * 3;
        union bpf_attr get = {.map_fd = (uint32_t)one, .key = (uintptr_t)&i,
                              .value = (uintptr_t)&value};
        MUST(bpf_call(BPF_MAP_LOOKUP_ELEM, &get));
        CHECK_EQUAL(value, 1000 + i, "element of the array");
        value = 0;
        get.map_fd = (uint32_t)two;
        get.key = (uintptr_t)&key;
        MUST(bpf_call(BPF_MAP_LOOKUP_ELEM, &get));
        CHECK_EQUAL(value, 1000 + i, "element of the hash");
    }
    uint64_t key = 1, value = 1;
    union bpf_attr put = {.map_fd = (uint32_t)two, .key = (uintptr_t)&key,
                          .value = (uintptr_t)&value};
    CHECK(bpf_call(BPF_MAP_UPDATE_ELEM, &put) < 0 && errno == EPERM, "it is not frozen");
    struct bpf_map_info info = {0};
    union bpf_attr ask = {.info = {.bpf_fd = (uint32_t)one, .info_len = sizeof info,
                                   .info = (uintptr_t)&info}};
    MUST(bpf_call(BPF_OBJ_GET_INFO_BY_FD, &ask));
    CHECK(strcmp(info.name, "an_array") == 0, "its name is %s", info.name);
}

static const struct object_kind kinds[] = {
    {"names-only", names_only}, {"proc", proc},       {"pidfds", pidfds},
    {"owners", owners},         {"locks", locks},     {"epoll", epoll},
    {"numbers", numbers},       {"bpf", bpf},
};

int main(int argc, char **argv) {
    object_run_kinds(kinds, COUNT_OF(kinds), argc, argv);
}
