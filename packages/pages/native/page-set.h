/* Sets of pages of one address space, one bit a page, in chunks of 2 MiB by a hash table: memory is sparse. */
#ifndef FERRY_PAGE_SET_H
#define FERRY_PAGE_SET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PAGE_BYTES 4096ull
#define CHUNK_PAGES 512ull
#define CHUNK_BYTES (CHUNK_PAGES * PAGE_BYTES)
#define CHUNK_WORDS (CHUNK_PAGES / 64)

struct page_chunk {
    uint64_t key; /* 1 + address / CHUNK_BYTES; 0: free */
    uint64_t bits[CHUNK_WORDS];
};

struct page_set {
    struct page_chunk *table;
    size_t capacity; /* a power of two, or 0 */
    size_t used;
    uint64_t pages;
};

bool page_set_has(const struct page_set *set, uint64_t address);
void page_set_add(struct page_set *set, uint64_t address);
void page_set_remove(struct page_set *set, uint64_t address);
void page_set_copy(struct page_set *to, const struct page_set *from);
void page_set_free(struct page_set *set);

/* Calls `visit` for every page of [start, end) in the set, in no order; it may remove that page and no other. */
void page_set_within(struct page_set *set, uint64_t start, uint64_t end, void (*visit)(void *context, uint64_t address),
                     void *context);

/* Where pages went: a hash table of page addresses. */
struct page_entry {
    uint64_t from; /* 1 + address; 0: free; UINT64_MAX: given up */
    uint64_t to;
};

struct page_map {
    struct page_entry *table;
    size_t capacity;
    size_t used; /* with those given up */
    size_t live;
};

bool page_map_get(const struct page_map *map, uint64_t from, uint64_t *to);
void page_map_put(struct page_map *map, uint64_t from, uint64_t to);
void page_map_remove(struct page_map *map, uint64_t from);
void page_map_copy(struct page_map *to, const struct page_map *from);
void page_map_free(struct page_map *map);

/* calloc(3) that ends the program where there is no memory: whoever looks after it knows what that means. */
void *must_calloc(size_t count, size_t size);

#endif
