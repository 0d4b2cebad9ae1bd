/* A batch of system calls on one descriptor after the other, by a thread beside, each with a copy of the room that its calls
 * point into. Who wants what came of one waits for it. */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "addon.h"
#include "batch.h"

struct ahead {
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t moved;
    uint8_t *room, *copy, *out;
    const int32_t *fds;
    size_t room_size, calls, count, done;
    bool stop;
};

static bool next(struct ahead *a, size_t done) {
    pthread_mutex_lock(&a->lock);
    a->done = done;
    bool more = !a->stop && done < a->count;
    pthread_cond_signal(&a->moved);
    pthread_mutex_unlock(&a->lock);
    return more;
}

static void *work(void *argument) {
    struct ahead *a = argument;
    for (size_t i = 0; next(a, i); i++) {
        memcpy(a->room, a->copy, a->room_size);
        ferry_make_calls((struct batched_call *)a->room, a->calls, (uint64_t)a->fds[i]);
        memcpy(a->out + i * a->room_size, a->room, a->room_size);
    }
    return NULL;
}

static bool bytes_of(napi_env env, napi_value value, uint8_t **data, size_t *length) {
    void *found = NULL;
    if (napi_get_buffer_info(env, value, &found, length) != napi_ok) return false;
    *data = found;
    return true;
}

static napi_value refuse(napi_env env, struct ahead *a, const char *text) {
    if (a != NULL) free(a->copy);
    free(a);
    napi_throw_error(env, "linux.ahead", text);
    return NULL;
}

/* syscallsAhead(room, calls, fds, out): starts the thread. `room` begins with so many calls; `out` has room for as many
 * copies of it as there are descriptors (32 bits each). All Buffers are the caller's, who keeps them until
 * syscallsAheadEnd. */
static napi_value js_ahead(napi_env env, napi_callback_info info) {
    napi_value argv[4], value;
    size_t argc = 4, fds_size = 0, out_size = 0;
    uint32_t calls = 0;
    uint8_t *fds = NULL;
    struct ahead *a = calloc(1, sizeof *a);
    if (a == NULL) return refuse(env, NULL, "no memory");
    if (napi_get_cb_info(env, info, &argc, argv, NULL, NULL) != napi_ok || argc < 4
        || !bytes_of(env, argv[0], &a->room, &a->room_size) || napi_get_value_uint32(env, argv[1], &calls) != napi_ok
        || !bytes_of(env, argv[2], &fds, &fds_size) || !bytes_of(env, argv[3], &a->out, &out_size)) {
        return refuse(env, a, "syscallsAhead takes a Buffer, a number and two Buffers");
    }
    a->calls = calls;
    a->fds = (const int32_t *)(void *)fds;
    a->count = fds_size / sizeof *a->fds;
    if (a->calls * sizeof(struct batched_call) > a->room_size || a->count * a->room_size > out_size) {
        return refuse(env, a, "the Buffers are too small");
    }
    a->copy = malloc(a->room_size);
    if (a->copy == NULL) return refuse(env, a, "no memory");
    memcpy(a->copy, a->room, a->room_size);
    pthread_mutex_init(&a->lock, NULL);
    pthread_cond_init(&a->moved, NULL);
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = pthread_create(&a->thread, NULL, work, a);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (error != 0) return refuse(env, a, "no thread");
    napi_create_external(env, a, NULL, NULL, &value);
    return value;
}

static struct ahead *ahead_of(napi_env env, napi_callback_info info, size_t wanted, napi_value *argv) {
    size_t argc = wanted;
    void *data = NULL;
    if (napi_get_cb_info(env, info, &argc, argv, NULL, NULL) != napi_ok || argc < wanted
        || napi_get_value_external(env, argv[0], &data) != napi_ok) {
        napi_throw_type_error(env, "linux.argument", "not what syscallsAhead gave");
        return NULL;
    }
    return data;
}

/* syscallsAheadWait(ahead, i): returns when the calls on descriptor i have been made. */
static napi_value js_wait(napi_env env, napi_callback_info info) {
    napi_value argv[2];
    uint32_t i = 0;
    struct ahead *a = ahead_of(env, info, 2, argv);
    if (a == NULL || napi_get_value_uint32(env, argv[1], &i) != napi_ok || i >= a->count) return NULL;
    pthread_mutex_lock(&a->lock);
    while (a->done <= i) pthread_cond_wait(&a->moved, &a->lock);
    pthread_mutex_unlock(&a->lock);
    return NULL;
}

/* syscallsAheadEnd(ahead): the thread has ended when it returns. Once. */
static napi_value js_end(napi_env env, napi_callback_info info) {
    napi_value argv[1];
    struct ahead *a = ahead_of(env, info, 1, argv);
    if (a == NULL) return NULL;
    pthread_mutex_lock(&a->lock);
    a->stop = true;
    pthread_mutex_unlock(&a->lock);
    pthread_join(a->thread, NULL);
    free(a->copy);
    free(a);
    return NULL;
}

void ferry_register_ahead(napi_env env, napi_value exports, ferry_export export_function) {
    export_function(env, exports, "syscallsAhead", js_ahead);
    export_function(env, exports, "syscallsAheadWait", js_wait);
    export_function(env, exports, "syscallsAheadEnd", js_end);
}
