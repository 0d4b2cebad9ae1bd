// Datagram and UNIX sockets in less common circumstances; argv[2] names one.
#include <linux/bpf.h>
#include <linux/filter.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <net/if.h>

#include "support/socket.h"

#ifndef IPV6_FREEBIND
#define IPV6_FREEBIND 78
#endif

/// An address in the program's own directory.
static void name_address(union address *address, const char *name) {
    char path[PATH_MAX];
    object_path(path, name);
    memset(address, 0, sizeof *address);
    address->local.sun_family = AF_UNIX;
    snprintf(address->local.sun_path, sizeof address->local.sun_path, "%.100s", path);
}

/// A byte out of band between others of a UNIX stream.
static void try_unix_urgent(void) {
    int pair[2];
    char text[8] = "", byte = 0;
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
    MUST(send(pair[0], "ab", 2, 0));
    if (send(pair[0], "!", 1, MSG_OOB) != 1) {
        object_put_file("result", "SKIP the kernel has no urgent data on UNIX sockets\n");
        exit(0);
    }
    MUST(send(pair[0], "cd", 2, 0));
    object_ready_and_wait();
    SABOTAGE(recv(pair[1], &byte, 1, MSG_OOB));
    CHECK(recv(pair[1], &byte, 1, MSG_OOB) == 1 && byte == '!', "urgent: %s", strerror(errno));
    CHECK_EQUAL(recv(pair[1], text, sizeof text, 0), 2, "length before the mark");
    CHECK_EQUAL(recv(pair[1], text + 2, 6, 0), 2, "length after the mark");
    CHECK(strcmp(text, "abcd") == 0, "it says %s", text);
}

/// An answer of the kernel, of several messages, that was not read yet; of a member of a group or of none.
static void read_answer(int groups) {
    int fd = MUST(socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE)), size = 0;
    struct sockaddr_nl address = {.nl_family = AF_NETLINK, .nl_groups = (uint32_t)groups};
    MUST(bind(fd, (struct sockaddr *)&address, sizeof address));
    struct {
        struct nlmsghdr header;
        struct rtgenmsg body;
    } request = {{.nlmsg_len = sizeof request, .nlmsg_type = RTM_GETLINK,
                  .nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP, .nlmsg_seq = 7}, {.rtgen_family = AF_UNSPEC}};
    static char answer[32768];
    struct nlmsghdr *first = (struct nlmsghdr *)answer;
    MUST(send(fd, &request, sizeof request, 0));
    object_ready_and_wait();
    SABOTAGE(recv(fd, answer, sizeof answer, 0));
    for (int parts = 0; parts == 0 || first->nlmsg_type != NLMSG_DONE; parts++) {
        size = (int)recv(fd, answer, sizeof answer, MSG_DONTWAIT);
        CHECK(size > 0, "part %d of the answer: %s", parts, strerror(errno));
        CHECK(first->nlmsg_seq == 7, "it answers %u", first->nlmsg_seq);
        int index = ((struct ifinfomsg *)(first + 1))->ifi_index;
        CHECK(parts > 0 || (first->nlmsg_type == RTM_NEWLINK && index == 1),
              "it begins with type %u, device %d", first->nlmsg_type, index);
    }
}

static void try_netlink_answer(void) { read_answer(0); }

static void try_netlink_member(void) { read_answer(RTMGRP_NOTIFY); }

/// The kernel gets it too, and has nobody who would read it.
static void send_to_group(int fd, const struct nlmsghdr *message) {
    struct sockaddr_nl address = {.nl_family = AF_NETLINK, .nl_groups = 2};
    ssize_t sent = sendto(fd, message, sizeof *message, 0, (struct sockaddr *)&address, sizeof address);
    CHECK(sent == sizeof *message || errno == ECONNREFUSED, "sendto: %s", strerror(errno));
}

/// What went to a group may be lost, and what comes then is not.
static void try_netlink_notice(void) {
    int fd = MUST(socket(AF_NETLINK, SOCK_DGRAM, NETLINK_USERSOCK));
    int other = MUST(socket(AF_NETLINK, SOCK_DGRAM, NETLINK_USERSOCK));
    struct sockaddr_nl address = {.nl_family = AF_NETLINK, .nl_groups = 2};
    struct nlmsghdr message = {.nlmsg_len = sizeof message, .nlmsg_type = NLMSG_NOOP}, got;
    MUST(bind(fd, (struct sockaddr *)&address, sizeof address));
    send_to_group(other, &message);
    object_ready_and_wait();
    while (recv(fd, &got, sizeof got, MSG_DONTWAIT) > 0) {
    }
    SABOTAGE(close(fd));
    message.nlmsg_seq = 9;
    send_to_group(other, &message);
    CHECK_EQUAL(recv(fd, &got, sizeof got, MSG_DONTWAIT), sizeof got, "length of the message");
    CHECK_EQUAL(got.nlmsg_seq, 9, "its number");
}

/// Parts of a datagram that wait for the rest (UDP_CORK).
static void try_udp_corked(void) {
    union address address;
    char text[16] = "";
    int fd = bound_socket(AF_INET, SOCK_DGRAM, &address);
    int sender = connected_socket(&address, SOCK_DGRAM);
    set_option(sender, IPPROTO_UDP, 1, 1);
    MUST(send(sender, "first ", 6, 0));
    MUST(send(sender, "second", 6, 0));
    object_ready_and_wait();
    SABOTAGE(close(sender); sender = connected_socket(&address, SOCK_DGRAM));
    check_nothing(fd, "corked");
    set_option(sender, IPPROTO_UDP, 1, 0);
    CHECK_EQUAL(recv(fd, text, sizeof text, MSG_DONTWAIT), 12, "length");
    CHECK(strcmp(text, "first second") == 0, "it says %s", text);
}

static void try_udp_reuseport(void) {
    enum { GROUP = 16 };
    union address address;
    socklen_t length = loopback(AF_INET, &address);
    int group[GROUP], got = 0;
    for (int i = 0; i < GROUP; i++) {
        group[i] = MUST(socket(AF_INET, SOCK_DGRAM, 0));
        set_option(group[i], SOL_SOCKET, SO_REUSEPORT, 1);
        MUST(bind(group[i], &address.any, length));
        MUST(getsockname(group[i], &address.any, &length));
    }
    for (int i = 0; i < 100; i++) {
        MUST(send(connected_socket(&address, SOCK_DGRAM), "x", 1, 0));
    }
    object_ready_and_wait();
    SABOTAGE(close(group[2]));
    for (int i = 0; i < GROUP; i++) {
        char byte;
        while (recv(group[i], &byte, 1, MSG_DONTWAIT) == 1) {
            got++;
        }
    }
    CHECK_EQUAL(got, 100, "datagrams");
}

/// An ICMP error that waits for the next call.
static void try_udp_refused(void) {
    union address address;
    close(bound_socket(AF_INET, SOCK_DGRAM, &address));
    int fd = connected_socket(&address, SOCK_DGRAM);
    MUST(send(fd, "x", 1, 0));
    object_sleep_ms(20);
    object_ready_and_wait();
    SABOTAGE(get_option(fd, SOL_SOCKET, SO_ERROR));
    CHECK_EQUAL(get_option(fd, SOL_SOCKET, SO_ERROR), ECONNREFUSED, "the error");
}

/// A filter that lets only long datagrams through, and cannot be taken off again.
static void try_filter_locked(void) {
    union address address;
    char text[64];
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_LEN, 0),
        BPF_JUMP(BPF_JMP | BPF_JGT | BPF_K, 8 + 10, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, 0xffff),
        BPF_STMT(BPF_RET | BPF_K, 0),
    };
    struct sock_fprog program = {COUNT_OF(code), code};
    int fd = bound_socket(AF_INET, SOCK_DGRAM, &address), none = 0;
    MUST(setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program));
    set_option(fd, SOL_SOCKET, SO_LOCK_FILTER, 1);
    int sender = connected_socket(&address, SOCK_DGRAM);
    object_ready_and_wait();
    SABOTAGE(close(fd); fd = bound_socket(AF_INET, SOCK_DGRAM, &address);
             sender = connected_socket(&address, SOCK_DGRAM));
    MUST(send(sender, "short", 5, 0));
    MUST(send(sender, "a long datagram", 15, 0));
    CHECK_EQUAL(recv(fd, text, sizeof text, MSG_DONTWAIT), 15, "length of what came through");
    CHECK(setsockopt(fd, SOL_SOCKET, SO_DETACH_FILTER, &none, sizeof none) == -1 && errno == EPERM,
          "the filter is not locked");
}

/// An eBPF program that drops everything.
static void try_filter_ebpf(void) {
    struct bpf_insn code[] = {
        {.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 0, .imm = 0},
        {.code = BPF_JMP | BPF_EXIT},
    };
    union bpf_attr attributes = {.prog_type = BPF_PROG_TYPE_SOCKET_FILTER, .insn_cnt = COUNT_OF(code)};
    attributes.insns = (uintptr_t)code;
    attributes.license = (uintptr_t) "GPL";
    union address address;
    int fd = bound_socket(AF_INET, SOCK_DGRAM, &address);
    int program = (int)syscall(SYS_bpf, BPF_PROG_LOAD, &attributes, sizeof attributes);
    if (program < 0) {
        object_put_file("result", "SKIP bpf(2) is not available\n");
        exit(0);
    }
    MUST(setsockopt(fd, SOL_SOCKET, SO_ATTACH_BPF, &program, sizeof program));
    close(program);
    object_ready_and_wait();
    SABOTAGE(setsockopt(fd, SOL_SOCKET, SO_DETACH_BPF, &program, sizeof program));
    MUST(send(connected_socket(&address, SOCK_DGRAM), "x", 1, 0));
    check_nothing(fd, "filtered");
}

/// Sequenced packets on a connection that nobody has accepted.
static void try_seqpacket_unaccepted(void) {
    union address address;
    char text[16] = "";
    name_address(&address, "socket");
    int listener = MUST(socket(AF_UNIX, SOCK_SEQPACKET, 0));
    MUST(bind(listener, &address.any, sizeof address.local));
    MUST(listen(listener, 4));
    int fd = MUST(socket(AF_UNIX, SOCK_SEQPACKET, 0));
    MUST(connect(fd, &address.any, sizeof address.local));
    object_ready_and_wait();
    SABOTAGE(close(fd); fd = MUST(socket(AF_UNIX, SOCK_SEQPACKET, 0)));
    MUST(send(fd, "one", 3, MSG_NOSIGNAL));
    MUST(send(fd, "two", 3, MSG_NOSIGNAL));
    int other = MUST(accept(listener, NULL, NULL));
    CHECK_EQUAL(recv(other, text, sizeof text, 0), 3, "length");
    CHECK_EQUAL(recv(other, text + 3, 8, 0), 3, "length");
    CHECK(strcmp(text, "onetwo") == 0, "it says %s", text);
}

/// Datagrams to a socket whose name and folder are gone.
static void try_unix_lost_folder(void) {
    union address address = {.local = {.sun_family = AF_UNIX}}, now;
    char folder[PATH_MAX], text[16] = "";
    socklen_t length = sizeof now;
    MUST(mkdir(object_path(folder, "folder"), 0755));
    name_address(&address, "folder/socket");
    int fd = MUST(socket(AF_UNIX, SOCK_DGRAM, 0)), sender = MUST(socket(AF_UNIX, SOCK_DGRAM, 0));
    MUST(bind(fd, &address.any, sizeof address.local));
    MUST(connect(sender, &address.any, sizeof address.local));
    MUST(unlink(address.local.sun_path));
    MUST(rmdir(folder));
    MUST(send(sender, "before", 6, 0));
    object_ready_and_wait();
    SABOTAGE(recv(fd, text, sizeof text, 0));
    MUST(send(sender, "after", 5, 0));
    CHECK_EQUAL(recv(fd, text, sizeof text, MSG_DONTWAIT), 6, "length");
    CHECK_EQUAL(recv(fd, text + 6, 8, MSG_DONTWAIT), 5, "length");
    CHECK(strcmp(text, "beforeafter") == 0, "it says %s", text);
    memset(&now, 0, sizeof now);
    MUST(getsockname(fd, &now.any, &length));
    CHECK(strcmp(now.local.sun_path, address.local.sun_path) == 0, "its name is %s", now.local.sun_path);
    CHECK(access(folder, F_OK) == -1, "the folder is there");
}

/// Abstract names with bytes of zero in them, a stream and datagrams.
static void try_unix_abstract(void) {
    union address address = {.local = {.sun_family = AF_UNIX}};
    socklen_t length = (socklen_t)offsetof(struct sockaddr_un, sun_path) + 40;
    snprintf(address.local.sun_path + 1, 30, "ferry-test-%d", getpid());
    address.local.sun_path[35] = 'x';
    int listener = MUST(socket(AF_UNIX, SOCK_STREAM, 0));
    MUST(bind(listener, &address.any, length));
    MUST(listen(listener, 4));
    int one = MUST(socket(AF_UNIX, SOCK_STREAM, 0));
    MUST(connect(one, &address.any, length));
    int other = MUST(accept(listener, NULL, NULL));
    send_filled(one, 1000, 3);
    object_ready_and_wait();
    SABOTAGE(close(listener));
    receive_filled(other, 1000, 3, "abstract");
    check_talk(one, other, "abstract");
    one = MUST(socket(AF_UNIX, SOCK_STREAM, 0));
    MUST(connect(one, &address.any, length));
    check_talk(one, MUST(accept(listener, NULL, NULL)), "abstract, afterwards");
}

/// Datagrams from a socket without a name, and empty ones.
static void try_unix_senders(void) {
    int pair[2], third = MUST(socket(AF_UNIX, SOCK_DGRAM, 0));
    union address address = {.local = {.sun_family = AF_UNIX}};
    char text[64];
    name_address(&address, "name");
    MUST(socketpair(AF_UNIX, SOCK_DGRAM, 0, pair));
    int fd = MUST(socket(AF_UNIX, SOCK_DGRAM, 0));
    MUST(bind(fd, &address.any, sizeof address.local));
    MUST(sendto(third, "nameless", 8, 0, &address.any, sizeof address.local));
    MUST(sendto(pair[0], "", 0, 0, NULL, 0));
    MUST(send(pair[0], "pair", 4, 0));
    object_ready_and_wait();
    SABOTAGE(recv(pair[1], text, sizeof text, 0));
    CHECK_EQUAL(recv(fd, text, sizeof text, MSG_DONTWAIT), 8, "length");
    CHECK_EQUAL(recv(pair[1], text, sizeof text, MSG_DONTWAIT), 0, "length of the empty one");
    CHECK_EQUAL(recv(pair[1], text, sizeof text, MSG_DONTWAIT), 4, "length");
}

/// Connected to the broadcast address, which takes SO_BROADCAST.
static void try_broadcast(void) {
    struct sockaddr_in everybody = {.sin_family = AF_INET, .sin_port = htons(9)}, now;
    socklen_t length = sizeof now;
    int fd = MUST(socket(AF_INET, SOCK_DGRAM, 0));
    everybody.sin_addr.s_addr = htonl(INADDR_BROADCAST);
    set_option(fd, SOL_SOCKET, SO_BROADCAST, 1);
    if (connect(fd, (struct sockaddr *)&everybody, sizeof everybody) < 0) {
        object_put_file("result", "SKIP there is no network\n");
        exit(0);
    }
    object_ready_and_wait();
    SABOTAGE(set_option(fd, SOL_SOCKET, SO_BROADCAST, 0));
    CHECK_EQUAL(get_option(fd, SOL_SOCKET, SO_BROADCAST), 1, "SO_BROADCAST");
    MUST(getpeername(fd, (struct sockaddr *)&now, &length));
    CHECK_EQUAL(now.sin_addr.s_addr, everybody.sin_addr.s_addr, "peer");
}

/// Mapped rings of a packet socket, for receiving and for sending, that two processes have.
static struct {
    int fd, index;
    char *ring;
} packets;

static bool arrives_in_ring(void) {
    union address address;
    bound_socket(AF_INET, SOCK_DGRAM, &address);
    send_filled(connected_socket(&address, SOCK_DGRAM), 10, 1);
    struct pollfd poller = {.fd = packets.fd, .events = POLLIN};
    return poll(&poller, 1, 1000) == 1 &&
           (*(volatile unsigned *)packets.ring & TP_STATUS_USER) != 0;
}

static void ring_child(void *argument) {
    (void)argument;
    object_child_wait();
    CHECK((*(volatile unsigned *)packets.ring & TP_STATUS_USER) != 0, "the child has another ring");
}

static void try_packet_ring(void) {
    struct tpacket_req receive = {
        .tp_block_size = PAGE, .tp_block_nr = 2, .tp_frame_size = 2048, .tp_frame_nr = 4};
    packets.fd = socket(AF_PACKET, SOCK_RAW, 0);
    if (packets.fd < 0 ||
        setsockopt(packets.fd, SOL_PACKET, PACKET_RX_RING, &receive, sizeof receive) != 0) {
        object_put_file("result", "SKIP no packet rings\n");
        exit(0);
    }
    MUST(setsockopt(packets.fd, SOL_PACKET, PACKET_TX_RING, &receive, sizeof receive));
    packets.ring = object_map(4 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, packets.fd, 0);
    packets.index = (int)if_nametoindex("lo");
    pid_t child = object_fork(ring_child, NULL);
    object_ready_and_wait();
    SABOTAGE(packets.ring = object_map(4 * PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    struct sockaddr_ll address = {
        .sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL), .sll_ifindex = packets.index};
    MUST(bind(packets.fd, (struct sockaddr *)&address, sizeof address));
    CHECK(arrives_in_ring(), "nothing arrives in the ring");
    object_join(child);
    unsigned status;
    memcpy(&status, packets.ring + 2 * PAGE, sizeof status);
    CHECK_EQUAL(status, TP_STATUS_AVAILABLE, "the ring for sending");
}

/// Bound to an address that the host has not, with an option that was then taken back.
static void try_freebind(int family) {
    union address address, now;
    socklen_t length = loopback(family, &address), size = sizeof now;
    int level = family == AF_INET6 ? IPPROTO_IPV6 : IPPROTO_IP;
    int option = family == AF_INET6 ? IPV6_FREEBIND : IP_FREEBIND;
    int fd = MUST(socket(family, SOCK_STREAM, 0));
    if (family == AF_INET6) {
        inet_pton(AF_INET6, "2001:db8::77", &address.v6.sin6_addr);
    } else {
        inet_pton(AF_INET, "192.0.2.177", &address.v4.sin_addr);
    }
    set_option(fd, level, option, 1);
    MUST(bind(fd, &address.any, length));
    set_option(fd, level, option, 0);
    MUST(listen(fd, 3));
    object_ready_and_wait();
    SABOTAGE(set_option(fd, level, option, 1));
    CHECK_EQUAL(get_option(fd, level, option), 0, "IP_FREEBIND");
    CHECK_EQUAL(get_option(fd, SOL_SOCKET, SO_ACCEPTCONN), 1, "SO_ACCEPTCONN");
    MUST(getsockname(fd, &now.any, &size));
    CHECK(memcmp(&now.v6.sin6_addr, &address.v6.sin6_addr, family == AF_INET6 ? 16 : 0) == 0 &&
              (family == AF_INET6 || now.v4.sin_addr.s_addr == address.v4.sin_addr.s_addr),
          "it is bound to another address");
}

static void try_freebind4(void) {
    try_freebind(AF_INET);
}

static void try_freebind6(void) {
    try_freebind(AF_INET6);
}

/// Options of the IP header that go out with each packet, and what of it is told with each.
static void try_headers(void) {
    static const unsigned char record_route[8] = {7, 7, 4}, destination[8] = {0, 0, 1, 4};
    static const int wanted[] = {IPV6_RECVHOPOPTS, IPV6_RECVRTHDR, IPV6_RECVDSTOPTS};
    unsigned char got[64];
    socklen_t length = sizeof got;
    int four = MUST(socket(AF_INET, SOCK_DGRAM, 0)), six = MUST(socket(AF_INET6, SOCK_DGRAM, 0));
    MUST(setsockopt(four, IPPROTO_IP, IP_OPTIONS, record_route, sizeof record_route));
    MUST(setsockopt(six, IPPROTO_IPV6, IPV6_DSTOPTS, destination, sizeof destination));
    for (size_t i = 0; i < COUNT_OF(wanted); i++) {
        set_option(six, IPPROTO_IPV6, wanted[i], 1);
    }
    object_ready_and_wait();
    SABOTAGE(MUST(setsockopt(four, IPPROTO_IP, IP_OPTIONS, NULL, 0)));
    MUST(getsockopt(four, IPPROTO_IP, IP_OPTIONS, got, &length));
    CHECK(length == 8 && memcmp(got, record_route, 8) == 0, "IP_OPTIONS has %u bytes", length);
    length = sizeof got;
    MUST(getsockopt(six, IPPROTO_IPV6, IPV6_DSTOPTS, got, &length));
    CHECK(length == 8 && memcmp(got + 1, destination + 1, 7) == 0, "IPV6_DSTOPTS has %u bytes", length);
    for (size_t i = 0; i < COUNT_OF(wanted); i++) {
        CHECK_EQUAL(get_option(six, IPPROTO_IPV6, wanted[i]), 1, "IPV6_RECV...");
    }
}

static const struct {
    const char *name;
    void (*body)(void);
} kinds[] = {
    {"broadcast", try_broadcast},
    {"freebind", try_freebind4},
    {"freebind6", try_freebind6},
    {"headers", try_headers},
    {"unix-urgent", try_unix_urgent},
    {"udp-corked", try_udp_corked},
    {"netlink-answer", try_netlink_answer},
    {"netlink-member", try_netlink_member},
    {"netlink-notice", try_netlink_notice},
    {"udp-reuseport", try_udp_reuseport},
    {"udp-refused", try_udp_refused},
    {"packet-ring", try_packet_ring},
    {"filter-locked", try_filter_locked},
    {"filter-ebpf", try_filter_ebpf},
    {"seqpacket-unaccepted", try_seqpacket_unaccepted},
    {"unix-lost-folder", try_unix_lost_folder},
    {"unix-abstract", try_unix_abstract},
    {"unix-senders", try_unix_senders},
};

int main(int argc, char **argv) {
    object_start(argc, argv);
    const char *kind = argc > 2 ? argv[2] : "unix-urgent";
    for (size_t i = 0; i < COUNT_OF(kinds); i++) {
        if (strcmp(kind, kinds[i].name) == 0) {
            kinds[i].body();
            object_pass();
        }
    }
    object_fail("no kind %s", kind);
}
