// Network namespaces of the tree that veth pairs join, with connections over them. argv[2]: bridge (those of two children, on a
// bridge in the root's own), siblings (the two children's with each other).
#include <sched.h>

#include "support/socket.h"

enum { PORT = 4000, CHILDREN = 2 };

static int go[CHILDREN][2], there[CHILDREN][2];
static bool is_joined_by_bridge;

static void run(const char *format, ...) {
    char command[512] = "";
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(command, sizeof command, format, arguments);
    va_end(arguments);
    int status = system(command);
    CHECK(status == 0, "%s: status %d", command, status);
}

static void own_network(void) {
    if (unshare(CLONE_NEWNET) != 0) {
        object_put_file("result", "SKIP no network namespaces here\n");
        exit(0);
    }
}

static struct sockaddr_in address_of(int child) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(PORT)};
    address.sin_addr.s_addr = htonl(0x0a090010u + (unsigned)child);
    return address;
}

/// One listens, the other connects; each has sent something that the other has not read.
static void body(void *argument) {
    int self = *(int *)argument, fd;
    char byte;
    own_network();
    CHECK(write(there[self][1], "x", 1) == 1 && read(go[self][0], &byte, 1) == 1, "handshake");
    run("ip link set lo up && ip addr add 10.9.0.%d/24 dev e%d && ip link set e%d up", 16 + self, self, self);
    struct sockaddr_in address = address_of(0);
    if (self == 0) {
        int listener = MUST(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
        MUST(bind(listener, (struct sockaddr *)&address, sizeof address));
        MUST(listen(listener, 1));
        CHECK(write(there[self][1], "x", 1) == 1, "handshake");
        fd = MUST(accept(listener, NULL, NULL));
        close(listener);
    } else {
        fd = MUST(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
        MUST(connect(fd, (struct sockaddr *)&address, sizeof address));
    }
    struct timeval patience = {.tv_sec = 5};
    MUST(setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience));
    send_filled(fd, 3000, 10 + (uint64_t)self);
    object_sleep_ms(50);
    for (int i = 0; i < CHILDREN; i++) {
        close(go[i][0]), close(go[i][1]), close(there[i][0]), close(there[i][1]);
    }
    object_child_wait();
    receive_filled(fd, 3000, 11 - (uint64_t)self, "what was sent before");
    send_filled(fd, 200000, 20 + (uint64_t)self);
    receive_filled(fd, 200000, 21 - (uint64_t)self, "what is sent now");
    run("ip -o link show dev e%d | grep -q 'mtu 1400'", self);
}

static void await(int child) {
    char byte;
    CHECK(read(there[child][0], &byte, 1) == 1, "handshake");
}

int main(int argc, char **argv) {
    static int numbers[CHILDREN] = {0, 1};
    char byte = 0;
    pid_t children[CHILDREN];
    object_start(argc, argv);
    setenv("PATH", "/usr/sbin:/usr/bin:/sbin:/bin", 1);
    is_joined_by_bridge = strcmp(argv[2], "bridge") == 0;
    if (is_joined_by_bridge) {
        own_network();
        run("ip link set lo up && ip link add br0 type bridge && ip addr add 10.9.0.1/24 dev br0 && ip link set br0 up");
    }
    for (int i = 0; i < CHILDREN; i++) {
        MUST(pipe(go[i]));
        MUST(pipe(there[i]));
    }
    // They are set up together: not one after the other, as object_fork has it.
    int handshakes[CHILDREN][2];
    for (int i = 0; i < CHILDREN; i++) {
        MUST(pipe(handshakes[i]));
        children[i] = MUST(fork());
        if (children[i] == 0) {
            object_handshake = handshakes[i][1];
            body(&numbers[i]);
            _exit(0);
        }
        close(handshakes[i][1]);
        await(i);
    }
    if (is_joined_by_bridge) {
        for (int i = 0; i < CHILDREN; i++) {
            run("ip link add v%d mtu 1400 type veth peer name e%d mtu 1400 netns %d && ip link set v%d master br0 up", i, i,
                children[i], i);
        }
    } else {
        run("nsenter -t %d -n ip link add e0 mtu 1400 type veth peer name e1 mtu 1400 netns %d", children[0], children[1]);
    }
    for (int i = 0; i < CHILDREN; i++) {
        CHECK(write(go[i][1], "x", 1) == 1, "handshake");
        if (i == 0) await(0);
    }
    for (int i = 0; i < CHILDREN; i++) {
        CHECK(read(handshakes[i][0], &byte, 1) == 1, "child %d is not set up", i);
        close(handshakes[i][0]), close(go[i][0]), close(go[i][1]), close(there[i][0]), close(there[i][1]);
    }
    object_ready_and_wait();
    SABOTAGE(run("nsenter -t %d -n ip link del e0", children[0]));
    if (is_joined_by_bridge) {
        run("test $(ip -o link show master br0 | wc -l) = 2");
    }
    for (int i = 0; i < CHILDREN; i++) {
        MUST(kill(children[i], SIGUSR1));
    }
    for (int i = 0; i < CHILDREN; i++) {
        object_reap(children[i]);
    }
    object_pass();
}
