// Connections that nobody has accepted yet and that carry data already: of clients that are there, have shut down their
// sending side, or have closed the connection. They are accepted in their order, with all that was sent and as what it
// was sent. argv[2] names the kind.
#include "support/socket.h"

enum { CLIENTS = 4, LARGE = 60000, BACKLOG = 8 };

static union address address;
static socklen_t length;

static int listen_local(int type) {
    memset(&address, 0, sizeof address);
    address.local.sun_family = AF_UNIX;
    char path[PATH_MAX];
    snprintf(address.local.sun_path, sizeof address.local.sun_path, "%s",
             object_path(path, "socket"));
    length = sizeof address.local;
    int listener = MUST(socket(AF_UNIX, type | SOCK_CLOEXEC, 0));
    MUST(bind(listener, &address.any, length));
    MUST(listen(listener, BACKLOG));
    return listener;
}

static int connect_to(int type) {
    int fd = MUST(socket(address.any.sa_family, type | SOCK_CLOEXEC, 0));
    MUST(connect(fd, &address.any, length));
    return fd;
}

static void check_peer(int fd, pid_t pid) {
    struct ucred peer;
    socklen_t size = sizeof peer;
    MUST(getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size));
    CHECK_EQUAL(peer.pid, pid, "pid of the client");
}

/// A client in another process: the server is told of it, and of what it sends.
static void other_client(void *argument) {
    (void)argument;
    int fd = connect_to(SOCK_STREAM);
    send_filled(fd, 500, 31);
    object_child_wait();
    receive_filled(fd, 600, 32, "the answer to another process");
}

static void check_sender(int fd, pid_t pid) {
    char buffer[500], control[CMSG_SPACE(sizeof(struct ucred))];
    set_option(fd, SOL_SOCKET, SO_PASSCRED, 1);
    struct iovec vector = {.iov_base = buffer, .iov_len = sizeof buffer};
    struct msghdr header = {.msg_iov = &vector, .msg_iovlen = 1, .msg_control = control,
                            .msg_controllen = sizeof control};
    CHECK_EQUAL(recvmsg(fd, &header, 0), 500, "length from another process");
    CHECK_FILLED(buffer, 500, 31, "what another process has sent");
    struct cmsghdr *found = CMSG_FIRSTHDR(&header);
    CHECK(found != NULL && found->cmsg_type == SCM_CREDENTIALS, "no credentials came");
    struct ucred sender;
    memcpy(&sender, CMSG_DATA(found), sizeof sender);
    CHECK_EQUAL(sender.pid, pid, "pid of the sender");
}

/// Four clients: one that goes on, one that has shut down, one that has closed, one that has sent nothing.
static void connect_all(int clients[CLIENTS]) {
    for (int i = 0; i < CLIENTS; i++) {
        clients[i] = connect_to(SOCK_STREAM);
    }
    send_filled(clients[0], LARGE, 1);
    send_filled(clients[0], 3, 2);
    send_filled(clients[1], 2000, 3);
    MUST(shutdown(clients[1], SHUT_WR));
    send_filled(clients[2], 5000, 4);
    close(clients[2]);
}

static void check_all(int listener, const int clients[CLIENTS], int accepted[CLIENTS]) {
    for (int i = 0; i < CLIENTS; i++) {
        accepted[i] = MUST(accept(listener, NULL, NULL));
    }
    receive_filled(accepted[0], LARGE, 1, "much");
    receive_filled(accepted[0], 3, 2, "a little behind it");
    check_talk(accepted[0], clients[0], "a client that is there");
    receive_filled(accepted[1], 2000, 3, "a client that has shut down");
    check_end(accepted[1], "a client that has shut down");
    send_filled(accepted[1], 70, 5);
    receive_filled(clients[1], 70, 5, "back to it");
    receive_filled(accepted[2], 5000, 4, "a client that has closed");
    check_end(accepted[2], "a client that has closed");
    check_nothing(accepted[3], "a client that has sent nothing");
    check_talk(accepted[3], clients[3], "a client that has sent nothing");
}

static void try_stream(void) {
    int clients[CLIENTS], accepted[CLIENTS];
    int listener = listen_local(SOCK_STREAM);
    connect_all(clients);
    pid_t other = object_fork(other_client, NULL);
    object_ready_and_wait();
    SABOTAGE(close(MUST(accept(listener, NULL, NULL))); connect_to(SOCK_STREAM));
    check_all(listener, clients, accepted);
    for (int i = 0; i < CLIENTS; i++) {
        check_peer(accepted[i], getpid());
    }
    int fd = MUST(accept(listener, NULL, NULL));
    check_peer(fd, other);
    check_sender(fd, other);
    send_filled(fd, 600, 32);
    object_join_all();
    fd = connect_to(SOCK_STREAM);
    check_talk(fd, MUST(accept(listener, NULL, NULL)), "a fresh connection");
}

static void try_packets(void) {
    char text[16] = "";
    int listener = listen_local(SOCK_SEQPACKET), clients[2];
    for (int i = 0; i < 2; i++) {
        clients[i] = connect_to(SOCK_SEQPACKET);
        MUST(send(clients[i], "one", 3, MSG_NOSIGNAL));
        MUST(send(clients[i], "", 0, MSG_NOSIGNAL));
        MUST(send(clients[i], "three", 5, MSG_NOSIGNAL));
    }
    close(clients[1]);
    object_ready_and_wait();
    SABOTAGE(MUST(send(clients[0], "more", 4, 0)));
    for (int i = 0; i < 2; i++) {
        int fd = MUST(accept(listener, NULL, NULL));
        CHECK_EQUAL(recv(fd, text, sizeof text, 0), 3, "length of the first");
        CHECK_EQUAL(recv(fd, text, sizeof text, 0), 0, "length of the second");
        CHECK_EQUAL(recv(fd, text, sizeof text, 0), 5, "length of the third");
        CHECK(memcmp(text, "three", 5) == 0, "it says %s", text);
        if (i == 0) {
            check_nothing(fd, "packets");
        } else {
            check_end(fd, "packets of a closed client");
        }
    }
}

/// A client that waits for the answer while nobody has accepted it, as most do.
static void waiting_client(void *argument) {
    (void)argument;
    int fd = connect_to(SOCK_STREAM);
    send_filled(fd, 300, 41);
    object_child_ready();
    receive_filled(fd, 400, 42, "the answer");
    object_wait();
}

static void try_waiting(void) {
    int listener = listen_local(SOCK_STREAM);
    object_fork(waiting_client, NULL);
    object_ready_and_wait();
    SABOTAGE(close(MUST(accept(listener, NULL, NULL))); connect_to(SOCK_STREAM));
    int fd = MUST(accept(listener, NULL, NULL));
    receive_filled(fd, 300, 41, "the question");
    send_filled(fd, 400, 42);
    object_join_all();
}

static void try_tcp_of(int family) {
    int clients[CLIENTS], accepted[CLIENTS];
    int listener = bound_socket(family, SOCK_STREAM, &address);
    length = length_of(&address);
    MUST(listen(listener, BACKLOG));
    connect_all(clients);
    union address own, seen;
    socklen_t size = sizeof own;
    MUST(getsockname(clients[0], &own.any, &size));
    object_ready_and_wait();
    SABOTAGE(close(MUST(accept(listener, NULL, NULL))); connect_to(SOCK_STREAM));
    check_all(listener, clients, accepted);
    size = sizeof seen;
    MUST(getpeername(accepted[0], &seen.any, &size));
    check_same_address(&seen, &own, size, "the client's address");
    int fd = connect_to(SOCK_STREAM);
    check_talk(fd, MUST(accept(listener, NULL, NULL)), "a fresh connection");
}

static void try_tcp(void) {
    try_tcp_of(AF_INET);
}

static void try_tcp6(void) {
    try_tcp_of(AF_INET6);
}

/// More than the server's end takes before it is read: the rest waits on the client's side.
static void try_tcp_full(void) {
    int listener = bound_socket(AF_INET, SOCK_STREAM, &address);
    length = length_of(&address);
    MUST(listen(listener, BACKLOG));
    int client = connect_to(SOCK_STREAM);
    size_t sent = send_until_full(client, 6);
    object_ready_and_wait();
    SABOTAGE(close(MUST(accept(listener, NULL, NULL))); connect_to(SOCK_STREAM));
    int fd = MUST(accept(listener, NULL, NULL));
    receive_filled(fd, sent, 6, "full");
    check_talk(fd, client, "full");
}

/// Descriptors are under way to a server that has not accepted.
static void try_rights(void) {
    int listener = listen_local(SOCK_STREAM), client = connect_to(SOCK_STREAM), ends[2];
    MUST(pipe2(ends, O_CLOEXEC));
    char byte = 'r', control[CMSG_SPACE(sizeof(int))];
    struct iovec vector = {.iov_base = &byte, .iov_len = 1};
    struct msghdr header = {.msg_iov = &vector, .msg_iovlen = 1, .msg_control = control,
                            .msg_controllen = sizeof control};
    memset(control, 0, sizeof control);
    struct cmsghdr *rights = CMSG_FIRSTHDR(&header);
    *rights = (struct cmsghdr){.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS,
                               .cmsg_len = CMSG_LEN(sizeof(int))};
    memcpy(CMSG_DATA(rights), &ends[0], sizeof ends[0]);
    MUST(sendmsg(client, &header, 0));
    object_ready_and_wait();
    SABOTAGE(close(MUST(accept(listener, NULL, NULL))); connect_to(SOCK_STREAM));
    int fd = MUST(accept(listener, NULL, NULL));
    CHECK_EQUAL(recvmsg(fd, &header, MSG_DONTWAIT), 1, "length");
    rights = CMSG_FIRSTHDR(&header);
    CHECK(rights != NULL && rights->cmsg_type == SCM_RIGHTS, "no descriptor came");
}

int main(int argc, char **argv) {
    static const struct object_kind kinds[] = {
        {"stream", try_stream}, {"packets", try_packets},   {"waiting", try_waiting},
        {"tcp", try_tcp},       {"tcp6", try_tcp6},         {"tcp-full", try_tcp_full},
        {"rights", try_rights},
    };
    object_run_kinds(kinds, COUNT_OF(kinds), argc, argv);
}
