// UDP over IPv4 and IPv6: bound, connected, with queued datagrams, options. argv[2]: 4 or 6.
#include "support/socket.h"

static struct option options[] = {
    {SOL_SOCKET, SO_BROADCAST, 1}, {SOL_SOCKET, SO_RCVBUF, 77000}, {SOL_SOCKET, SO_REUSEPORT, 1},
    {SOL_SOCKET, SO_PRIORITY, 2},  {SOL_SOCKET, SO_REUSEADDR, 1},  {IPPROTO_IP, IP_TTL, 9},
    {IPPROTO_IP, IP_PKTINFO, 1},   {IPPROTO_IP, IP_MULTICAST_TTL, 4},
};
static struct option options6[] = {
    {SOL_SOCKET, SO_RCVBUF, 77000},
    {IPPROTO_IPV6, IPV6_RECVPKTINFO, 1},
    {IPPROTO_IPV6, IPV6_UNICAST_HOPS, 9},
    {IPPROTO_IPV6, IPV6_MULTICAST_HOPS, 4},
};

int main(int argc, char **argv) {
    object_start(argc, argv);
    int family = argc > 2 && argv[2][0] == '6' ? AF_INET6 : AF_INET;
    struct option *chosen = family == AF_INET6 ? options6 : options;
    size_t count = family == AF_INET6 ? COUNT_OF(options6) : COUNT_OF(options);
    union address address, client_address, now;
    char text[3000];
    int server = bound_socket(family, SOCK_DGRAM | SOCK_NONBLOCK, &address);
    set_options(server, chosen, count);
    note_options(server, chosen, count);
    int client = connected_socket(&address, SOCK_DGRAM);
    socklen_t length = sizeof client_address;
    MUST(getsockname(client, &client_address.any, &length));
    int unbound = MUST(socket(family, SOCK_DGRAM, 0));
    for (int i = 0; i < 4; i++) {
        send_filled(client, 700 + (size_t)i, 1 + (uint64_t)i);
    }
    object_sleep_ms(20);
    object_ready_and_wait();
    SABOTAGE(CHECK(recv(server, text, sizeof text, 0) > 0, "recv"));
    check_options(server, chosen, count, "the server");
    length = sizeof now;
    MUST(getsockname(server, &now.any, &length));
    check_same_address(&now, &address, length, "the server");
    length = sizeof now;
    MUST(getpeername(client, &now.any, &length));
    check_same_address(&now, &address, length, "the client's peer");
    length = sizeof now;
    MUST(getsockname(client, &now.any, &length));
    check_same_address(&now, &client_address, length, "the client");
    for (int i = 0; i < 4; i++) {
        union address from;
        length = sizeof from;
        CHECK_EQUAL(recvfrom(server, text, sizeof text, 0, &from.any, &length), 700 + i, "length");
        CHECK_FILLED(text, 700 + (size_t)i, 1 + (uint64_t)i, "a datagram");
        CHECK_EQUAL(from.v4.sin_port, client_address.v4.sin_port, "the sender's port");
    }
    check_nothing(server, "the server");
    send_filled(client, 100, 20);
    object_sleep_ms(20);
    CHECK_EQUAL(recv(server, text, sizeof text, 0), 100, "a datagram sent afterwards");
    MUST(sendto(server, "back", 4, 0, &client_address.any, length_of(&client_address)));
    CHECK_EQUAL(recv(client, text, sizeof text, 0), 4, "the answer");
    MUST(sendto(unbound, "hello", 5, 0, &address.any, length_of(&address)));
    object_sleep_ms(20);
    CHECK_EQUAL(recv(server, text, sizeof text, 0), 5, "a datagram from the unbound one");
    object_pass();
}
