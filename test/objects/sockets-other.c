// Sockets beside TCP, plain UDP and UNIX ones: netlink, packet, raw, UDP-Lite; multicast with
// chosen senders. Those that this kernel or container has not are passed over.
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <netinet/icmp6.h>
#include <netinet/ip_icmp.h>

#include "support/socket.h"

static char buffer[65536];

static int socket_or_leave(int domain, int type, int protocol) {
    int fd = socket(domain, type | SOCK_CLOEXEC, protocol);
    if (fd < 0) {
        object_pause();
        _exit(0);
    }
    return fd;
}

static void check_arrives(int fd, size_t length, const char *what) {
    struct pollfd poller = {.fd = fd, .events = POLLIN};
    CHECK(poll(&poller, 1, 2000) == 1, "%s: nothing arrives", what);
    CHECK_EQUAL(recv(fd, buffer, sizeof buffer, 0), length, what);
}

/// Groups (one beyond 32), a port number, options, a peer.
static void netlink(void) {
    int fd = socket_or_leave(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE);
    struct sockaddr_nl address = {.nl_family = AF_NETLINK, .nl_groups = RTMGRP_LINK}, before, now;
    socklen_t length = sizeof before;
    MUST(bind(fd, (struct sockaddr *)&address, sizeof address));
    set_option(fd, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, RTNLGRP_MDB);
    set_option(fd, SOL_NETLINK, NETLINK_PKTINFO, 1);
    set_option(fd, SOL_NETLINK, NETLINK_EXT_ACK, 1);
    set_option(fd, SOL_SOCKET, SO_RCVBUF, 100000);
    int size = get_option(fd, SOL_SOCKET, SO_RCVBUF);
    MUST(getsockname(fd, (struct sockaddr *)&before, &length));
    int one = socket_or_leave(AF_NETLINK, SOCK_DGRAM, NETLINK_USERSOCK);
    int other = socket_or_leave(AF_NETLINK, SOCK_DGRAM, NETLINK_USERSOCK);
    struct sockaddr_nl own = {.nl_family = AF_NETLINK, .nl_pid = 0}, theirs;
    MUST(bind(other, (struct sockaddr *)&own, sizeof own));
    length = sizeof theirs;
    MUST(getsockname(other, (struct sockaddr *)&theirs, &length));
    MUST(connect(one, (struct sockaddr *)&theirs, sizeof theirs));
    int unbound = socket_or_leave(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE);
    object_pause();
    SABOTAGE(set_option(fd, SOL_NETLINK, NETLINK_DROP_MEMBERSHIP, RTNLGRP_MDB));
    length = sizeof now;
    MUST(getsockname(fd, (struct sockaddr *)&now, &length));
    CHECK_EQUAL(now.nl_pid, before.nl_pid, "port");
    CHECK_EQUAL(now.nl_groups, before.nl_groups, "groups");
    uint32_t groups[8] = {0};
    length = sizeof groups;
    MUST(getsockopt(fd, SOL_NETLINK, NETLINK_LIST_MEMBERSHIPS, groups, &length));
    CHECK(groups[0] == before.nl_groups && (before.nl_groups >> (RTNLGRP_MDB - 1)) % 2 == 1,
          "the memberships are 0x%x", groups[0]);
    CHECK_EQUAL(get_option(fd, SOL_NETLINK, NETLINK_PKTINFO), 1, "NETLINK_PKTINFO");
    CHECK_EQUAL(get_option(fd, SOL_NETLINK, NETLINK_EXT_ACK), 1, "NETLINK_EXT_ACK");
    CHECK_EQUAL(get_option(fd, SOL_SOCKET, SO_RCVBUF), size, "SO_RCVBUF");
    length = sizeof now;
    MUST(getpeername(one, (struct sockaddr *)&now, &length));
    CHECK_EQUAL(now.nl_pid, theirs.nl_pid, "peer");
    struct nlmsghdr message = {.nlmsg_len = sizeof message, .nlmsg_type = NLMSG_NOOP};
    CHECK(send(one, &message, sizeof message, 0) == sizeof message, "send: %s", strerror(errno));
    check_arrives(other, sizeof message, "a message to a netlink socket");
    struct {
        struct nlmsghdr header;
        struct rtgenmsg body;
    } request = {{.nlmsg_len = sizeof request, .nlmsg_type = RTM_GETLINK,
                  .nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP}, {.rtgen_family = AF_UNSPEC}};
    CHECK(send(unbound, &request, sizeof request, 0) > 0, "send: %s", strerror(errno));
    CHECK(recv(unbound, buffer, sizeof buffer, 0) > 0, "no answer: %s", strerror(errno));
}

/// Bound to loopback for one kind of packet, with a membership, version, filter and options.
static void packet(void) {
    int fd = socket_or_leave(AF_PACKET, SOCK_DGRAM, 0);
    int loopback_index = (int)if_nametoindex("lo");
    struct sockaddr_ll address = {.sll_family = AF_PACKET, .sll_ifindex = loopback_index,
                                  .sll_protocol = htons(ETH_P_802_3)}, now;
    MUST(bind(fd, (struct sockaddr *)&address, sizeof address));
    struct packet_mreq request = {.mr_ifindex = loopback_index, .mr_type = PACKET_MR_PROMISC};
    MUST(setsockopt(fd, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &request, sizeof request));
    set_option(fd, SOL_PACKET, PACKET_AUXDATA, 1);
    set_option(fd, SOL_PACKET, PACKET_ORIGDEV, 1);
    set_option(fd, SOL_PACKET, PACKET_VERSION, TPACKET_V2);
    set_option(fd, SOL_PACKET, PACKET_RESERVE, 16);
    int plain = socket_or_leave(AF_PACKET, SOCK_RAW, 0);
    int ring = socket_or_leave(AF_PACKET, SOCK_RAW, 0);
    struct tpacket_req want = {.tp_block_size = 4096, .tp_block_nr = 4, .tp_frame_size = 2048,
                               .tp_frame_nr = 8};
    set_option(ring, SOL_PACKET, PACKET_VERSION, TPACKET_V2);
    MUST(setsockopt(ring, SOL_PACKET, PACKET_RX_RING, &want, sizeof want));
    int fans[2];
    for (int i = 0; i < 2; i++) {
        fans[i] = socket_or_leave(AF_PACKET, SOCK_RAW, htons(ETH_P_802_3));
        MUST(bind(fans[i], (struct sockaddr *)&address, sizeof address));
        set_option(fans[i], SOL_PACKET, PACKET_FANOUT, (getpid() & 0xffff) | PACKET_FANOUT_LB << 16);
    }
    int fanout = get_option(fans[1], SOL_PACKET, PACKET_FANOUT);
    object_pause();
    SABOTAGE(set_option(fd, SOL_PACKET, PACKET_AUXDATA, 0));
    socklen_t length = sizeof now;
    MUST(getsockname(fd, (struct sockaddr *)&now, &length));
    CHECK_EQUAL(now.sll_ifindex, loopback_index, "device");
    CHECK_EQUAL(now.sll_protocol, address.sll_protocol, "protocol");
    CHECK_EQUAL(get_option(fd, SOL_PACKET, PACKET_AUXDATA), 1, "PACKET_AUXDATA");
    CHECK_EQUAL(get_option(fd, SOL_PACKET, PACKET_ORIGDEV), 1, "PACKET_ORIGDEV");
    CHECK_EQUAL(get_option(fd, SOL_PACKET, PACKET_VERSION), TPACKET_V2, "PACKET_VERSION");
    CHECK_EQUAL(get_option(fd, SOL_PACKET, PACKET_RESERVE), 16, "PACKET_RESERVE");
    CHECK_EQUAL(get_option(fans[1], SOL_PACKET, PACKET_FANOUT), fanout, "PACKET_FANOUT");
    MUST(setsockopt(fd, SOL_PACKET, PACKET_DROP_MEMBERSHIP, &request, sizeof request));
    length = sizeof now;
    MUST(getsockname(plain, (struct sockaddr *)&now, &length));
    CHECK_EQUAL(now.sll_ifindex, 0, "device of a fresh one");
    char *memory = mmap(NULL, 4 * 4096, PROT_READ | PROT_WRITE, MAP_SHARED, ring, 0);
    CHECK(memory != MAP_FAILED, "the ring cannot be mapped: %s", strerror(errno));
    CHECK(setsockopt(ring, SOL_PACKET, PACKET_VERSION, &(int){0}, 4) < 0 && errno == EBUSY,
          "it has no ring");
    send(plain, buffer, 0, 0);
}

/// An echo request that goes through loopback comes to a raw socket.
static void raw(void) {
    int fd = socket_or_leave(AF_INET, SOCK_RAW, IPPROTO_ICMP);
    union address address;
    socklen_t length = loopback(AF_INET, &address);
    MUST(bind(fd, &address.any, length));
    MUST(connect(fd, &address.any, length));
    struct icmp_filter {
        uint32_t data;
    } filter = {.data = ~(1u << ICMP_ECHO)};
    MUST(setsockopt(fd, SOL_RAW, 1 /* ICMP_FILTER */, &filter, sizeof filter));
    set_option(fd, IPPROTO_IP, IP_TTL, 33);
    int header = socket_or_leave(AF_INET, SOCK_RAW, 253);
    set_option(header, IPPROTO_IP, IP_HDRINCL, 1);
    int six = socket_or_leave(AF_INET6, SOCK_RAW, IPPROTO_ICMPV6);
    struct icmp6_filter filter6, filter6_now;
    ICMP6_FILTER_SETBLOCKALL(&filter6);
    ICMP6_FILTER_SETPASS(ICMP6_ECHO_REQUEST, &filter6);
    MUST(setsockopt(six, IPPROTO_ICMPV6, ICMP6_FILTER, &filter6, sizeof filter6));
    object_pause();
    SABOTAGE(set_option(fd, IPPROTO_IP, IP_TTL, 1));
    struct icmphdr echo = {.type = ICMP_ECHO, .checksum = htons(0xf7ff)};
    CHECK(send(fd, &echo, sizeof echo, 0) == sizeof echo, "send: %s", strerror(errno));
    struct pollfd poller = {.fd = fd, .events = POLLIN};
    CHECK(poll(&poller, 1, 2000) == 1, "nothing arrives");
    do {
        CHECK_EQUAL(recv(fd, buffer, sizeof buffer, 0), 20 + sizeof echo, "length of a packet");
    } while (buffer[20] != ICMP_ECHO);
    CHECK_EQUAL(buffer[8], 33, "time to live");
    CHECK_EQUAL(get_option(header, IPPROTO_IP, IP_HDRINCL), 1, "IP_HDRINCL");
    CHECK_EQUAL(get_option(header, SOL_SOCKET, SO_PROTOCOL), 253, "protocol");
    uint32_t now;
    length = sizeof now;
    MUST(getsockopt(fd, SOL_RAW, 1, &now, &length));
    CHECK_EQUAL(now, filter.data, "ICMP_FILTER");
    length = sizeof filter6_now;
    MUST(getsockopt(six, IPPROTO_ICMPV6, ICMP6_FILTER, &filter6_now, &length));
    CHECK(memcmp(&filter6, &filter6_now, sizeof filter6) == 0, "ICMP6_FILTER differs");
}

/// UDP-Lite with its checksum coverage, connected, with a datagram waiting.
static void udp_lite(void) {
    enum { UDPLITE = 136, SEND_COVERAGE = 10, RECEIVE_COVERAGE = 11 };
    int fds[2];
    union address addresses[2];
    for (int i = 0; i < 2; i++) {
        fds[i] = socket_or_leave(AF_INET, SOCK_DGRAM, UDPLITE);
        socklen_t length = loopback(AF_INET, &addresses[i]);
        MUST(bind(fds[i], &addresses[i].any, length));
        MUST(getsockname(fds[i], &addresses[i].any, &length));
        set_option(fds[i], UDPLITE, SEND_COVERAGE, 20);
        set_option(fds[i], UDPLITE, RECEIVE_COVERAGE, 10);
    }
    MUST(connect(fds[0], &addresses[1].any, length_of(&addresses[1])));
    CHECK(send(fds[0], "waiting", 7, 0) == 7, "send: %s", strerror(errno));
    object_pause();
    SABOTAGE(set_option(fds[0], UDPLITE, SEND_COVERAGE, 8));
    CHECK_EQUAL(get_option(fds[0], UDPLITE, SEND_COVERAGE), 20, "UDPLITE_SEND_CSCOV");
    CHECK_EQUAL(get_option(fds[1], UDPLITE, RECEIVE_COVERAGE), 10, "UDPLITE_RECV_CSCOV");
    check_arrives(fds[1], 7, "what was waiting");
    CHECK(send(fds[0], "afterwards", 10, 0) == 10, "send: %s", strerror(errno));
    check_arrives(fds[1], 10, "a datagram");
}

/// Groups joined for all senders, for some, and for all but some.
static void multicast(void) {
    int fd = socket_or_leave(AF_INET, SOCK_DGRAM, 0);
    union address address;
    socklen_t length = loopback(AF_INET, &address);
    address.v4.sin_addr.s_addr = htonl(INADDR_ANY);
    MUST(bind(fd, &address.any, length));
    in_addr_t own = htonl(INADDR_LOOPBACK), groups[] = {
        inet_addr("239.1.2.3"), inet_addr("239.1.2.4"), inet_addr("239.1.2.5")};
    struct ip_mreqn all = {.imr_multiaddr.s_addr = groups[0], .imr_address.s_addr = own};
    MUST(setsockopt(fd, IPPROTO_IP, IP_ADD_MEMBERSHIP, &all, sizeof all));
    struct ip_mreq_source some = {.imr_multiaddr.s_addr = groups[1], .imr_interface.s_addr = own,
                                  .imr_sourceaddr.s_addr = inet_addr("10.1.1.1")};
    MUST(setsockopt(fd, IPPROTO_IP, IP_ADD_SOURCE_MEMBERSHIP, &some, sizeof some));
    some.imr_sourceaddr.s_addr = own;
    MUST(setsockopt(fd, IPPROTO_IP, IP_ADD_SOURCE_MEMBERSHIP, &some, sizeof some));
    all.imr_multiaddr.s_addr = groups[2];
    MUST(setsockopt(fd, IPPROTO_IP, IP_ADD_MEMBERSHIP, &all, sizeof all));
    some.imr_multiaddr.s_addr = groups[2];
    MUST(setsockopt(fd, IPPROTO_IP, IP_BLOCK_SOURCE, &some, sizeof some));
    set_option(fd, IPPROTO_IP, IP_MULTICAST_ALL, 0);
    MUST(setsockopt(fd, IPPROTO_IP, IP_MULTICAST_IF, &own, sizeof own));
    object_pause();
    some.imr_multiaddr.s_addr = groups[1];
    SABOTAGE(MUST(setsockopt(fd, IPPROTO_IP, IP_DROP_SOURCE_MEMBERSHIP, &some, sizeof some)));
    struct in_addr now;
    length = sizeof now;
    MUST(getsockopt(fd, IPPROTO_IP, IP_MULTICAST_IF, &now, &length));
    CHECK_EQUAL(now.s_addr, own, "IP_MULTICAST_IF");
    length = sizeof address.v4;
    MUST(getsockname(fd, &address.any, &length));
    for (int i = 0; i < 3; i++) {
        address.v4.sin_addr.s_addr = groups[i];
        CHECK_EQUAL(sendto(fd, "hello", 5 - i, 0, &address.any, length), 5 - i, "sendto");
    }
    check_arrives(fd, 5, "a datagram to the first group");
    check_arrives(fd, 4, "a datagram to the second group");
    object_sleep_ms(20);
    check_nothing(fd, "a datagram to the third group");
}

static const struct object_kind kinds[] = {
    {"netlink", netlink},   {"packet", packet},       {"raw", raw},
    {"udp-lite", udp_lite}, {"multicast", multicast},
};

int main(int argc, char **argv) {
    object_run_kinds(kinds, COUNT_OF(kinds), argc, argv);
}
