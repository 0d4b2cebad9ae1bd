// Helpers for the programs about sockets.
#ifndef FERRY_TEST_SOCKET_H
#define FERRY_TEST_SOCKET_H

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "object.h"

union address {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
    struct sockaddr_un local;
};

/// The loopback address of a family, port 0 (chosen by the kernel when bound).
OBJECT_UNUSED static socklen_t loopback(int family, union address *address) {
    memset(address, 0, sizeof *address);
    address->any.sa_family = (sa_family_t)family;
    if (family == AF_INET6) {
        address->v6.sin6_addr = in6addr_loopback;
        return sizeof address->v6;
    }
    address->v4.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return sizeof address->v4;
}

/// A socket bound to the loopback address; its address comes back.
OBJECT_UNUSED static int bound_socket(int family, int type, union address *address) {
    int fd = MUST(socket(family, type | SOCK_CLOEXEC, 0));
    socklen_t length = loopback(family, address);
    MUST(bind(fd, &address->any, length));
    MUST(getsockname(fd, &address->any, &length));
    return fd;
}

OBJECT_UNUSED static socklen_t length_of(const union address *address) {
    return address->any.sa_family == AF_INET6 ? sizeof address->v6 : sizeof address->v4;
}

OBJECT_UNUSED static int connected_socket(const union address *address, int type) {
    int fd = MUST(socket(address->any.sa_family, type | SOCK_CLOEXEC, 0));
    MUST(connect(fd, &address->any, length_of(address)));
    return fd;
}

/// Writes all of object_fill(seed) to a stream.
OBJECT_UNUSED static void send_filled(int fd, size_t size, uint64_t seed) {
    char *buffer = malloc(size);
    object_fill(buffer, size, seed);
    for (size_t sent = 0; sent < size;) {
        ssize_t done = send(fd, buffer + sent, size - sent, MSG_NOSIGNAL);
        CHECK(done > 0, "send after %zu of %zu: %s", sent, size, strerror(errno));
        sent += (size_t)done;
    }
    free(buffer);
}

/// Sends object_fill(seed) until the queues are full; how many bytes went.
OBJECT_UNUSED static size_t send_until_full(int fd, uint64_t seed) {
    enum { ROOM = 32 << 20 };
    char *buffer = malloc(ROOM);
    size_t sent = 0;
    object_fill(buffer, ROOM, seed);
    // TCP moves bytes on to the peer's queue with some delay: full means full for a while.
    for (int idle = 0; idle < 20;) {
        ssize_t done = send(fd, buffer + sent, ROOM - sent, MSG_DONTWAIT | MSG_NOSIGNAL);
        CHECK(done > 0 || errno == EAGAIN, "send: %s", strerror(errno));
        idle = done > 0 ? 0 : idle + 1;
        sent += done > 0 ? (size_t)done : 0;
        CHECK(sent < ROOM, "the queues never fill");
        object_sleep_ms(done > 0 ? 0 : 5);
    }
    free(buffer);
    return sent;
}

/// Reads exactly `size` bytes and compares them with object_fill(seed).
OBJECT_UNUSED static void receive_filled(int fd, size_t size, uint64_t seed, const char *what) {
    char *buffer = malloc(size + 1);
    struct pollfd poller = {.fd = fd, .events = POLLIN};
    for (size_t got = 0; got < size;) {
        CHECK(poll(&poller, 1, 3000) > 0, "%s: nothing more after %zu of %zu bytes", what, got,
              size);
        ssize_t done = recv(fd, buffer + got, size - got, 0);
        CHECK(done > 0, "%s: recv after %zu of %zu bytes gave %zd: %s", what, got, size, done,
              strerror(errno));
        got += (size_t)done;
    }
    CHECK_FILLED(buffer, size, seed, what);
    free(buffer);
}

/// Nothing waits to be read.
OBJECT_UNUSED static void check_nothing(int fd, const char *what) {
    char byte;
    ssize_t got = recv(fd, &byte, 1, MSG_DONTWAIT | MSG_PEEK);
    CHECK(got == -1 && errno == EAGAIN, "%s: recv gives %zd: %s", what, got, strerror(errno));
}

/// The stream has ended: nothing waits and the other side has shut down.
OBJECT_UNUSED static void check_end(int fd, const char *what) {
    char byte;
    struct pollfd poller = {.fd = fd, .events = POLLIN};
    poll(&poller, 1, 5000);
    ssize_t got = recv(fd, &byte, 1, MSG_DONTWAIT);
    CHECK(got == 0, "%s: recv gives %zd: %s, want the end", what, got, strerror(errno));
}

/// A word sent on one side comes out on the other, in both directions.
OBJECT_UNUSED static void check_talk(int one, int other, const char *what) {
    send_filled(one, 5000, 501);
    receive_filled(other, 5000, 501, what);
    send_filled(other, 6000, 502);
    receive_filled(one, 6000, 502, what);
    check_nothing(one, what);
    check_nothing(other, what);
}

OBJECT_UNUSED static void check_same_address(const union address *a, const union address *b,
                                             socklen_t length, const char *what) {
    CHECK(memcmp(a, b, length) == 0, "%s: the address differs", what);
}

OBJECT_UNUSED static int get_option(int fd, int level, int option) {
    int value = 0;
    socklen_t length = sizeof value;
    CHECK(getsockopt(fd, level, option, &value, &length) == 0, "getsockopt %d %d: %s", level,
          option, strerror(errno));
    return value;
}

OBJECT_UNUSED static void set_option(int fd, int level, int option, int value) {
    CHECK(setsockopt(fd, level, option, &value, sizeof value) == 0, "setsockopt %d %d: %s", level,
          option, strerror(errno));
}

/// Options and the values they shall have; the first `set_count` are set by set_options.
struct option {
    int level, option, value;
};

OBJECT_UNUSED static void set_options(int fd, const struct option *options, size_t count) {
    for (size_t i = 0; i < count; i++) {
        set_option(fd, options[i].level, options[i].option, options[i].value);
    }
}

/// Compares with what `reference` noted of getsockopt before (kernels double some values).
OBJECT_UNUSED static void note_options(int fd, struct option *options, size_t count) {
    for (size_t i = 0; i < count; i++) {
        options[i].value = get_option(fd, options[i].level, options[i].option);
    }
}

OBJECT_UNUSED static void check_options(int fd, const struct option *options, size_t count,
                                        const char *what) {
    for (size_t i = 0; i < count; i++) {
        int now = get_option(fd, options[i].level, options[i].option);
        CHECK(now == options[i].value, "%s: option %d of level %d is %d, was %d", what,
              options[i].option, options[i].level, now, options[i].value);
    }
}

#endif
