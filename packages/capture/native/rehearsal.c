// A process with some of everything that processes often have, which waits. It is captured again and again before a freeze
// has to be short, and it is of no other use. All of it is its own: the network is one that ends with it.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <net/if.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum { CONNECTIONS = 12, THREADS = 3, MAPPED_BYTES = 1 << 20 };

static void *waiting(void *unused) {
    for (;;) pause();
    return unused;
}

static void on_signal(int number) {
    (void)number;
}

static void watch(int epoll, int fd) {
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
}

// Connections to itself, half of them with something unread.
static void connect_to_itself(int epoll) {
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    struct ifreq request = {.ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING};
    ioctl(listener, SIOCSIFFLAGS, &request);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    if (bind(listener, (struct sockaddr *)&address, length) != 0 || listen(listener, CONNECTIONS) != 0) return;
    getsockname(listener, (struct sockaddr *)&address, &length);
    watch(epoll, listener);
    for (int i = 0; i < CONNECTIONS; i++) {
        int from = socket(AF_INET, SOCK_STREAM, 0);
        if (connect(from, (struct sockaddr *)&address, length) != 0) return;
        int to = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
        int on = 1;
        setsockopt(to, IPPROTO_TCP, 1 /* TCP_NODELAY */, &on, sizeof on);
        setsockopt(to, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
        watch(epoll, to);
        if (i % 2 == 0 && write(from, "unread", 6) != 6) return;
    }
}

static void open_some_of_everything(int epoll) {
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) != 0 || write(pair[0], "unread", 6) != 6) return;
    watch(epoll, pair[1]);
    int ends[2];
    if (pipe(ends) != 0 || write(ends[1], "unread", 6) != 6) return;
    watch(epoll, ends[0]);
    watch(epoll, eventfd(3, 0));
    int timer = timerfd_create(CLOCK_MONOTONIC, 0);
    struct itimerspec hour = {.it_value.tv_sec = 3600};
    timerfd_settime(timer, 0, &hour, NULL);
    watch(epoll, timer);
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR2);
    watch(epoll, signalfd(-1, &set, 0));
    inotify_add_watch(inotify_init1(0), "/", IN_CREATE);
    open("/proc/self/exe", O_RDONLY);
    open("/", O_RDONLY | O_DIRECTORY);
}

// As runtimes restrict their containers: it may gain no privileges, and a filter looks at its system calls.
static void restrict_itself(void) {
    struct sock_filter allow = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    struct sock_fprog program = {.len = 1, .filter = &allow};
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program, 0, 0);
}

int main(void) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    close_range(3, ~0U, 0);
    bool own_network = unshare(CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS) == 0;
    restrict_itself();
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    for (int number = SIGHUP; number < SIGCHLD; number++) {
        if (number != SIGKILL) sigaction(number, &action, NULL);
    }
    timer_t timer;
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1};
    timer_create(CLOCK_MONOTONIC, &event, &timer);
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    open_some_of_everything(epoll);
    if (own_network) connect_to_itself(epoll);
    char *memory = mmap(NULL, MAPPED_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory != MAP_FAILED) memset(memory, 1, MAPPED_BYTES / 2);
    for (int i = 0; i < THREADS; i++) {
        pthread_t thread;
        pthread_create(&thread, NULL, waiting, NULL);
    }
    for (unsigned char round = 0;; round++) {
        struct timespec pause_time = {.tv_nsec = 10 * 1000 * 1000};
        nanosleep(&pause_time, NULL);
        if (memory != MAP_FAILED) memory[(round * 4096) % MAPPED_BYTES] = (char)round;
    }
}
