// A thread that is blocked in a system call while it is dumped. Afterwards the call must end with
// the result it would have had, not with EINTR (but where the kernel itself gives that to a thread
// that is stopped and let go), and never early. argv[2] names the call.
#include <linux/futex.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/select.h>

#include "support/socket.h"

enum { SLEEP_MS = 3000 };

static int ends[2];     // a pipe: the call waits for its reading end
static int listener;    // accept waits for a connection to it
static union address address;
static uint32_t futex_word;
static int64_t begun;
static pthread_t thread;

static void feed(void) {
    object_sleep_ms(50); // so that a call that restarts too late still waits
    CHECK(write(ends[1], "go", 2) == 2, "write: %s", strerror(errno));
}

static void take(const char *what) {
    char text[3] = "";
    CHECK_EQUAL(read(ends[0], text, 2), 2, what);
}

static void check_slept(const char *what) {
    int64_t slept = (object_now(CLOCK_MONOTONIC) - begun) / 1000000;
    CHECK(slept >= SLEEP_MS - 1, "%s ended after %ld ms, not %d", what, (long)slept, SLEEP_MS);
}

static struct timespec after(int64_t nanoseconds) {
    return (struct timespec){nanoseconds / 1000000000, nanoseconds % 1000000000};
}

static void wait_read(void) {
    take("read");
}

static void wait_nanosleep(void) {
    struct timespec time = after(SLEEP_MS * 1000000L);
    CHECK(nanosleep(&time, NULL) == 0, "nanosleep: %s", strerror(errno));
    check_slept("nanosleep");
}

static void wait_absolute_sleep(void) {
    struct timespec time = after(begun + SLEEP_MS * 1000000L);
    int error = clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &time, NULL);
    CHECK(error == 0, "clock_nanosleep: %s", strerror(error));
    check_slept("clock_nanosleep");
}

static void wait_poll(void) {
    struct pollfd poller = {.fd = ends[0], .events = POLLIN};
    int count = poll(&poller, 1, -1);
    CHECK(count == 1 && poller.revents == POLLIN, "poll gives %d: %s", count, strerror(errno));
    take("read after poll");
}

static void wait_poll_timeout(void) {
    struct pollfd poller = {.fd = ends[0], .events = POLLIN};
    int count = poll(&poller, 1, SLEEP_MS);
    CHECK(count == 0, "poll gives %d: %s", count, strerror(errno));
    check_slept("poll");
}

static void wait_select(void) {
    fd_set set;
    struct timeval limit = {.tv_sec = 100};
    FD_ZERO(&set);
    FD_SET(ends[0], &set);
    int count = select(ends[0] + 1, &set, NULL, NULL, &limit);
    CHECK(count == 1 && FD_ISSET(ends[0], &set), "select gives %d: %s", count, strerror(errno));
    take("read after select");
}

static void wait_epoll(void) {
    int set = MUST(epoll_create1(0));
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = 9};
    MUST(epoll_ctl(set, EPOLL_CTL_ADD, ends[0], &event));
    int count;
    do { // signal(7): epoll_wait ends with EINTR when its thread is stopped and let go
        count = epoll_wait(set, &event, 1, -1);
    } while (count == -1 && errno == EINTR);
    SABOTAGE(event.data.u64++);
    CHECK(count == 1 && event.data.u64 == 9, "epoll_wait gives %d: %s", count, strerror(errno));
    take("read after epoll_wait");
    close(set);
}

static void wait_epoll_strict(void) {
    int set = MUST(epoll_create1(0));
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = 9};
    MUST(epoll_ctl(set, EPOLL_CTL_ADD, ends[0], &event));
    int count = epoll_wait(set, &event, 1, -1);
    CHECK(count == 1, "epoll_wait gives %d: %s", count, strerror(errno));
    take("read after epoll_wait");
    close(set);
}

static void wait_futex(void) {
    long result = syscall(SYS_futex, &futex_word, FUTEX_WAIT_PRIVATE, 0, NULL, NULL, 0);
    CHECK(result == 0, "futex: %s", strerror(errno));
    CHECK_EQUAL(futex_word, 1, "the futex word");
}

static void wait_futex_timeout(void) {
    struct timespec time = after(SLEEP_MS * 1000000L);
    long result = syscall(SYS_futex, &futex_word, FUTEX_WAIT_PRIVATE, 0, &time, NULL, 0);
    CHECK(result == -1 && errno == ETIMEDOUT, "futex gives %ld: %s", result, strerror(errno));
    check_slept("futex");
}

static void wait_accept(void) {
    int accepted = accept(listener, NULL, NULL);
    CHECK(accepted >= 0, "accept: %s", strerror(errno));
    receive_filled(accepted, 100, 3, "the accepted connection");
    close(accepted);
}

static void wait_receive(void) {
    char byte;
    CHECK_EQUAL(recv(listener, &byte, 1, 0), 1, "recv");
}

static pid_t child;

static void wait_child(void) {
    int status = 0;
    pid_t got = waitpid(child, &status, 0);
    CHECK(got == child, "waitpid gives %d: %s", got, strerror(errno));
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0, "the child ended with 0x%x", status);
}

static volatile sig_atomic_t handled;

static void on_signal(int number) {
    handled = number;
}

static void wait_pause(void) {
    sigset_t one;
    sigemptyset(&one);
    sigaddset(&one, SIGUSR2);
    MUST_BE_ZERO(pthread_sigmask(SIG_UNBLOCK, &one, NULL));
    CHECK(pause() == -1 && errno == EINTR, "pause: %s", strerror(errno));
    CHECK_EQUAL(handled, SIGUSR2, "the signal that ended pause");
}

static void wait_sigsuspend(void) {
    sigset_t mask, now;
    sigfillset(&mask);
    sigdelset(&mask, SIGUSR2);
    sigdelset(&mask, SIGHUP);
    CHECK(sigsuspend(&mask) == -1 && errno == EINTR, "sigsuspend: %s", strerror(errno));
    CHECK_EQUAL(handled, SIGUSR2, "the signal that ended sigsuspend");
    MUST_BE_ZERO(pthread_sigmask(SIG_BLOCK, NULL, &now));
    CHECK(sigismember(&now, SIGUSR2) == 1 && sigismember(&now, SIGTERM) == 0,
          "sigsuspend did not put the old mask back");
}

static void wait_full_write(void) {
    char *buffer = malloc(300000);
    object_fill(buffer, 300000, 6);
    size_t sent = 0;
    while (sent < 300000) { // signal(7): a stopped thread gets a short count, never a wrong one
        ssize_t done = write(ends[1], buffer + sent, 300000 - sent);
        SABOTAGE(done -= 1);
        CHECK(done > 0, "write after %zu bytes: %s", sent, strerror(errno));
        sent += (size_t)done;
    }
    free(buffer);
}

static void send_signal(void) {
    object_sleep_ms(50);
    MUST_BE_ZERO(pthread_kill(thread, SIGUSR2));
}

static void wake_futex(void) {
    object_sleep_ms(50);
    futex_word = 1;
    CHECK_EQUAL(syscall(SYS_futex, &futex_word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0), 1, "woken");
}

static void connect_and_send(void) {
    int fd = connected_socket(&address, SOCK_STREAM);
    send_filled(fd, 100, 3);
}

static void send_datagram(void) {
    send_filled(connected_socket(&address, SOCK_DGRAM), 1, 4);
}

static void release_child(void) {
    object_sleep_ms(50);
    MUST(kill(child, SIGUSR1));
}

static void read_all(void) {
    char *buffer = malloc(300000);
    for (size_t got = 0; got < 300000;) {
        ssize_t done = read(ends[0], buffer + got, 300000 - got);
        CHECK(done > 0, "read: %s", strerror(errno));
        got += (size_t)done;
    }
    CHECK_FILLED(buffer, 300000, 6, "what was written in one call");
    free(buffer);
}

static void interrupt(void) {
    MUST_BE_ZERO(pthread_kill(thread, SIGHUP));
    object_sleep_ms(50);
}

static void nothing(void) {
}

static const struct {
    const char *name;
    void (*wait)(void), (*wake)(void);
} calls[] = {
    {"read", wait_read, feed},
    {"write", wait_full_write, read_all},
    {"nanosleep", wait_nanosleep, nothing},
    {"clock_nanosleep", wait_absolute_sleep, nothing},
    {"poll", wait_poll, feed},
    {"poll-timeout", wait_poll_timeout, nothing},
    {"select", wait_select, feed},
    {"epoll_wait", wait_epoll, feed},
    {"epoll_wait-strict", wait_epoll_strict, feed},
    {"futex", wait_futex, wake_futex},
    {"futex-timeout", wait_futex_timeout, nothing},
    {"accept", wait_accept, connect_and_send},
    {"recv", wait_receive, send_datagram},
    {"waitpid", wait_child, release_child},
    {"pause", wait_pause, send_signal},
    {"sigsuspend", wait_sigsuspend, send_signal},
};

static size_t chosen;
static volatile bool finished;

static void *body(void *argument) {
    calls[chosen].wait();
    finished = true;
    return argument;
}

static void child_body(void *argument) {
    (void)argument;
    object_child_wait();
}

int main(int argc, char **argv) {
    object_start(argc, argv);
    const char *name = argc > 2 ? argv[2] : "read";
    while (strcmp(calls[chosen].name, name) != 0) {
        CHECK(++chosen < COUNT_OF(calls), "there is no call %s", name);
    }
    MUST(pipe(ends));
    if (strcmp(name, "recv") == 0) {
        listener = bound_socket(AF_INET, SOCK_DGRAM, &address);
    } else if (strcmp(name, "accept") == 0) {
        listener = bound_socket(AF_INET, SOCK_STREAM, &address);
        MUST(listen(listener, 1));
    } else if (strcmp(name, "waitpid") == 0) {
        child = object_fork(child_body, NULL);
    }
    struct sigaction action = {.sa_handler = on_signal};
    MUST(sigaction(SIGUSR2, &action, NULL));
    MUST(sigaction(SIGHUP, &action, NULL));
    sigset_t one;
    sigemptyset(&one);
    sigaddset(&one, SIGUSR2);
    MUST(sigprocmask(SIG_BLOCK, &one, NULL));
    begun = object_now(CLOCK_MONOTONIC);
    MUST_BE_ZERO(pthread_create(&thread, NULL, body, NULL));
    object_sleep_ms(100);
    object_ready_and_wait();
    if (calls[chosen].wake != nothing) {
        CHECK(!finished, "the call ended although nothing happened");
    }
    // A signal that is handled without SA_RESTART: what a call that is not restarted looks like.
    SABOTAGE(interrupt());
    calls[chosen].wake();
    MUST_BE_ZERO(pthread_join(thread, NULL));
    object_pass();
}
