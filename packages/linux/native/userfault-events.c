/* Answers the events of userfaultfds (userfaultfd(2): UFFD_EVENT_FORK, _REMAP, _REMOVE) and counts them. Whoever forks,
 * moves or empties a registered mapping waits in the kernel until its event is read, so a thread of its own reads them:
 * the thread that runs JavaScript may be busy for long. An event is counted before it is read, thus before the program
 * goes on: a count that has not changed says that nothing has happened. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "addon.h"

/* Address spaces of children that are followed; of more than these writes are not noted. */
#define CHILDREN_MAX 256
#define READY_MAX 16

struct events {
    pthread_t thread;
    int epoll;
    int stop; /* an eventfd */
    atomic_ullong count;
    int children[CHILDREN_MAX];
    size_t child_count;
};

static int watch(struct events *e, int fd) {
    struct epoll_event wanted = {.events = EPOLLIN, .data.fd = fd};
    return epoll_ctl(e->epoll, EPOLL_CTL_ADD, fd, &wanted);
}

/* fs/userfaultfd.c: userfaultfd_unregister fails with ENOMEM once nobody has the address space. */
static int is_gone(int fd) {
    struct uffdio_range none = {.start = 4096, .len = 4096};
    return ioctl(fd, UFFDIO_UNREGISTER, &none) != 0 && errno == ENOMEM;
}

static void forget_ended(struct events *e) {
    size_t kept = 0;
    for (size_t i = 0; i < e->child_count; i++) {
        if (is_gone(e->children[i])) close(e->children[i]);
        else e->children[kept++] = e->children[i];
    }
    e->child_count = kept;
}

/* A child has the mappings of its parent, as they are noted there, for as long as its descriptor is open. */
static void follow_child(struct events *e, int fd) {
    if (e->child_count == CHILDREN_MAX) forget_ended(e);
    if (e->child_count == CHILDREN_MAX || watch(e, fd) != 0) {
        close(fd);
        return;
    }
    e->children[e->child_count++] = fd;
}

static void *answer(void *argument) {
    struct events *e = argument;
    for (;;) {
        struct epoll_event ready[READY_MAX];
        int n = epoll_wait(e->epoll, ready, READY_MAX, -1);
        if (n < 0 && errno != EINTR) return NULL;
        for (int i = 0; i < n; i++) {
            int fd = ready[i].data.fd;
            if (fd == e->stop) return NULL;
            atomic_fetch_add(&e->count, 1);
            struct uffd_msg message;
            if (read(fd, &message, sizeof message) != (ssize_t)sizeof message) continue;
            if (message.event == UFFD_EVENT_FORK) follow_child(e, (int)message.arg.fork.ufd);
        }
    }
}

static struct events *events_of(napi_env env, napi_callback_info info, size_t wanted, napi_value *argv) {
    size_t argc = wanted;
    void *data = NULL;
    if (napi_get_cb_info(env, info, &argc, argv, NULL, NULL) != napi_ok || argc < wanted ||
        napi_get_value_external(env, argv[0], &data) != napi_ok) {
        napi_throw_type_error(env, "linux.argument", "Not what userfaultEvents has returned");
        return NULL;
    }
    return data;
}

static napi_value number(napi_env env, int64_t value) {
    napi_value result = NULL;
    napi_create_int64(env, value, &result);
    return result;
}

static napi_value failed(napi_env env, struct events *e) {
    if (e != NULL) {
        if (e->epoll >= 0) close(e->epoll);
        if (e->stop >= 0) close(e->stop);
        free(e);
    }
    napi_throw_error(env, "linux.events", "No thread for the events of userfaultfds");
    return NULL;
}

/* userfaultEvents(): starts the thread. */
static napi_value js_events(napi_env env, napi_callback_info info) {
    (void)info;
    struct events *e = calloc(1, sizeof *e);
    if (e == NULL) return failed(env, NULL);
    e->epoll = epoll_create1(EPOLL_CLOEXEC);
    e->stop = eventfd(0, EFD_CLOEXEC);
    if (e->epoll < 0 || e->stop < 0 || watch(e, e->stop) != 0) return failed(env, e);
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = pthread_create(&e->thread, NULL, answer, e);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (error != 0) return failed(env, e);
    napi_value value;
    napi_create_external(env, e, NULL, NULL, &value);
    return value;
}

/* userfaultEventsAdd(events, fd): a descriptor that does not block; stays the caller's, who closes it after
 * userfaultEventsEnd. 0 or -errno. */
static napi_value js_add(napi_env env, napi_callback_info info) {
    napi_value argv[2];
    int32_t fd = -1;
    struct events *e = events_of(env, info, 2, argv);
    if (e == NULL) return NULL;
    napi_get_value_int32(env, argv[1], &fd);
    return number(env, watch(e, fd) == 0 ? 0 : -errno);
}

/* userfaultEventsCount(events): how many there were so far. */
static napi_value js_count(napi_env env, napi_callback_info info) {
    napi_value argv[1];
    struct events *e = events_of(env, info, 1, argv);
    return e == NULL ? NULL : number(env, (int64_t)atomic_load(&e->count));
}

/* userfaultEventsEnd(events): ends the thread and what it has opened. Once. */
static napi_value js_end(napi_env env, napi_callback_info info) {
    napi_value argv[1];
    struct events *e = events_of(env, info, 1, argv);
    if (e == NULL) return NULL;
    uint64_t one = 1;
    if (write(e->stop, &one, sizeof one) != (ssize_t)sizeof one) return number(env, -errno);
    pthread_join(e->thread, NULL);
    for (size_t i = 0; i < e->child_count; i++) close(e->children[i]);
    close(e->epoll);
    close(e->stop);
    free(e);
    return number(env, 0);
}

void ferry_register_userfault_events(napi_env env, napi_value exports, ferry_export export_function) {
    export_function(env, exports, "userfaultEvents", js_events);
    export_function(env, exports, "userfaultEventsAdd", js_add);
    export_function(env, exports, "userfaultEventsCount", js_count);
    export_function(env, exports, "userfaultEventsEnd", js_end);
}
