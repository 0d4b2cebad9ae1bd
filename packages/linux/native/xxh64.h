/* XXH64, written from the algorithm's public description (xxHash specification, version 0.1.1). Shared by the
 * addon and the restorer, hence freestanding: no libc, no tables. */
#ifndef FERRY_XXH64_H
#define FERRY_XXH64_H

#include <stddef.h>
#include <stdint.h>

#define XXH_P1 0x9E3779B185EBCA87ull
#define XXH_P2 0xC2B2AE3D27D4EB4Full
#define XXH_P3 0x165667B19E3779F9ull
#define XXH_P4 0x85EBCA77C2B2AE63ull
#define XXH_P5 0x27D4EB2F165667C5ull

static inline uint64_t xxh_rotl(uint64_t x, int r) { return (x << r) | (x >> (64 - r)); }

static inline uint64_t xxh_read64(const uint8_t *p) {
    uint64_t v;
    __builtin_memcpy(&v, p, 8);
    return v;
}

static inline uint32_t xxh_read32(const uint8_t *p) {
    uint32_t v;
    __builtin_memcpy(&v, p, 4);
    return v;
}

static inline uint64_t xxh_round(uint64_t acc, uint64_t lane) {
    return xxh_rotl(acc + lane * XXH_P2, 31) * XXH_P1;
}

static inline uint64_t xxh_merge(uint64_t acc, uint64_t lane) {
    return (acc ^ xxh_round(0, lane)) * XXH_P1 + XXH_P4;
}

/* The state of a hash in progress; feed it whole blocks of 32 bytes and the rest at the end. */
struct ferry_xxh64_state {
    uint64_t v1, v2, v3, v4, total, seed;
};

static inline void ferry_xxh64_init(struct ferry_xxh64_state *s, uint64_t seed) {
    s->v1 = seed + XXH_P1 + XXH_P2;
    s->v2 = seed + XXH_P2;
    s->v3 = seed;
    s->v4 = seed - XXH_P1;
    s->total = 0;
    s->seed = seed;
}

/* Adds `length` bytes, a multiple of 32. */
static inline void ferry_xxh64_blocks(struct ferry_xxh64_state *s, const void *data, size_t length) {
    const uint8_t *p = data, *end = p + length;
    uint64_t v1 = s->v1, v2 = s->v2, v3 = s->v3, v4 = s->v4;
    for (; p < end; p += 32) {
        v1 = xxh_round(v1, xxh_read64(p));
        v2 = xxh_round(v2, xxh_read64(p + 8));
        v3 = xxh_round(v3, xxh_read64(p + 16));
        v4 = xxh_round(v4, xxh_read64(p + 24));
    }
    s->v1 = v1, s->v2 = v2, s->v3 = v3, s->v4 = v4;
    s->total += length;
}

/* Adds the last 0 to 31 bytes and returns the hash. */
static inline uint64_t ferry_xxh64_finish(struct ferry_xxh64_state *s, const void *tail, size_t length) {
    const uint8_t *p = tail, *end = p + length;
    uint64_t h = s->seed + XXH_P5;
    if (s->total >= 32) {
        h = xxh_rotl(s->v1, 1) + xxh_rotl(s->v2, 7) + xxh_rotl(s->v3, 12) + xxh_rotl(s->v4, 18);
        h = xxh_merge(h, s->v1);
        h = xxh_merge(h, s->v2);
        h = xxh_merge(h, s->v3);
        h = xxh_merge(h, s->v4);
    }
    h += s->total + length;
    for (; p + 8 <= end; p += 8) h = xxh_rotl(h ^ xxh_round(0, xxh_read64(p)), 27) * XXH_P1 + XXH_P4;
    if (p + 4 <= end) {
        h = xxh_rotl(h ^ (uint64_t)xxh_read32(p) * XXH_P1, 23) * XXH_P2 + XXH_P3;
        p += 4;
    }
    for (; p < end; p++) h = xxh_rotl(h ^ *p * XXH_P5, 11) * XXH_P1;
    h = (h ^ (h >> 33)) * XXH_P2;
    h = (h ^ (h >> 29)) * XXH_P3;
    return h ^ (h >> 32);
}

static inline uint64_t ferry_xxh64(const void *data, size_t length, uint64_t seed) {
    struct ferry_xxh64_state s;
    size_t whole = length & ~(size_t)31;
    ferry_xxh64_init(&s, seed);
    ferry_xxh64_blocks(&s, data, whole);
    return ferry_xxh64_finish(&s, (const uint8_t *)data + whole, length - whole);
}

#endif
