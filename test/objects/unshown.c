// What no call shows to the program itself, or what nobody may look at. argv[2]: automount, namespace-name, signed,
// signed-listening, signed-bound, signed-unbound, signed-ao, reuse-port, reuse-port-listening, watch-nested, watch-shared.
#include <linux/filter.h>
#include <sched.h>
#include <sys/inotify.h>
#include <sys/mount.h>

#include "support/socket.h"

static char path[PATH_MAX];

static void own_mounts(int more) {
    if (unshare(CLONE_NEWNS | more) != 0) {
        object_put_file("result", "SKIP no mount namespaces here\n");
        exit(0);
    }
    MUST(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL));
}

/// Whoever looks at it would wait for the daemon at the pipe's other end, which never answers.
static void automount(void) {
    char options[128];
    int requests[2];
    own_mounts(0);
    setpgid(0, 0); // the daemon's own group does not wait
    MUST(pipe2(requests, O_CLOEXEC));
    MUST(mkdir(object_path(path, "auto"), 0755));
    snprintf(options, sizeof options, "fd=%d,pgrp=%d,minproto=5,maxproto=5,direct", requests[1], getpgrp());
    if (mount("object", path, "autofs", 0, options) != 0) {
        object_put_file("result", "SKIP no autofs\n");
        exit(0);
    }
    object_ready_and_wait();
    SABOTAGE(object_fail("broken on purpose"));
    struct pollfd asked = {.fd = requests[0], .events = POLLIN};
    CHECK_EQUAL(poll(&asked, 1, 0), 0, "requests for a mount");
}

static ino_t inode_of(const char *name) {
    struct stat info;
    MUST(stat(name, &info));
    return info.st_ino;
}

/// A network namespace that nothing but a mount keeps.
static void namespace_name(void) {
    own_mounts(0);
    object_write_file("name", 0, "");
    pid_t child = MUST(fork());
    if (child == 0) {
        MUST(unshare(CLONE_NEWNET));
        MUST(mount("/proc/self/ns/net", object_path(path, "name"), NULL, MS_BIND, NULL));
        _exit(0);
    }
    object_reap(child);
    ino_t before = inode_of(object_path(path, "name"));
    object_ready_and_wait();
    SABOTAGE(MUST(umount(path)));
    CHECK(inode_of(path) == before, "the name is lost");
}

/// Keys for the loopback address; none with a length of 0.
static int set_key(int fd, uint16_t length) {
    union address address;
    struct tcp_md5sig key = {.tcpm_keylen = length, .tcpm_key = "secret"};
    memcpy(&key.tcpm_addr, &address.any, loopback(AF_INET, &address));
    return setsockopt(fd, IPPROTO_TCP, TCP_MD5SIG, &key, sizeof key);
}

static void sign(int fd) {
    if (set_key(fd, 6) != 0) {
        object_put_file("result", "SKIP no TCP_MD5SIG\n");
        exit(0);
    }
}

static int signed_client(const union address *address) {
    int fd = MUST(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sign(fd);
    // Segments that are not signed as expected are dropped without an answer.
    struct timeval patience = {.tv_sec = 2};
    MUST(setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience));
    MUST(connect(fd, &address->any, length_of(address)));
    return fd;
}

static void check_arrives(int from, int to) {
    char byte = 0;
    CHECK(send(from, "x", 1, MSG_NOSIGNAL) == 1, "send: %s", strerror(errno));
    CHECK(recv(to, &byte, 1, 0) == 1 && byte == 'x', "recv: %s", strerror(errno));
}

static void signed_connection(void) {
    union address address;
    int listener = bound_socket(AF_INET, SOCK_STREAM, &address);
    sign(listener);
    MUST(listen(listener, 1));
    int client = signed_client(&address);
    int server = MUST(accept4(listener, NULL, NULL, SOCK_CLOEXEC));
    close(listener);
    object_ready_and_wait();
    SABOTAGE(MUST(set_key(server, 0)));
    set_key(client, 0);
    CHECK(send(client, "x", 1, MSG_NOSIGNAL) == 1, "send: %s", strerror(errno));
    struct pollfd poller = {.fd = server, .events = POLLIN};
    CHECK_EQUAL(poll(&poller, 1, 300), 0, "what arrives unsigned");
}

static void signed_listening(void) {
    union address address;
    int listener = bound_socket(AF_INET, SOCK_STREAM, &address);
    sign(listener);
    MUST(listen(listener, 1));
    object_ready_and_wait();
    SABOTAGE(shutdown(listener, SHUT_RDWR); MUST(listen(bound_socket(AF_INET, SOCK_STREAM, &address), 1)));
    int client = signed_client(&address);
    check_arrives(client, MUST(accept4(listener, NULL, NULL, SOCK_CLOEXEC)));
}

/// A client with the same key gets through, and one without does not.
static void check_signs(int listener, const union address *address) {
    int client = signed_client(address);
    check_arrives(client, MUST(accept4(listener, NULL, NULL, SOCK_CLOEXEC)));
    int stranger = MUST(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    struct timeval patience = {.tv_usec = 300000};
    MUST(setsockopt(stranger, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience));
    CHECK(connect(stranger, &address->any, length_of(address)) != 0, "connected unsigned");
}

/// A socket with keys that does not listen yet, perhaps without a port.
static void signed_closed(int is_bound) {
    union address address;
    int fd = MUST(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    socklen_t length = loopback(AF_INET, &address);
    sign(fd);
    if (is_bound) MUST(bind(fd, &address.any, length));
    object_ready_and_wait();
    SABOTAGE(MUST(set_key(fd, 0)));
    if (!is_bound) MUST(bind(fd, &address.any, length));
    MUST(getsockname(fd, &address.any, &length));
    MUST(listen(fd, 1));
    check_signs(fd, &address);
}

static void signed_bound(void) {
    signed_closed(1);
}

static void signed_unbound(void) {
    signed_closed(0);
}

#define TCP_AO_ADD_KEY 38
#define TCP_AO_INFO 40

/// A master key of TCP-AO (struct tcp_ao_add, include/uapi/linux/tcp.h), for the loopback address.
static void signed_ao(void) {
    struct __attribute__((aligned(8))) {
        struct sockaddr_storage address;
        char algorithm[64];
        int32_t interface;
        uint32_t flags;
        uint16_t reserved;
        uint8_t prefix, send_id, receive_id, mac_length, key_flags, key_length, key[80];
    } add = {.algorithm = "hmac(sha1)", .prefix = 32, .send_id = 100, .receive_id = 100, .key_length = 6, .key = "secret"};
    union address address;
    memcpy(&add.address, &address.any, loopback(AF_INET, &address));
    int fd = MUST(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (setsockopt(fd, IPPROTO_TCP, TCP_AO_ADD_KEY, &add, sizeof add) != 0) {
        object_put_file("result", "SKIP no TCP-AO\n");
        exit(0);
    }
    object_ready_and_wait();
    SABOTAGE(close(fd); fd = MUST(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)));
    uint64_t info[6] = {0};
    socklen_t length = sizeof info;
    CHECK(getsockopt(fd, IPPROTO_TCP, TCP_AO_INFO, info, &length) == 0, "its key is lost: %s", strerror(errno));
}

/// Sockets that share a port, of which a program chooses the second one.
static void shared_port(int type, int fds[2], union address *address) {
    struct sock_filter second[] = {BPF_STMT(BPF_RET | BPF_K, 1)};
    struct sock_fprog program = {COUNT_OF(second), second};
    socklen_t length = loopback(AF_INET, address);
    for (int i = 0; i < 2; i++) {
        fds[i] = MUST(socket(AF_INET, type | SOCK_CLOEXEC, 0));
        MUST(setsockopt(fds[i], SOL_SOCKET, SO_REUSEPORT, &(int){1}, sizeof(int)));
        MUST(bind(fds[i], &address->any, length));
        MUST(getsockname(fds[i], &address->any, &length));
        if (type == SOCK_STREAM) {
            MUST(listen(fds[i], 16));
        }
    }
    MUST(setsockopt(fds[0], SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, &program, sizeof program));
}

static void check_second(int type) {
    union address address;
    int fds[2];
    shared_port(type, fds, &address);
    object_ready_and_wait();
    struct sock_filter first[] = {BPF_STMT(BPF_RET | BPF_K, 0)};
    struct sock_fprog other = {COUNT_OF(first), first};
    SABOTAGE(MUST(setsockopt(fds[0], SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, &other, sizeof other)));
    for (int i = 0; i < 8; i++) {
        int client = connected_socket(&address, type);
        if (type == SOCK_DGRAM) {
            MUST(send(client, "x", 1, 0));
        }
    }
    struct pollfd poller = {.fd = fds[0], .events = POLLIN};
    CHECK_EQUAL(poll(&poller, 1, 100), 0, "what reaches the first socket");
    poller.fd = fds[1];
    CHECK_EQUAL(poll(&poller, 1, 1000), 1, "what reaches the second socket");
}

static void reuse_port(void) { check_second(SOCK_DGRAM); }

static void reuse_port_listening(void) { check_second(SOCK_STREAM); }

/// A watch of a file that is only in the mounts of the child that watches it, or in those of its parent too.
static void watching_child(void *is_apart) {
    char buffer[4096];
    own_mounts(0);
    MUST(mkdir(object_path(path, "m"), 0755));
    if (is_apart != NULL) {
        MUST(mount("object", path, "tmpfs", 0, NULL));
    }
    object_write_file("m/file", 0, "x");
    int fd = MUST(inotify_init1(IN_NONBLOCK | IN_CLOEXEC));
    int watch = MUST(inotify_add_watch(fd, object_path(path, "m/file"), IN_MODIFY));
    object_child_wait();
    SABOTAGE(MUST(inotify_rm_watch(fd, watch)); MUST(read(fd, buffer, sizeof buffer)));
    object_write_file("m/file", O_APPEND, "y");
    ssize_t length = read(fd, buffer, sizeof buffer);
    struct inotify_event *event = (struct inotify_event *)buffer;
    CHECK(length > 0, "no event: %s", strerror(errno));
    CHECK(event->wd == watch && event->mask == IN_MODIFY, "watch %d, mask 0x%x", event->wd, event->mask);
}

static void watch_nested(void) {
    pid_t child = object_fork(watching_child, path);
    object_ready_and_wait();
    object_join(child);
}

static void watch_shared(void) {
    pid_t child = object_fork(watching_child, NULL);
    object_ready_and_wait();
    object_join(child);
}

int main(int argc, char **argv) {
    static const struct object_kind kinds[] = {{"automount", automount},
                                               {"namespace-name", namespace_name},
                                               {"signed", signed_connection},
                                               {"signed-listening", signed_listening},
                                               {"signed-bound", signed_bound},
                                               {"signed-unbound", signed_unbound},
                                               {"signed-ao", signed_ao},
                                               {"reuse-port", reuse_port},
                                               {"reuse-port-listening", reuse_port_listening},
                                               {"watch-nested", watch_nested},
                                               {"watch-shared", watch_shared}};
    object_run_kinds(kinds, COUNT_OF(kinds), argc, argv);
}
