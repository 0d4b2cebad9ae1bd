// POSIX message queues (mq_overview(7)): messages of several priorities in their order, attributes,
// a name or none, who is to be notified. argv[2]: content, many, unnamed, notify,
// silent, processes.
#include <mqueue.h>

#include "support/object.h"

static char name[64], text[512];

static mqd_t open_queue(int flags, long messages, long size) {
    struct mq_attr attributes = {.mq_maxmsg = messages, .mq_msgsize = size};
    snprintf(name, sizeof name, "/ferry-test-%d", getpid());
    return MUST(mq_open(name, O_CREAT | O_EXCL | O_NONBLOCK | flags, 0640, &attributes));
}

static void check_next(mqd_t queue, const char *want, unsigned priority) {
    unsigned got = 0;
    ssize_t length = mq_receive(queue, text, sizeof text, &got);
    CHECK(length >= 0, "mq_receive: %s, want \"%s\"", strerror(errno), want);
    text[length] = 0;
    CHECK(strcmp(text, want) == 0 && got == priority, "the message is \"%s\" of %u, want \"%s\" of %u",
          text, got, want, priority);
}

static void check_empty(mqd_t queue) {
    ssize_t length = mq_receive(queue, text, sizeof text, NULL);
    CHECK(length == -1 && errno == EAGAIN, "mq_receive of an empty queue gives %zd", length);
}

static void fill(mqd_t queue) {
    static const struct {
        const char *text;
        unsigned priority;
    } messages[] = {{"low", 0}, {"high", 32767}, {"middle one", 7}, {"middle two", 7}, {"", 7}};
    for (size_t i = 0; i < COUNT_OF(messages); i++) {
        MUST(mq_send(queue, messages[i].text, strlen(messages[i].text), messages[i].priority));
    }
}

static void check_filled(mqd_t queue) {
    check_next(queue, "high", 32767);
    check_next(queue, "middle one", 7);
    check_next(queue, "middle two", 7);
    check_next(queue, "", 7);
    check_next(queue, "low", 0);
    check_empty(queue);
}

static void try_content(void) {
    mqd_t queue = open_queue(O_RDWR, 8, 128);
    struct mq_attr attributes;
    struct stat status;
    MUST(fchown(queue, 12, 34));
    fill(queue);
    object_ready_and_wait();
    SABOTAGE(MUST(mq_send(queue, "x", 1, 7)));
    MUST(mq_getattr(queue, &attributes));
    MUST(fstat(queue, &status));
    CHECK_EQUAL(status.st_mode & 0777, 0640, "mode");
    CHECK(status.st_uid == 12 && status.st_gid == 34, "it belongs to %u:%u", status.st_uid, status.st_gid);
    CHECK_EQUAL(attributes.mq_maxmsg, 8, "messages at most");
    CHECK_EQUAL(attributes.mq_msgsize, 128, "length of a message");
    CHECK_EQUAL(attributes.mq_flags, O_NONBLOCK, "flags");
    mqd_t again = MUST(mq_open(name, O_RDWR));
    MUST(mq_unlink(name));
    check_filled(queue);
    MUST(mq_send(again, "afterwards", 10, 1));
    check_next(queue, "afterwards", 1);
}

/// The queue is full, and none of its descriptors may be read from.
static void try_many(void) {
    enum { MESSAGES = 10, SIZE = 400 };
    char message[SIZE];
    mqd_t queue = open_queue(O_WRONLY, MESSAGES, SIZE);
    for (int i = 0; i < MESSAGES; i++) {
        object_fill(message, SIZE, (uint64_t)i);
        MUST(mq_send(queue, message, (size_t)(SIZE - i), (unsigned)i % 3));
    }
    object_ready_and_wait();
    SABOTAGE(mqd_t other = MUST(mq_open(name, O_RDONLY)); mq_receive(other, text, sizeof text, NULL));
    CHECK(mq_send(queue, "x", 1, 1) == -1 && errno == EAGAIN, "it is not full");
    mqd_t reader = MUST(mq_open(name, O_RDONLY | O_NONBLOCK));
    MUST(mq_unlink(name));
    for (int priority = 2; priority >= 0; priority--) {
        for (int i = priority; i < MESSAGES; i += 3) {
            unsigned got;
            CHECK_EQUAL(mq_receive(reader, text, sizeof text, &got), SIZE - i, "length");
            CHECK_EQUAL(got, priority, "priority");
            CHECK_FILLED(text, (size_t)(SIZE - i), (uint64_t)i, "message");
        }
    }
    check_empty(reader);
}

static void try_unnamed(void) {
    mqd_t queue = open_queue(O_RDWR, 8, 128);
    MUST(mq_unlink(name));
    fill(queue);
    object_ready_and_wait();
    SABOTAGE(check_next(queue, "high", 32767));
    CHECK(mq_open(name, O_RDWR) == -1 && errno == ENOENT, "it has a name");
    check_filled(queue);
}

static void try_notify(void) {
    mqd_t queue = open_queue(O_RDWR, 8, 128);
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR2};
    event.sigev_value.sival_int = 4711;
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR2);
    MUST(sigprocmask(SIG_BLOCK, &set, NULL));
    MUST(mq_unlink(name));
    MUST(mq_notify(queue, &event));
    object_ready_and_wait();
    SABOTAGE(MUST(mq_notify(queue, NULL)));
    siginfo_t info;
    struct timespec soon = {.tv_sec = 1}, now = {0};
    CHECK(sigtimedwait(&set, &info, &now) == -1, "a notification before a message");
    MUST(mq_send(queue, "message", 7, 1));
    CHECK_EQUAL(sigtimedwait(&set, &info, &soon), SIGUSR2, "the notification");
    CHECK_EQUAL(info.si_code, SI_MESGQ, "its code");
    CHECK_EQUAL(info.si_value.sival_int, 4711, "its value");
    check_next(queue, "message", 1);
}

/// Registered, but told nothing: nobody else can register.
static void try_silent(void) {
    mqd_t queue = open_queue(O_RDWR, 8, 128);
    struct sigevent event = {.sigev_notify = SIGEV_NONE};
    MUST(mq_unlink(name));
    MUST(mq_notify(queue, &event));
    object_ready_and_wait();
    SABOTAGE(MUST(mq_notify(queue, NULL)));
    CHECK(mq_notify(queue, &event) == -1 && errno == EBUSY, "nobody is registered");
    MUST(mq_notify(queue, NULL));
    MUST(mq_notify(queue, &event));
}

static void other_end(void *queue) {
    object_child_wait();
    check_filled(*(mqd_t *)queue);
    mqd_t second = MUST(mq_open(name, O_WRONLY));
    MUST(mq_send(second, "answer", 6, 1));
}

static void try_processes(void) {
    mqd_t queue = open_queue(O_RDWR, 8, 128), reader = MUST(mq_open(name, O_RDONLY));
    object_fork(other_end, &queue);
    fill(queue);
    object_ready_and_wait();
    SABOTAGE(check_next(queue, "high", 32767));
    object_join_all();
    MUST(mq_unlink(name));
    check_next(reader, "answer", 1);
    check_empty(queue);
}

int main(int argc, char **argv) {
    object_start(argc, argv);
    const char *kind = argc > 2 ? argv[2] : "content";
    if (strcmp(kind, "content") == 0) {
        try_content();
    } else if (strcmp(kind, "many") == 0) {
        try_many();
    } else if (strcmp(kind, "unnamed") == 0) {
        try_unnamed();
    } else if (strcmp(kind, "notify") == 0) {
        try_notify();
    } else if (strcmp(kind, "silent") == 0) {
        try_silent();
    } else {
        try_processes();
    }
    object_pass();
}
