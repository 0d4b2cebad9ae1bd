#include "page-set.h"

#include <stdlib.h>
#include <string.h>

#define GONE UINT64_MAX

void *must_calloc(size_t count, size_t size) {
    void *memory = calloc(count, size);
    if (memory == NULL) abort();
    return memory;
}

static size_t place_of(uint64_t key, size_t capacity) {
    return (size_t)((key * 0x9e3779b97f4a7c15ull) >> 32) & (capacity - 1);
}

static struct page_chunk *find(const struct page_set *set, uint64_t key) {
    if (set->capacity == 0) return NULL;
    for (size_t i = place_of(key, set->capacity);; i = (i + 1) & (set->capacity - 1)) {
        struct page_chunk *chunk = &set->table[i];
        if (chunk->key == key) return chunk;
        if (chunk->key == 0) return NULL;
    }
}

static struct page_chunk *find_or_add(struct page_set *set, uint64_t key);

static void grow(struct page_set *set) {
    struct page_set larger = {0};
    larger.capacity = set->capacity == 0 ? 16 : set->capacity * 2;
    larger.table = must_calloc(larger.capacity, sizeof *larger.table);
    for (size_t i = 0; i < set->capacity; i++)
        if (set->table[i].key != 0) *find_or_add(&larger, set->table[i].key) = set->table[i];
    larger.pages = set->pages;
    free(set->table);
    *set = larger;
}

static struct page_chunk *find_or_add(struct page_set *set, uint64_t key) {
    struct page_chunk *found = find(set, key);
    if (found != NULL) return found;
    if ((set->used + 1) * 2 > set->capacity) grow(set);
    size_t i = place_of(key, set->capacity);
    while (set->table[i].key != 0) i = (i + 1) & (set->capacity - 1);
    set->table[i].key = key;
    set->used++;
    return &set->table[i];
}

static uint64_t key_of(uint64_t address) { return 1 + address / CHUNK_BYTES; }
static size_t word_of(uint64_t address) { return (size_t)(address / PAGE_BYTES % CHUNK_PAGES / 64); }
static uint64_t bit_of(uint64_t address) { return 1ull << (address / PAGE_BYTES % 64); }

bool page_set_has(const struct page_set *set, uint64_t address) {
    const struct page_chunk *chunk = find(set, key_of(address));
    return chunk != NULL && (chunk->bits[word_of(address)] & bit_of(address)) != 0;
}

void page_set_add(struct page_set *set, uint64_t address) {
    uint64_t *word = &find_or_add(set, key_of(address))->bits[word_of(address)];
    if ((*word & bit_of(address)) == 0) set->pages++;
    *word |= bit_of(address);
}

void page_set_remove(struct page_set *set, uint64_t address) {
    struct page_chunk *chunk = find(set, key_of(address));
    if (chunk == NULL) return;
    uint64_t *word = &chunk->bits[word_of(address)];
    if ((*word & bit_of(address)) != 0) set->pages--;
    *word &= ~bit_of(address);
}

void page_set_copy(struct page_set *to, const struct page_set *from) {
    *to = *from;
    if (from->capacity == 0) return;
    to->table = must_calloc(from->capacity, sizeof *to->table);
    memcpy(to->table, from->table, from->capacity * sizeof *to->table);
}

void page_set_free(struct page_set *set) {
    free(set->table);
    *set = (struct page_set){0};
}

static void visit_chunk(struct page_chunk *chunk, uint64_t start, uint64_t end, void (*visit)(void *, uint64_t),
                        void *context) {
    uint64_t base = (chunk->key - 1) * CHUNK_BYTES;
    for (size_t word = 0; word < CHUNK_WORDS; word++) {
        for (uint64_t bits = chunk->bits[word]; bits != 0; bits &= bits - 1) {
            uint64_t address = base + (word * 64 + (uint64_t)__builtin_ctzll(bits)) * PAGE_BYTES;
            if (address >= start && address < end) visit(context, address);
        }
    }
}

void page_set_within(struct page_set *set, uint64_t start, uint64_t end, void (*visit)(void *, uint64_t),
                     void *context) {
    if (start >= end || set->capacity == 0) return;
    uint64_t first = key_of(start), last = key_of(end - 1);
    if (last - first >= set->capacity) {
        for (size_t i = 0; i < set->capacity; i++)
            if (set->table[i].key >= first && set->table[i].key <= last)
                visit_chunk(&set->table[i], start, end, visit, context);
        return;
    }
    for (uint64_t key = first; key <= last; key++) {
        struct page_chunk *chunk = find(set, key);
        if (chunk != NULL) visit_chunk(chunk, start, end, visit, context);
    }
}

static struct page_entry *entry_of(const struct page_map *map, uint64_t key) {
    if (map->capacity == 0) return NULL;
    for (size_t i = place_of(key, map->capacity);; i = (i + 1) & (map->capacity - 1)) {
        struct page_entry *entry = &map->table[i];
        if (entry->from == key) return entry;
        if (entry->from == 0) return NULL;
    }
}

static void map_grow(struct page_map *map) {
    struct page_map larger = {0};
    larger.capacity = map->live * 4 < 16 ? 16 : 1;
    while (larger.capacity < map->live * 4) larger.capacity *= 2;
    larger.table = must_calloc(larger.capacity, sizeof *larger.table);
    for (size_t i = 0; i < map->capacity; i++) {
        const struct page_entry *entry = &map->table[i];
        if (entry->from != 0 && entry->from != GONE) page_map_put(&larger, entry->from - 1, entry->to);
    }
    free(map->table);
    *map = larger;
}

bool page_map_get(const struct page_map *map, uint64_t from, uint64_t *to) {
    const struct page_entry *entry = entry_of(map, from + 1);
    if (entry == NULL) return false;
    *to = entry->to;
    return true;
}

void page_map_put(struct page_map *map, uint64_t from, uint64_t to) {
    struct page_entry *found = entry_of(map, from + 1);
    if (found == NULL) {
        if ((map->used + 1) * 2 > map->capacity) map_grow(map);
        size_t i = place_of(from + 1, map->capacity);
        while (map->table[i].from != 0) i = (i + 1) & (map->capacity - 1);
        found = &map->table[i];
        found->from = from + 1;
        map->used++;
        map->live++;
    }
    found->to = to;
}

void page_map_remove(struct page_map *map, uint64_t from) {
    struct page_entry *found = entry_of(map, from + 1);
    if (found == NULL) return;
    found->from = GONE;
    map->live--;
}

void page_map_copy(struct page_map *to, const struct page_map *from) {
    *to = *from;
    if (from->capacity == 0) return;
    to->table = must_calloc(from->capacity, sizeof *to->table);
    memcpy(to->table, from->table, from->capacity * sizeof *to->table);
}

void page_map_free(struct page_map *map) {
    free(map->table);
    *map = (struct page_map){0};
}
