// Holds N objects of one kind, says "ready" (with its port, where it has one), and sleeps. For measuring how a capture
// grows: many processes|threads|descriptors|connections|mappings N
#include <arpa/inet.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static void *sleeper(void *unused) {
    (void)unused;
    for (;;)
        pause();
}

static void processes(int n) {
    for (int i = 1; i < n; i++) {
        pid_t pid = fork();
        if (pid < 0)
            fail("fork");
        if (pid == 0)
            for (;;)
                pause();
    }
}

static void threads(int n) {
    pthread_attr_t small;
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, 65536);
    for (int i = 1; i < n; i++) {
        pthread_t thread;
        if (pthread_create(&thread, &small, sleeper, NULL) != 0)
            fail("pthread_create");
    }
}

// Files, pipes, eventfds and UNIX sockets in turn.
static void descriptors(int n) {
    for (int i = 0; i < n;) {
        int pair[2];
        switch (i % 8) {
        case 0:
        case 1:
            if (open("/dev/null", O_RDWR) < 0 || open("/proc/self/exe", O_RDONLY) < 0)
                fail("open");
            i += 2;
            break;
        case 2:
        case 3:
            if (pipe(pair) != 0)
                fail("pipe");
            i += 2;
            break;
        case 4:
        case 5:
            if (eventfd(1, 0) < 0 || eventfd(2, 0) < 0)
                fail("eventfd");
            i += 2;
            break;
        default:
            if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) != 0)
                fail("socketpair");
            i += 2;
        }
    }
}

// Waits for N clients, which are outside.
static void connections(int n) {
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    if (bind(listener, (struct sockaddr *)&address, length) != 0 || listen(listener, 4096) != 0)
        fail("listen");
    getsockname(listener, (struct sockaddr *)&address, &length);
    printf("port %d\n", ntohs(address.sin_port));
    fflush(stdout);
    for (int i = 0; i < n; i++)
        if (accept(listener, NULL, NULL) < 0)
            fail("accept");
}

static void mappings(int n) {
    // Neighbours differ in their protection, so that the kernel does not merge them.
    for (int i = 0; i < n; i++) {
        int writable = i % 2 == 0;
        char *area = mmap(NULL, 8192, PROT_READ | (writable ? PROT_WRITE : 0), MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (area == MAP_FAILED)
            fail("mmap");
        if (writable)
            memset(area, i, 8192);
    }
}

int main(int argc, char **argv) {
    if (argc != 3)
        return 2;
    // Whatever a shell or an editor above us left open is not ours.
    syscall(SYS_close_range, 3, ~0U, 0);
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    int n = atoi(argv[2]);
    if (strcmp(argv[1], "processes") == 0)
        processes(n);
    else if (strcmp(argv[1], "threads") == 0)
        threads(n);
    else if (strcmp(argv[1], "descriptors") == 0)
        descriptors(n);
    else if (strcmp(argv[1], "connections") == 0)
        connections(n);
    else if (strcmp(argv[1], "mappings") == 0)
        mappings(n);
    else
        return 2;
    printf("ready\n");
    fflush(stdout);
    for (;;)
        pause();
}
