// TCP sockets in less common circumstances; argv[2] names one. What the kernel does by itself on
// loopback is held up by queues that are full and by peers that do not accept.
#include <sys/ioctl.h>

#include "support/socket.h"

struct ends {
    int one, other;
};

static struct ends connect_pair(int family) {
    union address address;
    int listener = bound_socket(family, SOCK_STREAM, &address);
    MUST(listen(listener, 1));
    struct ends ends = {.one = connected_socket(&address, SOCK_STREAM)};
    ends.other = MUST(accept(listener, NULL, NULL));
    close(listener);
    return ends;
}

static int state_of(int fd) {
    struct tcp_info info;
    socklen_t length = sizeof info;
    MUST(getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &length));
    return info.tcpi_state;
}

/// A byte of urgent data between others, kept apart.
static void try_urgent(void) {
    struct ends ends = connect_pair(AF_INET);
    char byte = 0, text[8] = "";
    MUST(send(ends.one, "ab", 2, 0));
    MUST(send(ends.one, "!", 1, MSG_OOB));
    MUST(send(ends.one, "cd", 2, 0));
    object_sleep_ms(50);
    object_ready_and_wait();
    SABOTAGE(recv(ends.other, &byte, 1, MSG_OOB));
    CHECK(recv(ends.other, &byte, 1, MSG_OOB) == 1 && byte == '!', "urgent: %s", strerror(errno));
    CHECK_EQUAL(recv(ends.other, text, sizeof text, 0), 2, "length before the mark");
    CHECK_EQUAL(recv(ends.other, text + 2, 6, 0), 2, "length after the mark");
    CHECK(strcmp(text, "abcd") == 0, "it says %s", text);
    check_talk(ends.one, ends.other, "urgent");
}

static void try_urgent_inline(void) {
    struct ends ends = connect_pair(AF_INET);
    char text[8] = "";
    set_option(ends.other, SOL_SOCKET, SO_OOBINLINE, 1);
    MUST(send(ends.one, "ab", 2, 0));
    MUST(send(ends.one, "!", 1, MSG_OOB));
    object_sleep_ms(50);
    object_ready_and_wait();
    SABOTAGE(recv(ends.other, text, 1, 0));
    CHECK_EQUAL(recv(ends.other, text, sizeof text, 0), 2, "length before the mark");
    CHECK_EQUAL(MUST(sockatmark(ends.other)), 1, "at the mark");
    CHECK_EQUAL(recv(ends.other, text + 2, 6, 0), 1, "length at the mark");
    CHECK(strcmp(text, "ab!") == 0, "it says %s", text);
    check_talk(ends.one, ends.other, "urgent inline");
}

/// Urgent data that was read already.
static void try_urgent_read(void) {
    struct ends ends = connect_pair(AF_INET);
    char byte = 0, text[8] = "";
    MUST(send(ends.one, "ab", 2, 0));
    MUST(send(ends.one, "!", 1, MSG_OOB));
    MUST(send(ends.one, "cd", 2, 0));
    object_sleep_ms(50);
    MUST(recv(ends.other, &byte, 1, MSG_OOB));
    object_ready_and_wait();
    SABOTAGE(recv(ends.other, text, 1, 0));
    for (int got = 0; got < 4;) {
        ssize_t length = recv(ends.other, text + got, sizeof text - (size_t)got, MSG_DONTWAIT);
        CHECK(length > 0, "recv after %d bytes: %s", got, strerror(errno));
        got += (int)length;
    }
    CHECK(strcmp(text, "abcd") == 0, "it says %s", text);
    check_nothing(ends.other, "urgent, read");
    check_talk(ends.one, ends.other, "urgent, read");
}

/// A handshake that gets no answer, since the listener's queue is full.
static void try_syn_sent(void) {
    union address address;
    int listener = bound_socket(AF_INET, SOCK_STREAM, &address);
    MUST(listen(listener, 0));
    connected_socket(&address, SOCK_STREAM);
    int waiting[2];
    for (int i = 0; i < 2; i++) {
        waiting[i] = MUST(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0));
        int got = connect(waiting[i], &address.any, length_of(&address));
        CHECK(got == -1 && errno == EINPROGRESS, "connect gives %d: %s", got, strerror(errno));
    }
    object_sleep_ms(50);
    CHECK_EQUAL(state_of(waiting[1]), TCP_SYN_SENT, "state");
    object_ready_and_wait();
    SABOTAGE(close(waiting[1]); waiting[1] = MUST(socket(AF_INET, SOCK_STREAM, 0)));
    CHECK_EQUAL(state_of(waiting[1]), TCP_SYN_SENT, "state afterwards");
    for (int i = 0; i < 2; i++) {
        MUST(accept(listener, NULL, NULL));
    }
    struct pollfd poller = {.fd = waiting[1], .events = POLLOUT};
    CHECK_EQUAL(poll(&poller, 1, 10000), 1, "the connection comes about");
    CHECK_EQUAL(get_option(waiting[1], SOL_SOCKET, SO_ERROR), 0, "its error");
}

/// Both sides have closed while the queues were full: bytes, then the end, wait on each.
static void try_closing(void) {
    struct ends ends = connect_pair(AF_INET);
    size_t there = send_until_full(ends.one, 1), back = send_until_full(ends.other, 2);
    MUST(shutdown(ends.one, SHUT_WR));
    MUST(shutdown(ends.other, SHUT_WR));
    CHECK_EQUAL(state_of(ends.one), TCP_FIN_WAIT1, "state");
    object_ready_and_wait();
    SABOTAGE(char byte; recv(ends.one, &byte, 1, 0));
    receive_filled(ends.other, there, 1, "closing, there");
    receive_filled(ends.one, back, 2, "closing, back");
    check_end(ends.other, "closing, there");
    check_end(ends.one, "closing, back");
}

/// LAST_ACK: the peer ended first, and has not room for what is left.
static void try_last_ack(void) {
    struct ends ends = connect_pair(AF_INET);
    size_t there = send_until_full(ends.one, 1);
    MUST(shutdown(ends.other, SHUT_WR));
    object_sleep_ms(50);
    CHECK_EQUAL(state_of(ends.one), TCP_CLOSE_WAIT, "state");
    MUST(shutdown(ends.one, SHUT_WR));
    CHECK_EQUAL(state_of(ends.one), TCP_LAST_ACK, "state");
    object_ready_and_wait();
    SABOTAGE(char byte; recv(ends.other, &byte, 1, 0));
    check_end(ends.one, "last ack, back");
    receive_filled(ends.other, there, 1, "last ack, there");
    check_end(ends.other, "last ack, there");
}

/// Bytes that TCP_CORK holds back.
static void try_corked(void) {
    struct ends ends = connect_pair(AF_INET);
    set_option(ends.one, IPPROTO_TCP, TCP_CORK, 1);
    send_filled(ends.one, 100, 1);
    object_ready_and_wait();
    SABOTAGE(send_filled(ends.one, 8, 9));
    CHECK_EQUAL(get_option(ends.one, IPPROTO_TCP, TCP_CORK), 1, "TCP_CORK");
    set_option(ends.one, IPPROTO_TCP, TCP_CORK, 0);
    receive_filled(ends.other, 100, 1, "corked");
    check_talk(ends.one, ends.other, "corked");
}

/// A group of listeners on one port, each of which must go on taking connections.
static void try_reuseport(void) {
    enum { GROUP = 24 };
    union address address;
    socklen_t length = loopback(AF_INET, &address);
    int listeners[GROUP];
    for (int i = 0; i < GROUP; i++) {
        listeners[i] = MUST(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0));
        set_option(listeners[i], SOL_SOCKET, SO_REUSEPORT, 1);
        MUST(bind(listeners[i], &address.any, length));
        MUST(getsockname(listeners[i], &address.any, &length));
        MUST(listen(listeners[i], 8));
    }
    object_ready_and_wait();
    SABOTAGE(close(listeners[3]));
    int accepted = 0;
    for (int i = 0; i < 100; i++) {
        connected_socket(&address, SOCK_STREAM);
        for (int j = 0; j < GROUP; j++) {
            accepted += accept(listeners[j], NULL, NULL) >= 0;
        }
    }
    CHECK_EQUAL(accepted, 100, "connections accepted");
    for (int j = 0; j < GROUP; j++) {
        CHECK_EQUAL(get_option(listeners[j], SOL_SOCKET, SO_REUSEPORT), 1, "SO_REUSEPORT");
        CHECK_EQUAL(get_option(listeners[j], SOL_SOCKET, SO_ACCEPTCONN), 1, "SO_ACCEPTCONN");
    }
}

/// An error that nobody has asked for yet.
static void try_refused(void) {
    union address address;
    close(bound_socket(AF_INET, SOCK_STREAM, &address));
    int fd = MUST(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0));
    connect(fd, &address.any, length_of(&address));
    object_sleep_ms(50);
    object_ready_and_wait();
    SABOTAGE(get_option(fd, SOL_SOCKET, SO_ERROR));
    CHECK_EQUAL(get_option(fd, SOL_SOCKET, SO_ERROR), ECONNREFUSED, "the error");
}

/// An IPv6 socket that talks IPv4.
static void try_mapped(void) {
    union address address;
    socklen_t length = loopback(AF_INET6, &address);
    int listener = MUST(socket(AF_INET6, SOCK_STREAM, 0));
    inet_pton(AF_INET6, "::ffff:127.0.0.1", &address.v6.sin6_addr);
    MUST(bind(listener, &address.any, length));
    MUST(getsockname(listener, &address.any, &length));
    MUST(listen(listener, 4));
    union address plain;
    loopback(AF_INET, &plain);
    plain.v4.sin_port = address.v6.sin6_port;
    int one = connected_socket(&plain, SOCK_STREAM), other = MUST(accept(listener, NULL, NULL));
    send_filled(one, 3000, 4);
    object_sleep_ms(20);
    object_ready_and_wait();
    SABOTAGE(char byte; recv(other, &byte, 1, 0));
    receive_filled(other, 3000, 4, "mapped");
    check_talk(one, other, "mapped");
    one = connected_socket(&plain, SOCK_STREAM), other = MUST(accept(listener, NULL, NULL));
    check_talk(one, other, "mapped, afterwards");
}

/// Connected, written to and closed before anybody accepted.
static void try_unaccepted_closed(void) {
    union address address;
    int listener = bound_socket(AF_INET, SOCK_STREAM, &address);
    MUST(listen(listener, 4));
    int fd = connected_socket(&address, SOCK_STREAM);
    send_filled(fd, 100, 5);
    close(fd);
    object_sleep_ms(50);
    object_ready_and_wait();
    SABOTAGE(close(MUST(accept(listener, NULL, NULL))); connected_socket(&address, SOCK_STREAM));
    int other = MUST(accept(listener, NULL, NULL));
    receive_filled(other, 100, 5, "unaccepted, closed");
    check_end(other, "unaccepted, closed");
}

/// What the program sees of a connection that has ended completely: its addresses are gone.
static void try_ended(void) {
    struct ends ends = connect_pair(AF_INET);
    MUST(shutdown(ends.one, SHUT_RDWR));
    MUST(shutdown(ends.other, SHUT_RDWR));
    object_sleep_ms(50);
    object_ready_and_wait();
    SABOTAGE(close(ends.other); ends.other = MUST(socket(AF_INET, SOCK_STREAM, 0)));
    for (int i = 0; i < 2; i++) {
        int fd = i == 0 ? ends.one : ends.other;
        CHECK(send(fd, "x", 1, MSG_NOSIGNAL) == -1 && errno == EPIPE, "send: %s", strerror(errno));
        check_end(fd, "ended");
    }
}

/// MPTCP: a listener, as every program in Go has one, and a connection that fell back to TCP.
static void try_mptcp(void) {
    union address address;
    socklen_t length = loopback(AF_INET, &address);
    int listener = socket(AF_INET, SOCK_STREAM, IPPROTO_MPTCP);
    if (listener < 0) {
        object_put_file("result", "SKIP the kernel has no MPTCP\n");
        exit(0);
    }
    set_option(listener, SOL_SOCKET, SO_REUSEADDR, 1);
    MUST(bind(listener, &address.any, length));
    MUST(getsockname(listener, &address.any, &length));
    MUST(listen(listener, 4));
    int one = connected_socket(&address, SOCK_STREAM), other = MUST(accept(listener, NULL, NULL));
    send_filled(one, 3000, 4);
    send_filled(other, 2000, 5);
    object_sleep_ms(50);
    object_ready_and_wait();
    SABOTAGE(char byte; recv(other, &byte, 1, 0));
    CHECK_EQUAL(get_option(listener, SOL_SOCKET, SO_PROTOCOL), IPPROTO_MPTCP, "protocol");
    receive_filled(other, 3000, 4, "mptcp");
    receive_filled(one, 2000, 5, "mptcp");
    check_talk(one, other, "mptcp");
    one = connected_socket(&address, SOCK_STREAM), other = MUST(accept(listener, NULL, NULL));
    check_talk(one, other, "mptcp, afterwards");
}

static const struct {
    const char *name;
    void (*body)(void);
} kinds[] = {
    {"urgent", try_urgent},   {"urgent-inline", try_urgent_inline}, {"urgent-read", try_urgent_read},
    {"syn-sent", try_syn_sent}, {"closing", try_closing},           {"last-ack", try_last_ack},
    {"corked", try_corked},   {"reuseport", try_reuseport},         {"refused", try_refused},
    {"mapped", try_mapped},   {"unaccepted-closed", try_unaccepted_closed},
    {"ended", try_ended},     {"mptcp", try_mptcp},
};

int main(int argc, char **argv) {
    object_start(argc, argv);
    const char *kind = argc > 2 ? argv[2] : "urgent";
    for (size_t i = 0; i < COUNT_OF(kinds); i++) {
        if (strcmp(kind, kinds[i].name) == 0) {
            kinds[i].body();
            object_pass();
        }
    }
    object_fail("no kind %s", kind);
}
