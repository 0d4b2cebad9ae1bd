// Options of established TCP connections: Nagle, keepalive, linger, buffers, timeouts, user time,
// marks; window scaling, timestamps, selective acknowledgement and the segment size they agreed on.
#include <linux/tcp.h>
#define _NETINET_TCP_H 1 // linux/tcp.h has struct tcp_info with all its fields
enum { ESTABLISHED = 1 };

#include "support/socket.h"

static struct option options[] = {
    {SOL_SOCKET, SO_KEEPALIVE, 1},        {SOL_SOCKET, SO_RCVBUF, 50000},
    {SOL_SOCKET, SO_SNDBUF, 60000},       {SOL_SOCKET, SO_OOBINLINE, 1},
    {SOL_SOCKET, SO_PRIORITY, 5},         {SOL_SOCKET, SO_RCVLOWAT, 3},
    {SOL_SOCKET, SO_MARK, 77},            {SOL_SOCKET, SO_REUSEADDR, 1},
    {SOL_SOCKET, SO_TIMESTAMP, 1},        {IPPROTO_TCP, TCP_NODELAY, 1},
    {IPPROTO_TCP, TCP_KEEPIDLE, 123},     {IPPROTO_TCP, TCP_KEEPINTVL, 45},
    {IPPROTO_TCP, TCP_KEEPCNT, 6},        {IPPROTO_TCP, TCP_USER_TIMEOUT, 54321},
    {IPPROTO_TCP, TCP_SYNCNT, 4},         {IPPROTO_TCP, TCP_LINGER2, 33},
    {IPPROTO_TCP, TCP_QUICKACK, 1},       {IPPROTO_TCP, TCP_NOTSENT_LOWAT, 8192},
    {IPPROTO_IP, IP_TOS, 0x10},           {IPPROTO_IP, IP_TTL, 44},
};

static struct tcp_info info_of(int fd) {
    struct tcp_info info;
    socklen_t length = sizeof info;
    memset(&info, 0, sizeof info);
    MUST(getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &length));
    return info;
}

static void set_times(int fd) {
    struct linger linger = {.l_onoff = 1, .l_linger = 9};
    struct timeval receive = {.tv_sec = 61, .tv_usec = 500000}, send = {.tv_sec = 62};
    MUST(setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger));
    MUST(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &receive, sizeof receive));
    MUST(setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &send, sizeof send));
}

static void check_times(int fd) {
    struct linger linger;
    struct timeval receive, send;
    socklen_t length = sizeof linger;
    MUST(getsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, &length));
    CHECK(linger.l_onoff == 1 && linger.l_linger == 9, "SO_LINGER");
    length = sizeof receive;
    MUST(getsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &receive, &length));
    CHECK(receive.tv_sec == 61 && receive.tv_usec == 500000, "SO_RCVTIMEO");
    MUST(getsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &send, &length));
    CHECK(send.tv_sec == 62 && send.tv_usec == 0, "SO_SNDTIMEO");
}

int main(int argc, char **argv) {
    object_start(argc, argv);
    union address address;
    char text[16] = "";
    socklen_t length = sizeof text;
    int listener = bound_socket(AF_INET, SOCK_STREAM, &address);
    MUST(listen(listener, 2));
    int client = connected_socket(&address, SOCK_STREAM), server = MUST(accept(listener, 0, 0));
    set_options(client, options, COUNT_OF(options));
    set_times(client);
    MUST(setsockopt(client, IPPROTO_TCP, TCP_CONGESTION, "reno", 4));
    int corked = connected_socket(&address, SOCK_STREAM), uncorked = MUST(accept(listener, 0, 0));
    set_option(corked, IPPROTO_TCP, TCP_CORK, 1);
    send_filled(corked, 100, 3); // stays in the queue, held back by the cork
    check_talk(client, server, "before");
    // SO_RCVLOWAT of 3 and the quick-ack mode change by themselves: the latter is not compared.
    struct option plain[COUNT_OF(options)];
    memcpy(plain, options, sizeof options);
    size_t count = 0;
    for (size_t i = 0; i < COUNT_OF(options); i++) {
        if (options[i].option != TCP_QUICKACK || options[i].level != IPPROTO_TCP) {
            plain[count++] = options[i];
        }
    }
    note_options(client, plain, count);
    int segment = get_option(client, IPPROTO_TCP, TCP_MAXSEG);
    struct tcp_info before = info_of(client);
    object_ready_and_wait();
    SABOTAGE(set_option(client, IPPROTO_TCP, TCP_KEEPIDLE, 7200));
    check_options(client, plain, count, "the client");
    check_times(client);
    CHECK_EQUAL(get_option(client, IPPROTO_TCP, TCP_MAXSEG), segment, "segment size");
    MUST(getsockopt(client, IPPROTO_TCP, TCP_CONGESTION, text, &length));
    CHECK(strcmp(text, "reno") == 0, "congestion control is %s", text);
    struct tcp_info after = info_of(client);
    CHECK_EQUAL(after.tcpi_state, ESTABLISHED, "state");
    CHECK_EQUAL(after.tcpi_options & 7, before.tcpi_options & 7, "timestamps, SACK, scaling");
    CHECK_EQUAL(after.tcpi_snd_wscale, before.tcpi_snd_wscale, "window scale of sending");
    CHECK_EQUAL(after.tcpi_rcv_wscale, before.tcpi_rcv_wscale, "window scale of receiving");
    check_talk(client, server, "afterwards");
    CHECK_EQUAL(get_option(corked, IPPROTO_TCP, TCP_CORK), 1, "TCP_CORK");
    set_option(corked, IPPROTO_TCP, TCP_CORK, 0);
    receive_filled(uncorked, 100, 3, "the bytes held back");
    object_pass();
}
