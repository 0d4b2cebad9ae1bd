/* Checks the hashes of a dump file before anything of it is used. Every length is checked against the file's size. */
#include "../../linux/native/xxh64.h"
#include "restorer.h"
#include "text.h"

static __attribute__((noreturn)) void damaged(const char *name, const char *part, uint64_t offset) {
    struct text t = {.length = 0};
    text_put(&t, "ferry: ");
    text_put(&t, name);
    text_put(&t, " is damaged: ");
    text_put(&t, part);
    text_put(&t, " at offset ");
    text_number(&t, offset, 16);
    text_put(&t, " does not match its hash; nothing was started\n");
    text_write(&t, report_fd < 0 ? 2 : report_fd);
    sc(__NR_exit_group, STATUS_DAMAGED, 0, 0, 0, 0);
    __builtin_unreachable();
}

static uint64_t file_size(int fd) {
    uint64_t stat[18] = {0};
    return sc(__NR_fstat, (uint64_t)fd, (uint64_t)stat, 0, 0, 0) < 0 ? 0 : stat[6];
}

/* Are [offset, offset + length) inside [0, limit)? */
static int inside(uint64_t offset, uint64_t length, uint64_t limit) {
    return offset <= limit && length <= limit - offset;
}

static int header_is_sound(const struct plan_header *h, uint64_t size) {
    uint64_t ops_length = h->op_count * sizeof(struct plan_op);
    return h->magic == PLAN_MAGIC && h->version == PLAN_VERSION && h->op_count < (1ull << 32) &&
           inside(PLAN_PAGE, h->image_length, size) && inside(h->ops_offset, ops_length, h->image_length) &&
           inside(h->data_offset, 0, h->image_length) && inside(h->pages_offset, h->pages_length, size) &&
           h->region_length >= h->image_length + PLAN_PAGE && h->chunk_count <= size / PLAN_CHUNK + 1 &&
           h->chunk_count * PLAN_CHUNK >= h->pages_length &&
           inside(h->chunk_hashes - h->region, h->chunk_count * 8, h->image_length) &&
           inside(h->info - h->region, h->info_length, h->image_length) &&
           inside(h->children - h->region, h->child_count * sizeof(struct plan_child), h->image_length) &&
           (h->namespaces == 0 ||
            inside(h->namespaces - h->region, sizeof(struct plan_namespaces), h->image_length));
}

static void verify_pages(const char *name, const struct plan_header *h, const char *file) {
    const uint64_t *hashes = (const uint64_t *)(file + PLAN_PAGE + (h->chunk_hashes - h->region));
    for (uint64_t i = 0; i < h->chunk_count; i++) {
        uint64_t at = i * PLAN_CHUNK;
        uint64_t length = h->pages_length - at < PLAN_CHUNK ? h->pages_length - at : PLAN_CHUNK;
        if (ferry_xxh64(file + h->pages_offset + at, length, 0) != hashes[i])
            damaged(name, "a chunk of pages", h->pages_offset + at);
    }
}

/* Between the parts that have hashes the file is empty. */
static void verify_gap(const char *name, const char *file, uint64_t from, uint64_t to) {
    for (uint64_t at = from; at < to; at++)
        if (file[at] != 0) damaged(name, "a gap that should be empty,", at);
}

const void *verify_file(int fd, const char *name, uint64_t header_hash, int with_pages) {
    uint64_t blob = (uint64_t)(blob_end - blob_start), size = file_size(fd);
    uint64_t header_at = PLAN_PAGE + blob;
    if (!inside(header_at, sizeof(struct plan_header), size)) damaged(name, "its end", size);
    const char *file = (const char *)sc6(__NR_mmap, 0, (long)size, 1, 2 /* MAP_PRIVATE */, fd, 0);
    if ((long)file < 0 && (long)file > -4096) damaged(name, "its beginning", 0);
    struct plan_header h = *(const struct plan_header *)(file + header_at);
    uint64_t claimed = h.header_hash;
    h.header_hash = 0;
    if (ferry_xxh64(&h, sizeof h, 0) != claimed || (header_hash != 0 && claimed != header_hash) || h.blob_length != blob)
        damaged(name, "the plan header", header_at);
    if (!header_is_sound(&h, size)) damaged(name, "the plan header", header_at);
    if (ferry_xxh64(file, PLAN_PAGE, 0) != h.elf_hash) damaged(name, "the ELF header", 0);
    if (ferry_xxh64(file + PLAN_PAGE, blob, 0) != h.blob_hash) damaged(name, "the restorer", PLAN_PAGE);
    const char *image = file + PLAN_PAGE;
    if (ferry_xxh64(image + h.ops_offset, h.op_count * sizeof(struct plan_op), 0) != h.ops_hash)
        damaged(name, "the program", PLAN_PAGE + h.ops_offset);
    if (ferry_xxh64(image + h.data_offset, h.image_length - h.data_offset, 0) != h.data_hash)
        damaged(name, "the state", PLAN_PAGE + h.data_offset);
    verify_gap(name, file, PLAN_PAGE + h.ops_offset + h.op_count * sizeof(struct plan_op), PLAN_PAGE + h.data_offset);
    verify_gap(name, file, PLAN_PAGE + h.image_length, h.pages_offset < size ? h.pages_offset : size);
    if (with_pages) verify_pages(name, &h, file);
    const void *children = file + PLAN_PAGE + (h.children - h.region);
    /* The mapping stays: it ends with this address space, and the caller still reads the table of children. */
    return children;
}
