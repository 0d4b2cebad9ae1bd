// Files of the kinds that keep something in the kernel beside their content: devices without a name, a FIFO over the name
// of a socket, leases that are being broken, files of control groups, folders made anew. argv[2] names one.
#include <sys/socket.h>
#include <sys/sysmacros.h>
#include <sys/un.h>

#include "support/object.h"

static char path[PATH_MAX], other[PATH_MAX], buffer[4096];

/// A node of /dev/null that has lost its name.
static void deleted_device(void) {
    MUST(mknod(object_path(path, "null"), S_IFCHR | 0642, makedev(1, 3)));
    MUST(chmod(path, 0642));
    int fd = MUST(open(path, O_RDWR));
    MUST(unlink(path));
    object_pause();
    SABOTAGE(fd = MUST(open("/dev/zero", O_RDWR)));
    struct stat status;
    MUST(fstat(fd, &status));
    CHECK_EQUAL(status.st_rdev, makedev(1, 3), "device");
    CHECK_EQUAL(status.st_mode, S_IFCHR | 0642, "mode");
    CHECK_EQUAL(status.st_nlink, 0, "links");
    CHECK(write(fd, "x", 1) == 1 && read(fd, buffer, 1) == 0, "it is not /dev/null");
}

static void bind_name(int fd, const char *name) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    CHECK(chdir(object_directory) == 0, "chdir");
    strcpy(address.sun_path, name);
    MUST(bind(fd, (struct sockaddr *)&address, sizeof address));
}

/// A socket whose name was taken by a FIFO.
static void fifo_upon_socket(void) {
    int listener = MUST(socket(AF_UNIX, SOCK_STREAM, 0));
    bind_name(listener, "name");
    MUST(listen(listener, 3));
    MUST(unlink(object_path(path, "name")));
    MUST(mkfifo(path, 0600));
    int fifo = MUST(open(path, O_RDWR));
    CHECK(write(fifo, "abc", 3) == 3, "write");
    object_pause();
    SABOTAGE(MUST(unlink(path)));
    struct stat status, open_status;
    MUST(stat(path, &status));
    MUST(fstat(fifo, &open_status));
    CHECK(S_ISFIFO(status.st_mode) && status.st_ino == open_status.st_ino, "the name is not the FIFO's");
    CHECK(read(fifo, buffer, 10) == 3 && memcmp(buffer, "abc", 3) == 0, "content");
    struct sockaddr_un now;
    socklen_t length = sizeof now;
    MUST(getsockname(listener, (struct sockaddr *)&now, &length));
    CHECK(strcmp(now.sun_path, "name") == 0, "the socket's name is %s", now.sun_path);
}

/// A socket whose name was taken by another socket.
static void socket_upon_socket(void) {
    int first = MUST(socket(AF_UNIX, SOCK_DGRAM, 0)), second = MUST(socket(AF_UNIX, SOCK_DGRAM, 0));
    int client = MUST(socket(AF_UNIX, SOCK_DGRAM, 0));
    bind_name(first, "name");
    struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = "name"};
    MUST(connect(client, (struct sockaddr *)&address, sizeof address));
    MUST(unlink(object_path(path, "name")));
    bind_name(second, "name");
    MUST(send(client, "waiting", 7, 0));
    object_pause();
    SABOTAGE(MUST(unlink(path)));
    CHECK_EQUAL(send(client, "more", 4, 0), 4, "send");
    CHECK_EQUAL(recv(first, buffer, 10, 0), 7, "what was waiting");
    CHECK_EQUAL(recv(first, buffer, 10, 0), 4, "what came");
    int fresh = MUST(socket(AF_UNIX, SOCK_DGRAM, 0));
    MUST(connect(fresh, (struct sockaddr *)&address, sizeof address));
    CHECK_EQUAL(send(fresh, "to the second", 13, 0), 13, "send by name");
    CHECK_EQUAL(recv(second, buffer, 100, MSG_DONTWAIT), 13, "what came by name");
}

/// A lease that another process has begun to break: the holder has been told and must still answer.
static void break_lease(int held, int open_flags, int becomes) {
    close(object_file("data", O_RDONLY, 10, 1));
    object_path(path, "data");
    int fd = MUST(open(path, becomes == F_UNLCK && held == F_WRLCK ? O_RDWR : O_RDONLY));
    signal(SIGIO, SIG_IGN);
    MUST(fcntl(fd, F_SETSIG, SIGIO));
    MUST(fcntl(fd, F_SETLEASE, held));
    int opened = open(path, open_flags | O_NONBLOCK);
    CHECK(opened < 0 && errno == EWOULDBLOCK, "the lease was not broken: %d", opened);
    object_pause();
    SABOTAGE(MUST(fcntl(fd, F_SETLEASE, F_UNLCK)));
    CHECK_EQUAL(fcntl(fd, F_GETLEASE), becomes, "what the lease is to become");
    opened = open(path, open_flags | O_NONBLOCK);
    CHECK(opened < 0 && errno == EWOULDBLOCK, "the lease is gone: %s", strerror(errno));
    MUST(fcntl(fd, F_SETLEASE, becomes));
    close(MUST(open(path, open_flags | O_NONBLOCK)));
}

static void lease_read_broken(void) {
    break_lease(F_RDLCK, O_WRONLY, F_UNLCK);
}

static void lease_write_broken(void) {
    break_lease(F_WRLCK, O_WRONLY, F_UNLCK);
}

static void lease_write_lowered(void) {
    break_lease(F_WRLCK, O_RDONLY, F_RDLCK);
}

/// Read leases of several descriptions of one file, one of them shared with a child.
static int shared_lease;

static void lease_child(void *argument) {
    (void)argument;
    object_child_wait();
    CHECK_EQUAL(fcntl(shared_lease, F_GETLEASE), F_RDLCK, "the child's lease");
    MUST(fcntl(shared_lease, F_SETLEASE, F_UNLCK));
}

static void leases_shared(void) {
    close(object_file("data", O_RDONLY, 10, 1));
    shared_lease = MUST(open(object_path(path, "data"), O_RDONLY));
    int second = MUST(open(path, O_RDONLY));
    MUST(fcntl(shared_lease, F_SETLEASE, F_RDLCK));
    MUST(fcntl(second, F_SETLEASE, F_RDLCK));
    pid_t child = object_fork(lease_child, NULL);
    object_pause();
    SABOTAGE(MUST(fcntl(shared_lease, F_SETLEASE, F_UNLCK)));
    object_join(child);
    CHECK_EQUAL(fcntl(shared_lease, F_GETLEASE), F_UNLCK, "the shared lease");
    CHECK_EQUAL(fcntl(second, F_GETLEASE), F_RDLCK, "the other lease");
}

/// Files of /proc of its own, and of a child that has ended and is not waited for.
static void zombie_files(void) {
    pid_t child = MUST(fork());
    if (child == 0) {
        _exit(0);
    }
    snprintf(path, sizeof path, "/proc/%d/status", child);
    int fd = MUST(open(path, O_RDONLY));
    snprintf(path, sizeof path, "/proc/%d", child);
    int folder = MUST(open(path, O_RDONLY | O_DIRECTORY));
    siginfo_t info;
    MUST(waitid(P_PID, (id_t)child, &info, WEXITED | WNOWAIT));
    object_pause();
    SABOTAGE(close(fd));
    CHECK(pread(fd, buffer, 100, 0) > 0 && memcmp(buffer, "Name:", 5) == 0, "status of a zombie");
    CHECK(faccessat(folder, "stat", F_OK, 0) == 0, "its folder");
    object_reap(child);
    CHECK(pread(fd, buffer, 100, 0) < 0, "status of nobody");
}

/// The working directory is a folder of /proc of a process that has ended.
static void dead_folder(void) {
    pid_t child = MUST(fork());
    if (child == 0) {
        pause();
    }
    snprintf(path, sizeof path, "/proc/%d", child);
    MUST(chdir(path));
    MUST(kill(child, SIGKILL));
    CHECK(waitpid(child, NULL, 0) == child, "waitpid");
    object_pause();
    SABOTAGE(MUST(chdir("/")));
    CHECK(open("status", O_RDONLY) < 0 && (errno == ENOENT || errno == ESRCH), "it lives");
    CHECK(getcwd(buffer, sizeof buffer) == NULL && errno == ENOENT, "it has a name: %s", buffer);
}

/// A file that lost its name in a folder that was then made anew, with another file of that name.
static void folder_made_anew(void) {
    MUST(mkdir(object_path(path, "folder"), 0755));
    int fd = object_file("folder/data", O_RDWR, 5000, 3);
    int folder = MUST(open(path, O_RDONLY | O_DIRECTORY));
    MUST(unlink(object_path(other, "folder/data")));
    MUST(rmdir(path));
    MUST(mkdir(path, 0700));
    close(object_file("folder/data", O_RDWR, 100, 4));
    int again = MUST(open(path, O_RDONLY | O_DIRECTORY));
    object_pause();
    SABOTAGE(MUST(unlink(other)));
    struct stat status;
    CHECK(pread(fd, buffer, 4096, 0) == 4096, "read");
    CHECK_FILLED(buffer, 4096, 3, "the file without a name");
    MUST(fstat(fd, &status));
    CHECK_EQUAL(status.st_nlink, 0, "its links");
    MUST(fstat(folder, &status));
    CHECK_EQUAL(status.st_nlink, 0, "links of the folder that is gone");
    int now = MUST(openat(again, "data", O_RDONLY));
    CHECK_EQUAL(read(now, buffer, 4096), 100, "length of the other");
    CHECK_FILLED(buffer, 100, 4, "the other");
}

static const struct object_kind kinds[] = {
    {"deleted-device", deleted_device},
    {"fifo-upon-socket", fifo_upon_socket},
    {"socket-upon-socket", socket_upon_socket},
    {"lease-read-broken", lease_read_broken},
    {"lease-write-broken", lease_write_broken},
    {"lease-write-lowered", lease_write_lowered},
    {"leases-shared", leases_shared},
    {"zombie-files", zombie_files},
    {"dead-folder", dead_folder},
    {"folder-made-anew", folder_made_anew},
};

int main(int argc, char **argv) {
    object_run_kinds(kinds, COUNT_OF(kinds), argc, argv);
}
