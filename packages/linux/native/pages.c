/* Bulk page loops (scan, read, compress; decompress, write) on libuv's threads. */
#define _GNU_SOURCE
#include <stdint.h>

#include "addon.h"
#include "xxh64.h"

/* hash64(buffer): XXH64 with seed 0 of the whole buffer, as a bigint. */
static napi_value js_hash64(napi_env env, napi_callback_info info) {
    napi_value argv[1], value;
    size_t argc = 1, length = 0;
    void *data = NULL;
    if (napi_get_cb_info(env, info, &argc, argv, NULL, NULL) != napi_ok) return NULL;
    if (argc < 1 || napi_get_buffer_info(env, argv[0], &data, &length) != napi_ok) {
        napi_throw_type_error(env, "linux.argument", "hash64 takes a Buffer");
        return NULL;
    }
    napi_create_bigint_uint64(env, ferry_xxh64(data, length, 0), &value);
    return value;
}

void ferry_register_pages(napi_env env, napi_value exports, ferry_export export_function) {
    export_function(env, exports, "hash64", js_hash64);
}
