// What a socket keeps although it says little: options that are meant for another kind, ends that read nothing more, packet
// sockets of the oldest type. argv[2]: options, listening, datagram-end, stream-end, old-packet.
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>

#include "support/socket.h"

enum { ANY_NOFCS = 43, TCP_MIN_RTO_US = 45, MPTCP = 262 };

struct kept {
    int level, name, value;
};

static int get(int fd, int level, int name) {
    int value = -1;
    socklen_t length = sizeof value;
    return getsockopt(fd, level, name, &value, &length) == 0 ? value : -1;
}

// Sets those that this kernel has; the values that it keeps come back.
static void set_all(int fd, struct kept *options, size_t count) {
    for (size_t i = 0; i < count; i++) {
        struct kept *o = &options[i];
        (void)setsockopt(fd, o->level, o->name, &o->value, sizeof o->value);
        o->value = get(fd, o->level, o->name);
    }
}

static void check_all(int fd, const struct kept *options, size_t count, const char *what) {
    for (size_t i = 0; i < count; i++) {
        int value = get(fd, options[i].level, options[i].name);
        CHECK(value == options[i].value, "%s: option %d/%d is %d, was %d", what, options[i].level, options[i].name, value,
              options[i].value);
    }
}

static void options(void) {
    struct kept stream[] = {{SOL_SOCKET, SO_BROADCAST, 1}, {SOL_SOCKET, SO_NO_CHECK, 1}, {SOL_SOCKET, SO_RXQ_OVFL, 1},
                              {SOL_SOCKET, ANY_NOFCS, 1},    {IPPROTO_IP, IP_PKTINFO, 1}, {IPPROTO_IP, IP_RECVTTL, 1},
                              {IPPROTO_IPV6, IPV6_RECVPKTINFO, 1}, {IPPROTO_IPV6, IPV6_RECVHOPLIMIT, 1},
                              {IPPROTO_TCP, TCP_MIN_RTO_US, 90000}};
    struct kept local[] = {{SOL_SOCKET, SO_BROADCAST, 1}, {SOL_SOCKET, SO_NO_CHECK, 1}, {SOL_SOCKET, SO_PASSCRED, 1}};
    struct kept multipath[] = {{IPPROTO_TCP, TCP_NODELAY, 1}, {IPPROTO_TCP, TCP_KEEPIDLE, 77}};
    struct kept raw[] = {{SOL_SOCKET, SO_REUSEADDR, 1}};
    int fds[4] = {MUST(socket(AF_INET6, SOCK_STREAM, 0)), MUST(socket(AF_UNIX, SOCK_STREAM, 0)),
                  socket(AF_INET, SOCK_STREAM, MPTCP), socket(AF_INET, SOCK_RAW, IPPROTO_ICMP)};
    set_all(fds[0], stream, COUNT_OF(stream));
    set_all(fds[1], local, COUNT_OF(local));
    if (fds[2] >= 0) set_all(fds[2], multipath, COUNT_OF(multipath));
    if (fds[3] >= 0) raw[0].value = get(fds[3], SOL_SOCKET, SO_REUSEADDR);
    object_ready_and_wait();
    SABOTAGE(MUST(setsockopt(fds[0], SOL_SOCKET, SO_BROADCAST, &(int){0}, sizeof(int))));
    check_all(fds[0], stream, COUNT_OF(stream), "TCP");
    check_all(fds[1], local, COUNT_OF(local), "UNIX");
    if (fds[2] >= 0) check_all(fds[2], multipath, COUNT_OF(multipath), "MPTCP");
    if (fds[3] >= 0) check_all(fds[3], raw, 1, "raw");
}

// Options that may be set before listen(2) alone, or that change what another one shows.
static void listening(void) {
    static const unsigned char alert[4] = {0x94, 4};
    unsigned char got[40], key[32] = "0123456789abcdef";
    socklen_t length = sizeof got;
    union address address;
    int fd = bound_socket(AF_INET, SOCK_STREAM, &address), one = 1;
    (void)setsockopt(fd, IPPROTO_TCP, TCP_FASTOPEN_CONNECT, &one, sizeof one);
    int early = get(fd, IPPROTO_TCP, TCP_FASTOPEN_CONNECT);
    bool has_key = setsockopt(fd, IPPROTO_TCP, TCP_FASTOPEN_KEY, key, 16) == 0;
    MUST(setsockopt(fd, IPPROTO_IP, IP_OPTIONS, alert, sizeof alert));
    MUST(listen(fd, 3));
    object_ready_and_wait();
    SABOTAGE(MUST(setsockopt(fd, IPPROTO_IP, IP_OPTIONS, NULL, 0)));
    MUST(getsockopt(fd, IPPROTO_IP, IP_OPTIONS, got, &length));
    CHECK(length == 4 && memcmp(got, alert, 4) == 0, "IP_OPTIONS has %u bytes", length);
    CHECK_EQUAL(get(fd, IPPROTO_TCP, TCP_FASTOPEN_CONNECT), early, "TCP_FASTOPEN_CONNECT");
    length = sizeof got;
    if (has_key) {
        MUST(getsockopt(fd, IPPROTO_TCP, TCP_FASTOPEN_KEY, got, &length));
        CHECK(length >= 16 && memcmp(got, key, 16) == 0, "TCP_FASTOPEN_KEY has %u bytes", length);
    }
}

static void datagram_end(void) {
    union address to, from;
    char byte = 0;
    int reader = bound_socket(AF_INET, SOCK_DGRAM, &to), writer = bound_socket(AF_INET, SOCK_DGRAM, &from);
    MUST(connect(reader, &from.any, length_of(&from)));
    MUST(connect(writer, &to.any, length_of(&to)));
    MUST(send(writer, "q", 1, 0));
    MUST(shutdown(reader, SHUT_RD));
    object_ready_and_wait();
    SABOTAGE(MUST(recv(reader, &byte, 1, 0)));
    CHECK_EQUAL(recv(reader, &byte, 1, MSG_DONTWAIT), 1, "what waited");
    CHECK_EQUAL(byte, 'q', "the byte");
    CHECK_EQUAL(recv(reader, &byte, 1, 0), 0, "the end");
}

static void stream_end(void) {
    union address address;
    char text[8] = "";
    int listener = bound_socket(AF_INET, SOCK_STREAM, &address);
    MUST(listen(listener, 3));
    int client = connected_socket(&address, SOCK_STREAM), server = MUST(accept(listener, NULL, NULL));
    MUST(send(client, "abc", 3, 0));
    CHECK_EQUAL(recv(server, text, 7, MSG_PEEK), 3, "what has come");
    MUST(shutdown(server, SHUT_RD));
    object_ready_and_wait();
    SABOTAGE(MUST(recv(server, text, 7, 0)));
    CHECK_EQUAL(recv(server, text, 7, 0), 3, "what waited");
    CHECK_EQUAL(recv(server, text, 7, MSG_DONTWAIT), 0, "the end");
    MUST(send(server, "back", 4, 0));
    CHECK_EQUAL(recv(client, text, 7, 0), 4, "the other direction");
}

static void old_packet(void) {
    struct sockaddr device = {.sa_family = AF_PACKET, .sa_data = "lo"}, now;
    union address address;
    char packet[2048];
    int fd = socket(AF_PACKET, SOCK_PACKET, htons(ETH_P_IP));
    if (fd < 0) {
        object_put_file("result", "SKIP no packet sockets here\n");
        exit(0);
    }
    MUST(bind(fd, &device, sizeof device));
    int udp = bound_socket(AF_INET, SOCK_DGRAM, &address);
    object_ready_and_wait();
    SABOTAGE(MUST(dup2(udp, fd)));
    CHECK_EQUAL(get(fd, SOL_SOCKET, SO_TYPE), SOCK_PACKET, "type");
    socklen_t length = sizeof now;
    MUST(getsockname(fd, &now, &length));
    CHECK(strcmp(now.sa_data, "lo") == 0, "it is bound to %s", now.sa_data);
    MUST(sendto(udp, "x", 1, 0, &address.any, length_of(&address)));
    struct pollfd ready = {.fd = fd, .events = POLLIN};
    CHECK(poll(&ready, 1, 2000) == 1, "nothing arrives");
    CHECK(recv(fd, packet, sizeof packet, 0) > 20, "the packet is too short");
}

int main(int argc, char **argv) {
    static const struct {
        const char *name;
        void (*run)(void);
    } kinds[] = {{"options", options},
                 {"listening", listening},
                 {"datagram-end", datagram_end},
                 {"stream-end", stream_end},
                 {"old-packet", old_packet}};
    object_start(argc, argv);
    for (size_t i = 0; i < COUNT_OF(kinds); i++) {
        if (strcmp(argv[2], kinds[i].name) == 0) {
            kinds[i].run();
            object_pass();
        }
    }
    object_fail("no kind %s", argv[2]);
}
