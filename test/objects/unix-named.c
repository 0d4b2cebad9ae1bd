// UNIX sockets with names in the file system and abstract ones: listening, connected (with queued
// data), a bound datagram socket with queued datagrams, and (argv[2] = unaccepted, or
// unaccepted-data) connections that were not accepted yet, without or with data sent already.
#include "support/socket.h"

static socklen_t name(union address *address, const char *text, bool is_abstract) {
    memset(address, 0, sizeof *address);
    address->local.sun_family = AF_UNIX;
    char path[PATH_MAX], *target = address->local.sun_path + is_abstract;
    snprintf(target, sizeof address->local.sun_path - 1, "%s",
             is_abstract ? text : object_path(path, text));
    return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + is_abstract + strlen(target) +
                       !is_abstract);
}

static bool has_unaccepted, has_early_data;

struct side {
    union address address;
    socklen_t length;
    int listener, client, server, waiting;
};

static void set_up(struct side *side, const char *text, bool is_abstract, uint64_t seed) {
    side->length = name(&side->address, text, is_abstract);
    side->listener = MUST(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    MUST(bind(side->listener, &side->address.any, side->length));
    MUST(listen(side->listener, 5));
    side->client = MUST(socket(AF_UNIX, SOCK_STREAM, 0));
    MUST(connect(side->client, &side->address.any, side->length));
    side->server = MUST(accept4(side->listener, NULL, NULL, SOCK_CLOEXEC));
    send_filled(side->client, 4000, seed);
    send_filled(side->server, 3000, seed + 1);
    if (has_unaccepted) {
        side->waiting = MUST(socket(AF_UNIX, SOCK_STREAM, 0));
        MUST(connect(side->waiting, &side->address.any, side->length));
        if (has_early_data) {
            send_filled(side->waiting, 200, seed + 2);
        }
    }
}

static void check(struct side *side, uint64_t seed, const char *what) {
    union address address;
    socklen_t length = sizeof address;
    MUST(getsockname(side->listener, &address.any, &length));
    CHECK_EQUAL(length, side->length, "length of the listener's name");
    check_same_address(&address, &side->address, length, what);
    CHECK_EQUAL(get_option(side->listener, SOL_SOCKET, SO_ACCEPTCONN), 1, "listening");
    receive_filled(side->server, 4000, seed, what);
    receive_filled(side->client, 3000, seed + 1, what);
    check_talk(side->server, side->client, what);
    length = sizeof address;
    MUST(getpeername(side->client, &address.any, &length));
    CHECK(length == side->length, "%s: the peer's name has length %u, want %u", what, length,
          side->length);
    check_same_address(&address, &side->address, length, what);
    if (has_unaccepted) {
        int accepted = MUST(accept(side->listener, NULL, NULL));
        if (has_early_data) {
            receive_filled(accepted, 200, seed + 2, "what came before accept");
        }
        check_talk(accepted, side->waiting, "the connection accepted afterwards");
    }
    int fresh = MUST(socket(AF_UNIX, SOCK_STREAM, 0));
    MUST(connect(fresh, &side->address.any, side->length));
    check_talk(fresh, MUST(accept(side->listener, NULL, NULL)), "a fresh connection");
    struct ucred peer;
    length = sizeof peer;
    MUST(getsockopt(side->client, SOL_SOCKET, SO_PEERCRED, &peer, &length));
    CHECK_EQUAL(peer.pid, getpid(), "pid of the peer");
}

int main(int argc, char **argv) {
    object_start(argc, argv);
    struct side file, hidden;
    has_unaccepted = argc > 2;
    has_early_data = argc > 2 && strcmp(argv[2], "unaccepted-data") == 0;
    char text[64];
    snprintf(text, sizeof text, "ferry test %d", getpid());
    set_up(&file, "socket", false, 1);
    set_up(&hidden, text, true, 11);
    union address mailbox, sender;
    socklen_t mailbox_length = name(&mailbox, "mailbox", false);
    socklen_t sender_length = name(&sender, "sender", false), got_length = sizeof sender;
    int inbox = MUST(socket(AF_UNIX, SOCK_DGRAM, 0)), outbox = MUST(socket(AF_UNIX, SOCK_DGRAM, 0));
    MUST(bind(inbox, &mailbox.any, mailbox_length));
    MUST(bind(outbox, &sender.any, sender_length));
    MUST(connect(outbox, &mailbox.any, mailbox_length));
    send_filled(outbox, 30, 21);
    send_filled(outbox, 40, 22);
    object_ready_and_wait();
    SABOTAGE(CHECK(recv(inbox, text, sizeof text, 0) > 0, "recv"));
    check(&file, 1, "named");
    check(&hidden, 11, "abstract");
    union address from;
    memset(&from, 0, sizeof from);
    got_length = sizeof from;
    CHECK_EQUAL(recvfrom(inbox, text, sizeof text, 0, &from.any, &got_length), 30, "a datagram");
    CHECK_FILLED(text, 30, 21, "a datagram");
    CHECK_EQUAL(got_length, sender_length, "length of the sender's name");
    check_same_address(&from, &sender, sender_length, "the sender");
    CHECK_EQUAL(recv(inbox, text, sizeof text, 0), 40, "the second datagram");
    check_nothing(inbox, "the mailbox");
    send_filled(outbox, 50, 23);
    CHECK_EQUAL(recv(inbox, text, sizeof text, 0), 50, "a datagram sent afterwards");
    object_pass();
}
