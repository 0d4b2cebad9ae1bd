/* Bulk page loops on libuv's threads: read and compress, decompress and write. Every buffer belongs to the caller and
 * is kept referenced while a call runs; nothing here allocates in proportion to what a peer says. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <lz4.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "addon.h"
#include "siphash.h"
#include "xxh64.h"

#define PAGE_BYTES 4096ull
#define IOVECS_A_CALL 512
#define BUFFERS_A_CALL 6
#define PAGE_HASH_BYTES 16
#define KEY_BYTES 16

/* Consecutive pages of one process; native byte order, made by src/page-io.ts. */
struct page_run {
    uint64_t pid;
    uint64_t address;
    uint64_t pages;
};
_Static_assert(sizeof(struct page_run) == 24, "page-io.ts writes this struct");

enum encoding { ENCODING_RAW = 0, ENCODING_LZ4 = 1 };
enum status { STATUS_DONE = 0, STATUS_DAMAGED = 1, STATUS_FAILED = 2 };

/* One call, on the heap from the JavaScript side's request to its promise. */
struct page_work {
    napi_async_work work;
    napi_deferred deferred;
    napi_ref references[BUFFERS_A_CALL];
    const struct page_run *runs;
    size_t run_count;
    uint8_t *raw;         /* uncompressed pages: scratch of a write, result or scratch of a read */
    size_t raw_length;
    uint8_t *packed;      /* compressed pages */
    size_t packed_length; /* read: capacity, then length of the result; write: length */
    int acceleration;
    int encoding;
    uint64_t hash;
    int writing;
    int lenient; /* read: what is not there any more counts as zeros */
    uint8_t *page_hashes; /* read: room for one of each page that is wanted; NULL: none is */
    const uint32_t *hashed; /* read: those, by their place among all pages; NULL: all */
    size_t hashed_count;
    const uint8_t *key;
    /* Outcome. */
    int status;
    int error; /* errno of STATUS_FAILED */
    size_t failed_run;
    uint64_t failed_address;
};

static int fail_at(struct page_work *w, size_t run, uint64_t address, int error) {
    w->status = STATUS_FAILED;
    w->error = error;
    w->failed_run = run;
    w->failed_address = address;
    return -1;
}

/* Through /proc/PID/mem, which reaches what process_vm_*v(2) refuses: pages that their owner may not read (PROT_NONE)
 * or write. mm/gup.c: FOLL_FORCE is set by mem_rw(), not by process_vm_rw(). */
static int transfer_by_file(struct page_work *w, size_t run, uint64_t address, uint8_t *at, uint64_t length) {
    char path[64];
    snprintf(path, sizeof path, "/proc/%llu/mem", (unsigned long long)w->runs[run].pid);
    int fd = open(path, (w->writing ? O_RDWR : O_RDONLY) | O_CLOEXEC);
    if (fd < 0 && !w->lenient) return fail_at(w, run, address, errno);
    while (length > 0) {
        ssize_t n = -1;
        if (fd >= 0)
            n = w->writing ? pwrite(fd, at, length, (off_t)address) : pread(fd, at, length, (off_t)address);
        if (n < 0 && fd >= 0 && errno == EINTR) continue;
        if (n <= 0 && w->lenient) { /* this page is gone; the next may be there */
            n = (ssize_t)(PAGE_BYTES - address % PAGE_BYTES);
            memset(at, 0, (size_t)n);
        } else if (n <= 0) {
            int error = n < 0 ? errno : EFAULT;
            close(fd);
            return fail_at(w, run, address, error);
        }
        at += n;
        address += (uint64_t)n;
        length -= (uint64_t)n;
    }
    if (fd >= 0) close(fd);
    return 0;
}

/* Moves the pages of runs [first, last), all of one process, from or to `at`, many runs a system call. */
static int transfer_process(struct page_work *w, size_t first, size_t last, uint8_t *at) {
    uint64_t skip = 0; /* bytes of run `first` that are done */
    while (first < last) {
        struct iovec remote[IOVECS_A_CALL];
        size_t count = 0;
        uint64_t length = 0;
        for (size_t i = first; i < last && count < IOVECS_A_CALL; i++, count++) {
            uint64_t done = i == first ? skip : 0;
            remote[count].iov_base = (void *)(uintptr_t)(w->runs[i].address + done);
            remote[count].iov_len = w->runs[i].pages * PAGE_BYTES - done;
            length += remote[count].iov_len;
        }
        struct iovec local = {.iov_base = at, .iov_len = length};
        pid_t pid = (pid_t)w->runs[first].pid;
        ssize_t n = w->writing ? process_vm_writev(pid, &local, 1, remote, count, 0)
                               : process_vm_readv(pid, &local, 1, remote, count, 0);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0 && errno != EFAULT && !w->lenient) return fail_at(w, first, w->runs[first].address + skip, errno);
        uint64_t moved = n < 0 ? 0 : (uint64_t)n;
        at += moved;
        int short_call = moved < length;
        moved += skip;
        while (first < last && moved >= w->runs[first].pages * PAGE_BYTES) {
            moved -= w->runs[first].pages * PAGE_BYTES;
            first++;
        }
        skip = moved;
        if (short_call) { /* it stopped at a page that it may not touch */
            uint64_t rest = w->runs[first].pages * PAGE_BYTES - skip;
            if (transfer_by_file(w, first, w->runs[first].address + skip, at, rest) != 0) return -1;
            at += rest;
            first++;
            skip = 0;
        }
    }
    return 0;
}

static int transfer(struct page_work *w, uint8_t *at) {
    for (size_t first = 0, last; first < w->run_count; first = last) {
        uint64_t length = 0;
        for (last = first; last < w->run_count && w->runs[last].pid == w->runs[first].pid; last++)
            length += w->runs[last].pages * PAGE_BYTES;
        if (transfer_process(w, first, last, at) != 0) return -1;
        at += length;
    }
    return 0;
}

static void read_pages(struct page_work *w) {
    if (transfer(w, w->raw) != 0) return;
    for (size_t i = 0; w->page_hashes != NULL && i < w->hashed_count; i++) {
        size_t page = w->hashed == NULL ? i : w->hashed[i];
        ferry_siphash128(w->raw + page * PAGE_BYTES, PAGE_BYTES, w->key, w->page_hashes + i * PAGE_HASH_BYTES);
    }
    w->hash = ferry_xxh64(w->raw, w->raw_length, 0);
    int length = w->packed_length == 0
                     ? 0
                     : LZ4_compress_fast((const char *)w->raw, (char *)w->packed, (int)w->raw_length,
                                         (int)w->packed_length, w->acceleration);
    w->encoding = length > 0 ? ENCODING_LZ4 : ENCODING_RAW;
    w->packed_length = length > 0 ? (size_t)length : w->raw_length;
}

static void write_pages(struct page_work *w) {
    uint8_t *pages = w->packed;
    if (w->encoding == ENCODING_LZ4) {
        int length = LZ4_decompress_safe((const char *)w->packed, (char *)w->raw, (int)w->packed_length,
                                         (int)w->raw_length);
        pages = w->raw;
        if (length < 0 || (size_t)length != w->raw_length) w->status = STATUS_DAMAGED;
    } else if (w->packed_length != w->raw_length) {
        w->status = STATUS_DAMAGED;
    }
    if (w->status == STATUS_DONE && ferry_xxh64(pages, w->raw_length, 0) != w->hash)
        w->status = STATUS_DAMAGED;
    if (w->status == STATUS_DONE) transfer(w, pages);
}

static void execute(napi_env env, void *data) {
    struct page_work *w = data;
    (void)env;
    if (w->writing) write_pages(w);
    else read_pages(w);
}

static void set_number(napi_env env, napi_value object, const char *name, double number) {
    napi_value value;
    napi_create_double(env, number, &value);
    napi_set_named_property(env, object, name, value);
}

static void set_bigint(napi_env env, napi_value object, const char *name, uint64_t word) {
    napi_value value;
    napi_create_bigint_uint64(env, word, &value);
    napi_set_named_property(env, object, name, value);
}

static void release(napi_env env, struct page_work *w) {
    for (int i = 0; i < BUFFERS_A_CALL; i++)
        if (w->references[i] != NULL) napi_delete_reference(env, w->references[i]);
    if (w->work != NULL) napi_delete_async_work(env, w->work);
    free(w);
}

static void complete(napi_env env, napi_status status, void *data) {
    struct page_work *w = data;
    napi_value result;
    napi_create_object(env, &result);
    set_number(env, result, "status", status == napi_ok ? w->status : STATUS_FAILED);
    set_number(env, result, "errno", status == napi_ok ? w->error : ECANCELED);
    set_number(env, result, "failedRun", (double)w->failed_run);
    set_bigint(env, result, "failedAddress", w->failed_address);
    set_number(env, result, "encoding", w->encoding);
    set_number(env, result, "length", (double)w->packed_length);
    set_bigint(env, result, "hash", w->hash);
    napi_resolve_deferred(env, w->deferred, result);
    release(env, w);
}

/* Takes argument `index`, a Buffer, and keeps it alive until the call completes. */
static int take_buffer(napi_env env, struct page_work *w, napi_value value, int index, void **data,
                       size_t *length) {
    bool is_buffer = false;
    if (napi_is_buffer(env, value, &is_buffer) != napi_ok || !is_buffer) return -1;
    if (napi_get_buffer_info(env, value, data, length) != napi_ok) return -1;
    return napi_create_reference(env, value, 1, &w->references[index]) == napi_ok ? 0 : -1;
}

/* The runs, and that they ask for 1 byte to 2 GiB in whole pages without overflow; the sum goes to raw_length. */
static int take_runs(napi_env env, struct page_work *w, napi_value value) {
    void *data;
    size_t length;
    uint64_t total = 0;
    if (take_buffer(env, w, value, 0, &data, &length) != 0) return -1;
    if (length == 0 || length % sizeof(struct page_run) != 0 || (uintptr_t)data % 8 != 0) return -1;
    w->runs = data;
    w->run_count = length / sizeof(struct page_run);
    for (size_t i = 0; i < w->run_count; i++) {
        const struct page_run *run = &w->runs[i];
        if (run->pid == 0 || run->pid > INT32_MAX || run->address % PAGE_BYTES != 0) return -1;
        if (run->pages == 0 || run->pages > LZ4_MAX_INPUT_SIZE / PAGE_BYTES) return -1;
        total += run->pages * PAGE_BYTES;
        if (total > LZ4_MAX_INPUT_SIZE) return -1;
    }
    w->raw_length = total;
    return 0;
}

static napi_value refuse(napi_env env, struct page_work *w, const char *text) {
    release(env, w);
    napi_throw_type_error(env, "linux.argument", text);
    return NULL;
}

static napi_value start(napi_env env, struct page_work *w) {
    napi_value promise, name;
    napi_create_string_utf8(env, "ferry pages", NAPI_AUTO_LENGTH, &name);
    if (napi_create_async_work(env, NULL, name, execute, complete, w, &w->work) != napi_ok)
        return refuse(env, w, "No asynchronous work can be created");
    if (napi_create_promise(env, &w->deferred, &promise) != napi_ok)
        return refuse(env, w, "No promise can be created");
    if (napi_queue_async_work(env, w->work) != napi_ok)
        return refuse(env, w, "No asynchronous work can be queued");
    return promise;
}

/* Takes which pages are to be hashed, unless it is all. */
static int take_hashed(napi_env env, struct page_work *w, napi_value value) {
    void *data = NULL;
    size_t length = 0, pages = w->raw_length / PAGE_BYTES;
    if (take_buffer(env, w, value, 5, &data, &length) != 0) return -1;
    w->hashed_count = length == 0 ? pages : length / sizeof *w->hashed;
    if (length == 0) return 0;
    if (length % sizeof *w->hashed != 0 || (uintptr_t)data % sizeof *w->hashed != 0) return -1;
    w->hashed = data;
    for (size_t i = 0; i < w->hashed_count; i++)
        if (w->hashed[i] >= pages) return -1;
    return 0;
}

/* Takes the room for hashes of single pages, which may be empty, their key, and which pages these are. */
static int take_page_hashes(napi_env env, struct page_work *w, const napi_value argv[3]) {
    void *data = NULL;
    size_t room = 0, key_length = 0;
    if (take_buffer(env, w, argv[0], 3, &data, &room) != 0) return -1;
    if (room == 0) return 0;
    w->page_hashes = data;
    if (take_buffer(env, w, argv[1], 4, &data, &key_length) != 0 || key_length != KEY_BYTES) return -1;
    w->key = data;
    if (take_hashed(env, w, argv[2]) != 0) return -1;
    return room < w->hashed_count * PAGE_HASH_BYTES ? -1 : 0;
}

/* readPages(runs, raw, packed, acceleration, lenient, pageHashes, key, hashed): reads the pages of `runs` into the start
 * of `raw` and compresses them into `packed`; where they do not fit there (give less room than their size) the result is
 * `raw` as it is. Where there is room for them, hashes of single pages go to `pageHashes`: of all, or of those that
 * `hashed` lists (32 bits each). */
static napi_value js_read_pages(napi_env env, napi_callback_info info) {
    static const char text[] = "readPages takes (runs, raw, packed, acceleration, lenient, pageHashes, key, hashed)";
    napi_value argv[8];
    size_t argc = 8, room = 0;
    void *data = NULL;
    struct page_work *w = calloc(1, sizeof *w);
    if (w == NULL || napi_get_cb_info(env, info, &argc, argv, NULL, NULL) != napi_ok || argc != 8) {
        free(w);
        napi_throw_type_error(env, "linux.argument", text);
        return NULL;
    }
    if (take_runs(env, w, argv[0]) != 0) return refuse(env, w, text);
    if (take_buffer(env, w, argv[1], 1, &data, &room) != 0 || room < w->raw_length)
        return refuse(env, w, text);
    w->raw = data;
    if (take_buffer(env, w, argv[2], 2, &data, &room) != 0 || room > INT_MAX) return refuse(env, w, text);
    w->packed = data;
    w->packed_length = room;
    if (napi_get_value_int32(env, argv[3], &w->acceleration) != napi_ok) return refuse(env, w, text);
    if (napi_get_value_int32(env, argv[4], &w->lenient) != napi_ok) return refuse(env, w, text);
    if (take_page_hashes(env, w, &argv[5]) != 0) return refuse(env, w, text);
    return start(env, w);
}

/* writePages(runs, payload, scratch, encoding, hash): unpacks `payload` into `scratch` where it is compressed, checks the
 * hash of the pages, and only then writes them into the processes. */
static napi_value js_write_pages(napi_env env, napi_callback_info info) {
    static const char text[] = "writePages takes (runs, payload, scratch, encoding, hash)";
    napi_value argv[5];
    size_t argc = 5, room = 0;
    void *data = NULL;
    bool lossless = false;
    struct page_work *w = calloc(1, sizeof *w);
    if (w == NULL || napi_get_cb_info(env, info, &argc, argv, NULL, NULL) != napi_ok || argc != 5) {
        free(w);
        napi_throw_type_error(env, "linux.argument", text);
        return NULL;
    }
    w->writing = 1;
    if (take_runs(env, w, argv[0]) != 0) return refuse(env, w, text);
    if (take_buffer(env, w, argv[1], 1, &data, &w->packed_length) != 0 || w->packed_length > INT_MAX)
        return refuse(env, w, text);
    w->packed = data;
    if (take_buffer(env, w, argv[2], 2, &data, &room) != 0 || room < w->raw_length)
        return refuse(env, w, text);
    w->raw = data;
    if (napi_get_value_int32(env, argv[3], &w->encoding) != napi_ok ||
        (w->encoding != ENCODING_RAW && w->encoding != ENCODING_LZ4))
        return refuse(env, w, text);
    if (napi_get_value_bigint_uint64(env, argv[4], &w->hash, &lossless) != napi_ok || !lossless)
        return refuse(env, w, text);
    return start(env, w);
}

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

/* freeBuffer(buffer): gives the memory of a Buffer that has an ArrayBuffer of its own back at once, not when V8 comes to
 * collect it; the Buffer is empty afterwards. */
static napi_value js_free_buffer(napi_env env, napi_callback_info info) {
    napi_value argv[1], array_buffer;
    size_t argc = 1, length = 0, offset = 0;
    napi_typedarray_type type;
    if (napi_get_cb_info(env, info, &argc, argv, NULL, NULL) != napi_ok) return NULL;
    if (argc < 1 ||
        napi_get_typedarray_info(env, argv[0], &type, &length, NULL, &array_buffer, &offset) != napi_ok ||
        napi_detach_arraybuffer(env, array_buffer) != napi_ok)
        napi_throw_type_error(env, "linux.argument", "freeBuffer takes a Buffer that can be detached");
    return NULL;
}

void ferry_register_pages(napi_env env, napi_value exports, ferry_export export_function) {
    export_function(env, exports, "freeBuffer", js_free_buffer);
    export_function(env, exports, "hash64", js_hash64);
    export_function(env, exports, "readPages", js_read_pages);
    export_function(env, exports, "writePages", js_write_pages);
}
