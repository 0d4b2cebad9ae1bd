/* A thread of ours that restricts itself with Landlock (landlock(7)) and waits: who looks at how the kernel keeps it learns
 * where to find that of others. It is the only one that is restricted, and all that is left of it ends with it. */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "addon.h"

/* LANDLOCK_ACCESS_FS_EXECUTE, linux/landlock.h */
enum { ACCESS_EXECUTE = 1 };

struct sample {
    pthread_t thread;
    sem_t made, over;
    uint32_t layers;
    int64_t result; /* its thread id, or -errno */
};

static int64_t restrict_itself(uint32_t layers) {
    const uint64_t handled = ACCESS_EXECUTE;
    /* Of this thread alone, and not needed by root. */
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    long ruleset = syscall(SYS_landlock_create_ruleset, &handled, sizeof handled, 0);
    if (ruleset < 0) return -errno;
    int64_t result = syscall(SYS_gettid);
    for (uint32_t i = 0; i < layers; i++) {
        if (syscall(SYS_landlock_restrict_self, ruleset, 0) != 0) result = -errno;
    }
    close((int)ruleset);
    return result;
}

static void *live(void *argument) {
    struct sample *s = argument;
    s->result = restrict_itself(s->layers);
    sem_post(&s->made);
    while (sem_wait(&s->over) != 0) {
    }
    return NULL;
}

static void end(struct sample *s) {
    sem_post(&s->over);
    pthread_join(s->thread, NULL);
    free(s);
}

/* landlockSample(layers, look): calls `look` with the number of a thread in so many layers of restriction, or -errno; the
 * thread ends when `look` returns. */
static napi_value js_landlock_sample(napi_env env, napi_callback_info info) {
    size_t argc = 2;
    napi_value argv[2], number, global, answer = NULL;
    struct sample *s = calloc(1, sizeof *s);
    if (s == NULL || napi_get_cb_info(env, info, &argc, argv, NULL, NULL) != napi_ok || argc < 2
        || napi_get_value_uint32(env, argv[0], &s->layers) != napi_ok) {
        free(s);
        napi_throw_type_error(env, "linux.argument", "landlockSample takes a number and a function");
        return NULL;
    }
    sem_init(&s->made, 0, 0);
    sem_init(&s->over, 0, 0);
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = pthread_create(&s->thread, NULL, live, s);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (error == 0) {
        while (sem_wait(&s->made) != 0) {
        }
    } else s->result = -error;
    if (napi_create_int64(env, s->result, &number) == napi_ok && napi_get_global(env, &global) == napi_ok) {
        napi_call_function(env, global, argv[1], 1, &number, &answer);
    }
    if (error == 0) end(s);
    else free(s);
    return answer;
}

void ferry_register_landlock(napi_env env, napi_value exports, ferry_export export_function) {
    export_function(env, exports, "landlockSample", js_landlock_sample);
}
