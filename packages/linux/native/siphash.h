/* SipHash-2-4 with a result of 128 bits, written from its public description (Aumasson, Bernstein: "SipHash: a fast
 * short-input PRF", and the 128-bit variant of its authors). Keyed: who does not know the key cannot make two pages that
 * look alike. */
#ifndef FERRY_SIPHASH_H
#define FERRY_SIPHASH_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

static inline uint64_t sip_rotl(uint64_t x, int r) { return (x << r) | (x >> (64 - r)); }

static inline void sip_rounds(uint64_t v[4], int count) {
    while (count-- > 0) {
        v[0] += v[1];
        v[1] = sip_rotl(v[1], 13) ^ v[0];
        v[0] = sip_rotl(v[0], 32);
        v[2] += v[3];
        v[3] = sip_rotl(v[3], 16) ^ v[2];
        v[0] += v[3];
        v[3] = sip_rotl(v[3], 21) ^ v[0];
        v[2] += v[1];
        v[1] = sip_rotl(v[1], 17) ^ v[2];
        v[2] = sip_rotl(v[2], 32);
    }
}

/* `length` is a multiple of eight; little endian. */
static inline void ferry_siphash128(const uint8_t *data, size_t length, const uint8_t key[16], uint8_t out[16]) {
    uint64_t k[2], word;
    memcpy(k, key, 16);
    uint64_t v[4] = {k[0] ^ 0x736f6d6570736575ull, k[1] ^ 0x646f72616e646f6dull ^ 0xee,
                     k[0] ^ 0x6c7967656e657261ull, k[1] ^ 0x7465646279746573ull};
    for (size_t at = 0; at < length; at += 8) {
        memcpy(&word, data + at, 8);
        v[3] ^= word;
        sip_rounds(v, 2);
        v[0] ^= word;
    }
    word = (uint64_t)length << 56;
    v[3] ^= word;
    sip_rounds(v, 2);
    v[0] ^= word;
    v[2] ^= 0xee;
    sip_rounds(v, 4);
    word = v[0] ^ v[1] ^ v[2] ^ v[3];
    memcpy(out, &word, 8);
    v[1] ^= 0xdd;
    sip_rounds(v, 4);
    word = v[0] ^ v[1] ^ v[2] ^ v[3];
    memcpy(out + 8, &word, 8);
}

#endif
