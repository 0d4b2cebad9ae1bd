// TCP sockets that listen: address, port, backlog, options, a connection that waits to be
// accepted (argv[3] = unaccepted), a bound socket that does not listen yet. argv[2]: 4 or 6.
#include "support/socket.h"

static struct option options[] = {
    {SOL_SOCKET, SO_REUSEADDR, 1},      {SOL_SOCKET, SO_KEEPALIVE, 1},
    {SOL_SOCKET, SO_RCVBUF, 40000},     {SOL_SOCKET, SO_PRIORITY, 3},
    {IPPROTO_TCP, TCP_DEFER_ACCEPT, 5}, {IPPROTO_TCP, TCP_FASTOPEN, 7},
    {IPPROTO_TCP, TCP_NODELAY, 1},
};

int main(int argc, char **argv) {
    object_start(argc, argv);
    int family = argc > 2 && argv[2][0] == '6' ? AF_INET6 : AF_INET;
    union address address, bound, optioned_address, now;
    int listener = bound_socket(family, SOCK_STREAM, &address);
    MUST(listen(listener, 3));
    int waiting = -1;
    if (argc > 3) {
        waiting = connected_socket(&address, SOCK_STREAM);
        send_filled(waiting, 700, 1);
    }
    int silent = bound_socket(family, SOCK_STREAM, &bound);
    int optioned = bound_socket(family, SOCK_STREAM | SOCK_NONBLOCK, &optioned_address);
    set_options(optioned, options, COUNT_OF(options));
    MUST(listen(optioned, 100));
    note_options(optioned, options, COUNT_OF(options));
    object_ready_and_wait();
    SABOTAGE(set_option(optioned, SOL_SOCKET, SO_KEEPALIVE, 0));
    socklen_t length = sizeof now;
    MUST(getsockname(listener, &now.any, &length));
    check_same_address(&now, &address, length, "the listener");
    CHECK_EQUAL(get_option(listener, SOL_SOCKET, SO_ACCEPTCONN), 1, "listening");
    CHECK_EQUAL(get_option(silent, SOL_SOCKET, SO_ACCEPTCONN), 0, "listening of the silent one");
    length = sizeof now;
    MUST(getsockname(silent, &now.any, &length));
    check_same_address(&now, &bound, length, "the silent one");
    check_options(optioned, options, COUNT_OF(options), "the listener with options");
    CHECK((fcntl(optioned, F_GETFL) & O_NONBLOCK) != 0, "flags");
    CHECK(accept(optioned, NULL, NULL) == -1 && errno == EAGAIN, "accept on the empty listener");
    // Both ends of the connection that is complete but not accepted are in the tree.
    if (waiting >= 0) {
        int accepted = MUST(accept(listener, NULL, NULL));
        receive_filled(accepted, 700, 1, "what came before accept");
        check_talk(accepted, waiting, "the connection accepted afterwards");
    }
    int fresh = connected_socket(&address, SOCK_STREAM);
    check_talk(fresh, MUST(accept(listener, NULL, NULL)), "a fresh connection");
    MUST(listen(silent, 1));
    fresh = connected_socket(&bound, SOCK_STREAM);
    check_talk(fresh, MUST(accept(silent, NULL, NULL)), "a connection to the silent one");
    object_pass();
}
