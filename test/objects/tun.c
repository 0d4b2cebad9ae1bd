// Queues of tun and tap devices, whose device is there as long as they are: with an address, a route by it and a socket that is
// bound to it. argv[2]: own (in a network namespace of its own), given (in the one it was started in), persistent, queues
// (several, one of them detached), tap (with a header of another length, and work left to the program), unattached.
#include <linux/if_tun.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/sysmacros.h>

#include "support/socket.h"

enum { MTU = 1380, PORT = 4321 };

static char node[PATH_MAX], name[IFNAMSIZ];
static char buffer[4096];

static int open_node(void) {
    int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK);
    if (fd >= 0) {
        return fd;
    }
    if (mknod(object_path(node, "tun"), S_IFCHR | 0600, makedev(10, 200)) != 0 && errno != EEXIST) {
        object_put_file("result", "SKIP no /dev/net/tun here\n");
        exit(0);
    }
    return MUST(open(node, O_RDWR | O_NONBLOCK));
}

static int make_queue(int flags) {
    struct ifreq request = {.ifr_flags = (short)flags};
    int fd = open_node();
    strcpy(request.ifr_name, name);
    MUST(ioctl(fd, TUNSETIFF, &request));
    strcpy(name, request.ifr_name);
    return fd;
}

static in_addr_t own_address(void) {
    return htonl(0xc6120000u | ((unsigned)getpid() % 4096) << 3 | 1); // 198.18.0.0/15
}

/// Address, netmask, MTU, up.
static void configure(void) {
    int fd = MUST(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    struct ifreq request = {0};
    struct sockaddr_in *address = (struct sockaddr_in *)&request.ifr_addr;
    strcpy(request.ifr_name, name);
    address->sin_family = AF_INET;
    address->sin_addr.s_addr = own_address();
    MUST(ioctl(fd, SIOCSIFADDR, &request));
    address->sin_addr.s_addr = htonl(0xfffffff8);
    MUST(ioctl(fd, SIOCSIFNETMASK, &request));
    request.ifr_mtu = MTU;
    MUST(ioctl(fd, SIOCSIFMTU, &request));
    request.ifr_flags = IFF_UP | IFF_RUNNING | IFF_NOARP;
    MUST(ioctl(fd, SIOCSIFFLAGS, &request));
    close(fd);
}

static int value_of(unsigned long command) {
    struct ifreq request = {0};
    int fd = MUST(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    strcpy(request.ifr_name, name);
    MUST(ioctl(fd, command, &request));
    close(fd);
    return command == SIOCGIFMTU ? request.ifr_mtu : command == SIOCGIFINDEX ? request.ifr_ifindex : request.ifr_flags;
}

static int bound_to_it(void) {
    int fd = MUST(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons(PORT), .sin_addr.s_addr = own_address()};
    MUST(bind(fd, (struct sockaddr *)&address, sizeof address));
    return fd;
}

/// What is sent to a neighbour on the device comes out of one of its queues.
static void check_carries(int sender, const int *queues, size_t count) {
    struct sockaddr_in to = {.sin_family = AF_INET,
                             .sin_port = htons(PORT),
                             .sin_addr.s_addr = own_address() + htonl(1)};
    for (int tries = 0; tries < 100; tries++) {
        CHECK_EQUAL(sendto(sender, "over the device", 15, 0, (struct sockaddr *)&to, sizeof to), 15,
                    "sendto");
        for (size_t i = 0; i < count; i++) {
            ssize_t got;
            while ((got = read(queues[i], buffer, sizeof buffer)) > 0) {
                if (memmem(buffer, (size_t)got, "over the device", 15)) {
                    return;
                }
            }
        }
        object_sleep_ms(20);
    }
    object_fail("nothing comes out of %s", name);
}

static void try_device(int flags, bool persists) {
    int queue = make_queue(flags);
    if (persists) {
        MUST(ioctl(queue, TUNSETPERSIST, 1));
    }
    MUST(ioctl(queue, TUNSETSNDBUF, &(int){77777}));
    configure();
    int sender = bound_to_it(), index = value_of(SIOCGIFINDEX);
    check_carries(sender, &queue, 1);
    object_ready_and_wait();
    SABOTAGE(close(queue); queue = open_node());
    struct ifreq request = {0};
    MUST(ioctl(queue, TUNGETIFF, &request));
    CHECK(strcmp(request.ifr_name, name) == 0, "the device is %s, was %s", request.ifr_name, name);
    CHECK_EQUAL((request.ifr_flags & IFF_PERSIST) != 0, persists, "persistence");
    int value = 0;
    MUST(ioctl(queue, TUNGETSNDBUF, &value));
    CHECK_EQUAL(value, 77777, "send buffer");
    CHECK_EQUAL(value_of(SIOCGIFINDEX), index, "number");
    CHECK_EQUAL(value_of(SIOCGIFMTU), MTU, "MTU");
    CHECK_EQUAL(value_of(SIOCGIFFLAGS) & (IFF_UP | IFF_NOARP), IFF_UP | IFF_NOARP, "flags");
    check_carries(sender, &queue, 1);
    if (persists) {
        MUST(ioctl(queue, TUNSETPERSIST, 0));
    }
}

static void try_own(void) { try_device(IFF_TUN | IFF_NO_PI, false); }

static void try_persistent(void) { try_device(IFF_TUN, true); }

static void try_queues(void) {
    int flags = IFF_TUN | IFF_NO_PI | IFF_MULTI_QUEUE, queues[3];
    for (int i = 0; i < 3; i++) {
        queues[i] = make_queue(flags);
    }
    struct ifreq request = {.ifr_flags = IFF_DETACH_QUEUE};
    MUST(ioctl(queues[2], TUNSETQUEUE, &request));
    configure();
    int sender = bound_to_it();
    object_ready_and_wait();
    SABOTAGE(close(queues[2]); queues[2] = open_node());
    for (int i = 0; i < 3; i++) {
        MUST(ioctl(queues[i], TUNGETIFF, &request));
        CHECK(strcmp(request.ifr_name, name) == 0, "queue %d is of %s", i, request.ifr_name);
        CHECK_EQUAL((request.ifr_flags & IFF_DETACH_QUEUE) != 0, i == 2, "detached");
    }
    check_carries(sender, queues, 2);
}

static void try_tap(void) {
    int queue = make_queue(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR);
    MUST(ioctl(queue, TUNSETVNETHDRSZ, &(int){12}));
    int endian = ioctl(queue, TUNSETVNETLE, &(int){1});
    MUST(ioctl(queue, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6));
    configure();
    object_ready_and_wait();
    SABOTAGE(MUST(ioctl(queue, TUNSETVNETHDRSZ, &(int){10})));
    int value = 0;
    MUST(ioctl(queue, TUNGETVNETHDRSZ, &value));
    CHECK_EQUAL(value, 12, "length of the header");
    MUST(ioctl(queue, TUNGETVNETLE, &value));
    CHECK_EQUAL(value, endian == 0, "little endian");
    struct ifreq request = {0};
    MUST(ioctl(queue, TUNGETIFF, &request));
    CHECK_EQUAL(request.ifr_flags & (IFF_TAP | IFF_VNET_HDR), IFF_TAP | IFF_VNET_HDR, "kind");
    unsigned offload[2] = {0x1e /* ETHTOOL_GTSO */, 0};
    strcpy(request.ifr_name, name);
    request.ifr_data = (char *)offload;
    MUST(ioctl(MUST(socket(AF_INET, SOCK_DGRAM, 0)), SIOCETHTOOL, &request));
    CHECK(offload[1] != 0, "segmentation is not left to the program");
}

static void try_unattached(void) {
    int queue = open_node();
    object_ready_and_wait();
    SABOTAGE(close(queue); queue = MUST(open("/dev/null", O_RDWR)));
    struct ifreq request = {.ifr_flags = IFF_TUN};
    CHECK(ioctl(queue, TUNGETIFF, &request) < 0 && errno == EBADFD, "it has a device: %s",
          strerror(errno));
    MUST(ioctl(queue, TUNSETIFF, &request));
}

static const struct {
    const char *name;
    void (*run)(void);
} kinds[] = {{"own", try_own},       {"given", try_own}, {"persistent", try_persistent},
             {"queues", try_queues}, {"tap", try_tap},   {"unattached", try_unattached}};

int main(int argc, char **argv) {
    object_start(argc, argv);
    snprintf(name, sizeof name, "ft%d", getpid());
    if (strcmp(argv[2], "given") != 0 && unshare(CLONE_NEWNET) != 0) {
        object_put_file("result", "SKIP no network namespaces here\n");
        return 0;
    }
    for (size_t i = 0; i < COUNT_OF(kinds); i++) {
        if (strcmp(argv[2], kinds[i].name) == 0) {
            kinds[i].run();
            object_pass();
        }
    }
    object_fail("no kind %s", argv[2]);
}
