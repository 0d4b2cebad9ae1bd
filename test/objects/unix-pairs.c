// Pairs of UNIX sockets: stream, datagram, seqpacket, with queued data in both directions, message
// borders, options, one side shut down, one side closed, and a pair held by two processes.
#include "support/socket.h"

static int across[2];

static void child(void *argument) {
    (void)argument;
    close(across[0]);
    send_filled(across[1], 3000, 7);
    object_child_wait();
    receive_filled(across[1], 2000, 8, "across, in the child");
    send_filled(across[1], 1000, 9);
}

int main(int argc, char **argv) {
    object_start(argc, argv);
    int stream[2], datagram[2], packets[2], half[2], closed[2], quiet[2];
    char text[256];
    MUST(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, stream));
    send_filled(stream[0], 100000, 1);
    send_filled(stream[1], 500, 2);
    char first[8];
    CHECK(recv(stream[1], first, 8, 0) == 8, "recv");
    MUST(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0, datagram));
    for (int i = 0; i < 5; i++) {
        send_filled(datagram[0], 100 + (size_t)i, 10 + (uint64_t)i);
    }
    MUST(send(datagram[0], "", 0, 0)); // an empty datagram is one too
    MUST(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, packets));
    send_filled(packets[1], 70, 20);
    send_filled(packets[1], 7, 21);
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, half));
    send_filled(half[0], 50, 30);
    MUST(shutdown(half[0], SHUT_WR));
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, closed));
    send_filled(closed[0], 60, 31);
    close(closed[0]);
    MUST(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, quiet));
    set_option(quiet[0], SOL_SOCKET, SO_PASSCRED, 1);
    set_option(quiet[0], SOL_SOCKET, SO_SNDBUF, 30000);
    int buffer = get_option(quiet[0], SOL_SOCKET, SO_SNDBUF);
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, across));
    object_fork(child, NULL);
    close(across[1]);
    send_filled(across[0], 2000, 8);
    object_ready_and_wait();
    SABOTAGE(CHECK(recv(datagram[1], text, sizeof text, 0) > 0, "recv"));
    char *rest = malloc(100000);
    object_fill(rest, 100000, 1);
    char *got = malloc(100000);
    CHECK_EQUAL(recv(stream[1], got, 99992, MSG_WAITALL), 99992, "length of the stream's rest");
    CHECK(memcmp(rest + 8, got, 99992) == 0, "the stream's rest differs");
    receive_filled(stream[0], 500, 2, "the stream's other direction");
    check_talk(stream[0], stream[1], "the stream");
    for (int i = 0; i < 5; i++) {
        CHECK_EQUAL(recv(datagram[1], text, sizeof text, 0), 100 + i, "length of a datagram");
        CHECK_FILLED(text, 100 + (size_t)i, 10 + (uint64_t)i, "a datagram");
    }
    CHECK_EQUAL(recv(datagram[1], text, sizeof text, 0), 0, "length of the empty datagram");
    check_nothing(datagram[1], "the datagrams");
    check_talk(datagram[1], datagram[0], "the datagram pair");
    CHECK_EQUAL(recv(packets[0], text, sizeof text, 0), 70, "length of a packet");
    CHECK_FILLED(text, 70, 20, "a packet");
    CHECK_EQUAL(recv(packets[0], text, sizeof text, 0), 7, "length of the second packet");
    check_talk(packets[0], packets[1], "the packet pair");
    receive_filled(half[1], 50, 30, "the half closed pair");
    check_end(half[1], "the half closed pair");
    CHECK(send(half[0], "x", 1, MSG_NOSIGNAL) == -1 && errno == EPIPE, "sending after shutdown");
    send_filled(half[1], 40, 32);
    receive_filled(half[0], 40, 32, "the half closed pair backwards");
    receive_filled(closed[1], 60, 31, "the pair whose other end is closed");
    check_end(closed[1], "the pair whose other end is closed");
    CHECK_EQUAL(get_option(quiet[0], SOL_SOCKET, SO_PASSCRED), 1, "SO_PASSCRED");
    CHECK_EQUAL(get_option(quiet[1], SOL_SOCKET, SO_PASSCRED), 0, "SO_PASSCRED of the other");
    CHECK_EQUAL(get_option(quiet[0], SOL_SOCKET, SO_SNDBUF), buffer, "SO_SNDBUF");
    CHECK((fcntl(quiet[1], F_GETFL) & O_NONBLOCK) != 0, "flags");
    receive_filled(across[0], 3000, 7, "across");
    object_join_all();
    receive_filled(across[0], 1000, 9, "across, afterwards");
    check_end(across[0], "across, after the child's end");
    object_pass();
}
