// Processes below the root that are in namespaces of their own, and namespaces that only a descriptor or a socket keeps.
// argv[2] names the kind.
#include <arpa/inet.h>
#include <net/if.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/utsname.h>

#include "support/spaces.h"

static ino_t inode_of(const char *path) {
    struct stat info;
    MUST(stat(path, &info));
    return info.st_ino;
}

static ino_t inode_of_fd(int fd) {
    struct stat info;
    MUST(fstat(fd, &info));
    return info.st_ino;
}

static void loopback_up(void) {
    int fd = MUST(socket(AF_INET, SOCK_DGRAM, 0));
    struct ifreq request = {.ifr_name = "lo"};
    MUST(ioctl(fd, SIOCGIFFLAGS, &request));
    request.ifr_flags |= IFF_UP;
    MUST(ioctl(fd, SIOCSIFFLAGS, &request));
    close(fd);
}

static void check_host(const char *wanted) {
    struct utsname names;
    MUST(uname(&names));
    CHECK(strcmp(names.nodename, wanted) == 0, "host name %s, not %s", names.nodename, wanted);
}

// A child and its child in one namespace, another child in one of its own, the root in that of the host.
static void uts_grandchild(void *argument) {
    (void)argument;
    object_child_wait();
    check_host("nested one");
}

static void uts_child(void *argument) {
    const char *name = argument;
    MUST(unshare(CLONE_NEWUTS));
    MUST(sethostname(name, strlen(name)));
    pid_t child = strcmp(name, "nested one") == 0 ? object_fork(uts_grandchild, NULL) : 0;
    object_child_wait();
    check_host(name);
    if (child) {
        char path[64];
        snprintf(path, sizeof path, "/proc/%d/ns/uts", child);
        CHECK(inode_of(path) == inode_of("/proc/self/ns/uts"), "its child is in another namespace");
        object_join(child);
    }
}

static void uts(void) {
    char before[65];
    MUST(gethostname(before, sizeof before));
    pid_t one = object_fork(uts_child, "nested one");
    pid_t two = object_fork(uts_child, "nested two");
    object_ready_and_wait();
    SABOTAGE(before[0] ^= 1);
    check_host(before);
    object_join(one);
    object_join(two);
}

// Settings, a message queue and semaphores, under the same keys in every namespace.
static void ipc_child(void *text) {
    struct {
        long type;
        char text[64];
    } message = {.type = 7};
    MUST(unshare(CLONE_NEWIPC));
    write_to("/proc/sys/kernel/msgmax", "4321");
    for (int i = 0; i < 3; i++) {
        MUST(msgget(1000 + i, IPC_CREAT | 0600)); // so that numbers are not those of a fresh namespace
    }
    MUST(msgctl(msgget(1000, 0), IPC_RMID, NULL));
    int queue = MUST(msgget(77, IPC_CREAT | 0640)), set = MUST(semget(78, 3, IPC_CREAT | 0600));
    strcpy(message.text, text);
    MUST(msgsnd(queue, &message, sizeof message.text, 0));
    message.type = 9;
    MUST(msgsnd(queue, &message, 5, 0));
    MUST(semctl(set, 1, SETVAL, 42));
    object_child_wait();
    SABOTAGE(write_to("/proc/sys/kernel/msgmax", "4322"));
    CHECK_EQUAL(read_number("/proc/sys/kernel/msgmax"), 4321, "msgmax");
    CHECK_EQUAL(msgget(77, 0), queue, "number of the queue");
    CHECK(msgget(1000, 0) < 0 && msgget(1001, 0) >= 0, "other queues");
    CHECK_EQUAL(msgrcv(queue, &message, sizeof message.text, 9, IPC_NOWAIT), 5, "length of the second message");
    CHECK_EQUAL(msgrcv(queue, &message, sizeof message.text, 0, IPC_NOWAIT), sizeof message.text, "length of the first");
    CHECK(message.type == 7 && strcmp(message.text, text) == 0, "the first message is %s", message.text);
    CHECK_EQUAL(semget(78, 3, 0), set, "number of the semaphores");
    CHECK_EQUAL(semctl(set, 1, GETVAL), 42, "value");
}

static void ipc(void) {
    long before = read_number("/proc/sys/kernel/msgmax");
    pid_t child = object_fork(ipc_child, "of one"), other = object_fork(ipc_child, "of another");
    object_ready_and_wait();
    CHECK_EQUAL(read_number("/proc/sys/kernel/msgmax"), before, "msgmax of the root");
    object_join(child);
    object_join(other);
}

static void segment_child(void *argument) {
    (void)argument;
    MUST(unshare(CLONE_NEWIPC));
    int segment = MUST(shmget(77, PAGE, IPC_CREAT | 0600));
    object_child_wait();
    SABOTAGE(MUST(shmctl(segment, IPC_RMID, NULL)));
    CHECK_EQUAL(shmget(77, PAGE, 0), segment, "number of the segment");
}

static void segment(void) {
    pid_t child = object_fork(segment_child, NULL);
    object_ready_and_wait();
    object_join(child);
}

static int listener_on(int port) {
    int fd = MUST(socket(AF_INET, SOCK_STREAM, 0));
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    MUST(bind(fd, (struct sockaddr *)&address, sizeof address));
    MUST(listen(fd, 5));
    return fd;
}

static int connection_to(int port) {
    int fd = MUST(socket(AF_INET, SOCK_STREAM, 0));
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    MUST(connect(fd, (struct sockaddr *)&address, sizeof address));
    return fd;
}

static void check_talk(int from, int to) {
    char byte = 0;
    CHECK(write(from, "x", 1) == 1, "write: %s", strerror(errno));
    CHECK(read(to, &byte, 1) == 1 && byte == 'x', "read: %s", strerror(errno));
}

static void net_child(void *argument) {
    (void)argument;
    MUST(unshare(CLONE_NEWNET));
    loopback_up();
    write_to("/proc/sys/net/ipv4/ip_forward", "1");
    // Both children use the same port, which they could not do in one network.
    int listener = listener_on(4711);
    int one = connection_to(4711);
    int two = MUST(accept(listener, NULL, NULL));
    object_child_wait();
    SABOTAGE(close(one));
    CHECK_EQUAL(read_number("/proc/sys/net/ipv4/ip_forward"), 1, "ip_forward");
    check_talk(one, two);
    check_talk(two, one);
    int three = connection_to(4711);
    int four = MUST(accept(listener, NULL, NULL));
    check_talk(three, four);
}

static void net(void) {
    pid_t one = object_fork(net_child, NULL);
    pid_t two = object_fork(net_child, NULL);
    ino_t own = inode_of("/proc/self/ns/net");
    char path[2][64];
    snprintf(path[0], 64, "/proc/%d/ns/net", one);
    snprintf(path[1], 64, "/proc/%d/ns/net", two);
    int held = MUST(open(path[1], O_RDONLY));
    object_ready_and_wait();
    CHECK(inode_of(path[0]) != own && inode_of(path[1]) != own, "a child is in the network of the root");
    CHECK(inode_of(path[0]) != inode_of(path[1]), "both children are in one network");
    CHECK(inode_of_fd(held) == inode_of(path[1]), "the descriptor leads to another network");
    object_join(one);
    object_join(two);
}

// A network that no process is in: a descriptor and two sockets keep it.
static void net_held(void) {
    int home = MUST(open("/proc/self/ns/net", O_RDONLY));
    ino_t outer = inode_of_fd(home);
    MUST(unshare(CLONE_NEWNET));
    loopback_up();
    int inner = MUST(open("/proc/self/ns/net", O_RDONLY));
    int listener = listener_on(4712);
    MUST(setns(home, CLONE_NEWNET));
    close(home);
    int names[2];
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, names));
    object_ready_and_wait();
    SABOTAGE(close(listener));
    CHECK(inode_of("/proc/self/ns/net") == outer, "in another network");
    int back = MUST(open("/proc/self/ns/net", O_RDONLY));
    MUST(setns(inner, CLONE_NEWNET));
    int one = connection_to(4712);
    int two = MUST(accept(listener, NULL, NULL));
    check_talk(one, two);
    check_talk(names[0], names[1]);
    MUST(setns(back, CLONE_NEWNET));
}

static const char *path_of(const char *name) {
    static char paths[8][PATH_MAX];
    static int next;
    return object_path(paths[next++ % 8], name);
}

static void mount_child(void *argument) {
    const char *name = argument;
    char file[PATH_MAX];
    MUST(unshare(CLONE_NEWNS));
    MUST(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL));
    MUST(mount("scratch", path_of("m"), "tmpfs", 0, NULL));
    snprintf(file, sizeof file, "m/%s", name);
    object_write_file(file, 0, name);
    int fd = MUST(open(path_of(file), O_RDWR));
    MUST(mkdir(path_of("m/work"), 0700));
    MUST(chdir(path_of("m/work")));
    int gone = MUST(open(path_of("m/gone"), O_RDWR | O_CREAT, 0600));
    CHECK(write(gone, name, 3) == 3, "write");
    MUST(unlink(path_of("m/gone")));
    object_child_wait();
    SABOTAGE(MUST(unlink(path_of(file))));
    char text[16] = "";
    CHECK(read(fd, text, 15) > 0 && strcmp(text, name) == 0, "the file says %s", text);
    struct stat open_file, by_name;
    MUST(fstat(fd, &open_file));
    MUST(stat(path_of(file), &by_name));
    CHECK(open_file.st_ino == by_name.st_ino && open_file.st_dev == by_name.st_dev, "another file");
    char folder[PATH_MAX];
    CHECK(getcwd(folder, sizeof folder) && strcmp(folder, path_of("m/work")) == 0, "works in %s", folder);
    CHECK(pread(gone, text, 3, 0) == 3 && memcmp(text, name, 3) == 0, "the deleted file");
}

static void mnt(void) {
    MUST(mkdir(path_of("m"), 0700));
    pid_t one = object_fork(mount_child, "one");
    pid_t two = object_fork(mount_child, "two");
    object_ready_and_wait();
    CHECK(access(path_of("m/one"), F_OK) != 0 && access(path_of("m/two"), F_OK) != 0, "a child's mount is here");
    object_join(one);
    object_join(two);
}

// What is refused: a thread in a network of its own, the name of a network, a child that shares the working directory.
static void *strayed(void *argument) {
    MUST(unshare(CLONE_NEWNET));
    __atomic_store_n((int *)argument, 1, __ATOMIC_SEQ_CST);
    for (;;) pause();
    return NULL;
}

static void thread(void) {
    static int done;
    pthread_t other;
    MUST_BE_ZERO(pthread_create(&other, NULL, strayed, &done));
    while (!__atomic_load_n(&done, __ATOMIC_SEQ_CST)) sched_yield();
    ino_t own = inode_of("/proc/self/ns/net");
    object_ready_and_wait();
    SABOTAGE(MUST(unshare(CLONE_NEWNET)));
    CHECK(inode_of("/proc/self/ns/net") == own, "in another network");
}

static void named(void) {
    MUST(unshare(CLONE_NEWNS | CLONE_NEWNET));
    MUST(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL));
    object_write_file("name", 0, "");
    MUST(mount("/proc/self/ns/net", path_of("name"), NULL, MS_BIND, NULL));
    object_ready_and_wait();
    SABOTAGE(MUST(umount(path_of("name"))));
    CHECK(inode_of(path_of("name")) == inode_of("/proc/self/ns/net"), "the name is lost");
}

static int sharer(void *argument) {
    (void)argument;
    for (;;) pause();
    return 0;
}

static void sharing_child(void *argument) {
    MUST(unshare(*(int *)argument));
    static char stack[65536] __attribute__((aligned(16)));
    pid_t child = MUST(clone(sharer, stack + sizeof stack, CLONE_FS | SIGCHLD, NULL));
    object_child_wait();
    MUST(chdir(path_of(".")));
    SABOTAGE(MUST(chdir("/")));
    char path[64], folder[PATH_MAX] = "";
    snprintf(path, sizeof path, "/proc/%d/cwd", child);
    CHECK(readlink(path, folder, sizeof folder - 1) > 0, "readlink: %s", strerror(errno));
    MUST(kill(child, SIGKILL));
    MUST(waitpid(child, NULL, 0));
    CHECK(strcmp(folder, object_directory) == 0, "the child works in %s", folder);
}

static int sharing_space = CLONE_NEWNS;

static void sharing(void) {
    pid_t child = object_fork(sharing_child, &sharing_space);
    object_ready_and_wait();
    object_join(child);
}

/// The same in a user namespace.
static void sharing_user(void) {
    MUST(chmod(object_directory, 0777));
    sharing_space = CLONE_NEWUSER;
    sharing();
}

int main(int argc, char **argv) {
    static const struct {
        const char *name;
        void (*run)(void);
    } kinds[] = {{"uts", uts},           {"ipc", ipc},   {"net", net},
                 {"net-held", net_held}, {"mnt", mnt}, {"thread", thread}, {"named", named}, {"sharing", sharing}, {"sharing-user", sharing_user}, {"segment", segment}};
    object_start(argc, argv);
    for (size_t i = 0; i < COUNT_OF(kinds); i++) {
        if (strcmp(argv[2], kinds[i].name) == 0) {
            kinds[i].run();
            object_pass();
        }
    }
    object_fail("no kind %s", argv[2]);
}
