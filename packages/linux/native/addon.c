/* The native half of @ferry/linux: raw system calls for the typed wrappers in TypeScript, and nothing
 * that decides anything. Bulk page loops live in pages.c. */
#define _GNU_SOURCE
#include <cpuid.h>
#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include <node_api.h>

#include "addon.h"
#include "batch.h"

/* Reads one system call argument: a number, a bigint, a Buffer (its address), or null/undefined (0). */
static int read_argument(napi_env env, napi_value value, uint64_t *out) {
    napi_valuetype type;
    if (napi_typeof(env, value, &type) != napi_ok) return -1;
    switch (type) {
    case napi_number: {
        int64_t number;
        if (napi_get_value_int64(env, value, &number) != napi_ok) return -1;
        *out = (uint64_t)number;
        return 0;
    }
    case napi_bigint: {
        bool lossless = false;
        uint64_t word = 0;
        if (napi_get_value_bigint_uint64(env, value, &word, &lossless) != napi_ok) return -1;
        if (!lossless) {
            int64_t negative = 0;
            if (napi_get_value_bigint_int64(env, value, &negative, &lossless) != napi_ok || !lossless)
                return -1;
            word = (uint64_t)negative;
        }
        *out = word;
        return 0;
    }
    case napi_null:
    case napi_undefined:
        *out = 0;
        return 0;
    case napi_object: {
        bool is_buffer = false;
        void *data = NULL;
        size_t length = 0;
        if (napi_is_buffer(env, value, &is_buffer) != napi_ok || !is_buffer) return -1;
        if (napi_get_buffer_info(env, value, &data, &length) != napi_ok) return -1;
        *out = (uint64_t)(uintptr_t)data;
        return 0;
    }
    default:
        return -1;
    }
}

/* syscall(nr, a0..a5): the kernel's result, or -errno. Never throws for a kernel error. */
static napi_value js_syscall(napi_env env, napi_callback_info info) {
    napi_value argv[7];
    size_t argc = 7;
    uint64_t words[7] = {0};
    if (napi_get_cb_info(env, info, &argc, argv, NULL, NULL) != napi_ok) return NULL;
    for (size_t i = 0; i < argc && i < 7; i++) {
        if (read_argument(env, argv[i], &words[i]) != 0) {
            napi_throw_type_error(env, "linux.argument",
                                  "A system call argument is a number, a bigint, a Buffer or null");
            return NULL;
        }
    }
    long result = syscall((long)words[0], words[1], words[2], words[3], words[4], words[5], words[6]);
    int64_t out = result == -1 ? -(int64_t)errno : (int64_t)result;
    napi_value value;
    napi_create_int64(env, out, &value);
    return value;
}

/* syscalls(calls, first): makes every call of the Buffer, with `first` as its first argument, whatever the others
 * gave; results stand in the Buffer. One step into native code costs as much as several system calls. */
static napi_value js_syscalls(napi_env env, napi_callback_info info) {
    napi_value argv[2];
    size_t argc = 2, length = 0;
    void *data = NULL;
    int64_t first = 0;
    if (napi_get_cb_info(env, info, &argc, argv, NULL, NULL) != napi_ok) return NULL;
    if (argc < 2 || napi_get_buffer_info(env, argv[0], &data, &length) != napi_ok ||
        napi_get_value_int64(env, argv[1], &first) != napi_ok || length % sizeof(struct batched_call) != 0) {
        napi_throw_type_error(env, "linux.argument", "syscalls takes a Buffer of calls and a number");
        return NULL;
    }
    ferry_make_calls(data, length / sizeof(struct batched_call), (uint64_t)first);
    return NULL;
}

/* addressOf(buffer): where a Buffer's bytes are, as a bigint, to be put inside kernel structures. The
 * caller keeps the Buffer referenced until the system call has returned. */
static napi_value js_address_of(napi_env env, napi_callback_info info) {
    napi_value argv[1], value;
    size_t argc = 1;
    uint64_t word = 0;
    if (napi_get_cb_info(env, info, &argc, argv, NULL, NULL) != napi_ok) return NULL;
    if (argc < 1 || read_argument(env, argv[0], &word) != 0) {
        napi_throw_type_error(env, "linux.argument", "addressOf takes a Buffer");
        return NULL;
    }
    napi_create_bigint_uint64(env, word, &value);
    return value;
}

/* cpuid(leaf, subleaf, out): what the processor says of itself: eax, ebx, ecx, edx, 32 bits each. Zeros for a leaf that it
 * does not have. */
static napi_value js_cpuid(napi_env env, napi_callback_info info) {
    napi_value argv[3];
    size_t argc = 3, length = 0;
    uint32_t leaf = 0, subleaf = 0, *out = NULL;
    if (napi_get_cb_info(env, info, &argc, argv, NULL, NULL) != napi_ok) return NULL;
    if (argc < 3 || napi_get_value_uint32(env, argv[0], &leaf) != napi_ok ||
        napi_get_value_uint32(env, argv[1], &subleaf) != napi_ok ||
        napi_get_buffer_info(env, argv[2], (void **)&out, &length) != napi_ok || length < 4 * sizeof *out) {
        napi_throw_type_error(env, "linux.argument", "cpuid takes two numbers and a Buffer of 16 bytes");
        return NULL;
    }
    memset(out, 0, 4 * sizeof *out);
    __get_cpuid_count(leaf, subleaf, &out[0], &out[1], &out[2], &out[3]);
    return NULL;
}

static void export_function(napi_env env, napi_value exports, const char *name, napi_callback function) {
    napi_value value;
    napi_create_function(env, name, NAPI_AUTO_LENGTH, function, NULL, &value);
    napi_set_named_property(env, exports, name, value);
}

NAPI_MODULE_INIT() {
    export_function(env, exports, "syscall", js_syscall);
    export_function(env, exports, "syscalls", js_syscalls);
    export_function(env, exports, "addressOf", js_address_of);
    export_function(env, exports, "cpuid", js_cpuid);
    ferry_register_pages(env, exports, export_function);
    ferry_register_userfault_events(env, exports, export_function);
    ferry_register_ahead(env, exports, export_function);
    ferry_register_landlock(env, exports, export_function);
    return exports;
}
