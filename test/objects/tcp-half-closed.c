// TCP connections in the states of closing: one direction shut down (FIN_WAIT2 and CLOSE_WAIT)
// with unread bytes before the end, the peer closed with bytes still unread, both shut down, and a
// reset by the peer that was not seen yet. argv[2]: half, closed, both, reset.
#include "support/socket.h"

struct ends {
    int one, other;
};

static struct ends connect_pair(void) {
    union address address;
    int listener = bound_socket(AF_INET, SOCK_STREAM, &address);
    MUST(listen(listener, 1));
    struct ends ends = {.one = connected_socket(&address, SOCK_STREAM)};
    ends.other = MUST(accept(listener, NULL, NULL));
    close(listener);
    return ends;
}

static void try_half(void) {
    struct ends half = connect_pair();
    send_filled(half.one, 3000, 1);
    send_filled(half.other, 400, 2);
    MUST(shutdown(half.one, SHUT_WR));
    object_sleep_ms(50);
    object_ready_and_wait();
    SABOTAGE(char byte; CHECK(recv(half.other, &byte, 1, 0) == 1, "recv"));
    receive_filled(half.other, 3000, 1, "half closed");
    check_end(half.other, "half closed");
    CHECK(send(half.one, "x", 1, MSG_NOSIGNAL) == -1 && errno == EPIPE, "sending after shutdown");
    receive_filled(half.one, 400, 2, "half closed, backwards");
    send_filled(half.other, 5000, 5);
    receive_filled(half.one, 5000, 5, "half closed, backwards, afterwards");
    close(half.other);
    check_end(half.one, "half closed, then closed");
}

static void try_closed(void) {
    struct ends closed = connect_pair();
    send_filled(closed.one, 600, 4);
    close(closed.one);
    object_sleep_ms(50);
    object_ready_and_wait();
    SABOTAGE(char byte; CHECK(recv(closed.other, &byte, 1, 0) == 1, "recv"));
    receive_filled(closed.other, 600, 4, "closed by the peer");
    check_end(closed.other, "closed by the peer");
}

static void try_both(void) {
    struct ends both = connect_pair();
    send_filled(both.one, 50, 3);
    MUST(shutdown(both.one, SHUT_WR));
    MUST(shutdown(both.other, SHUT_WR));
    object_sleep_ms(50);
    object_ready_and_wait();
    SABOTAGE(char byte; CHECK(recv(both.other, &byte, 1, 0) == 1, "recv"));
    receive_filled(both.other, 50, 3, "both shut down");
    check_end(both.other, "both shut down");
    check_end(both.one, "both shut down, other side");
    CHECK(send(both.other, "x", 1, MSG_NOSIGNAL) == -1 && errno == EPIPE, "sending after both");
}

static void try_reset(void) {
    struct ends reset = connect_pair();
    struct linger abort = {.l_onoff = 1, .l_linger = 0};
    char byte;
    MUST(setsockopt(reset.one, SOL_SOCKET, SO_LINGER, &abort, sizeof abort));
    close(reset.one);
    object_sleep_ms(50);
    object_ready_and_wait();
    SABOTAGE(CHECK(recv(reset.other, &byte, 1, 0) == -1, "recv"));
    CHECK(recv(reset.other, &byte, 1, 0) == -1 && errno == ECONNRESET, "recv after a reset: %s",
          strerror(errno));
}

int main(int argc, char **argv) {
    object_start(argc, argv);
    const char *kind = argc > 2 ? argv[2] : "half";
    if (strcmp(kind, "closed") == 0) {
        try_closed();
    } else if (strcmp(kind, "both") == 0) {
        try_both();
    } else if (strcmp(kind, "reset") == 0) {
        try_reset();
    } else {
        try_half();
    }
    object_pass();
}
